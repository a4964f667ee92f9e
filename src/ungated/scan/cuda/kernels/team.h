// The blocks that share a slice of a batch's rows, and how they wait for each other.
//
// A team of CTAS blocks owns ROWS rows; its blocks own the columns of every weight between them. After each phase they
// meet: each has written its part of the activations, and needs those of all. A team of one needs no more than the
// block's own barrier.


struct Team {
  const Arguments& x;
  int thread, warp, lane;
  int rank, team;   // of this block in its team; of the team
  long long first;  // row of the batch
  int rows;         // that there are of ROWS
  unsigned char *exchange, *local;
  unsigned* counter;
  unsigned met = 0;

  explicit Team(const Arguments& x) : x(x) {
    thread = thread_index(), warp = thread / 32, lane = thread % 32;
    rank = block_index() % CTAS, team = block_index() / CTAS;
    first = x.first + static_cast<long long>(team) * ROWS;
    rows = x.B - first < ROWS ? static_cast<int>(x.B - first) : ROWS;
    local = shared();
    exchange = reinterpret_cast<unsigned char*>(x.exchange) + static_cast<long long>(team) * EXCHANGE_BYTES;
    if (CTAS == 1) exchange = local + EXCHANGE_AT;
    counter = reinterpret_cast<unsigned*>(x.counters) + (1 + team) * 32;
    if (thread == 0) stopped() = 0;
    if (CTAS == 1)
      for (int i = thread; i < EXCHANGE_BYTES / 16; i += THREADS)
        reinterpret_cast<Quad*>(exchange)[i] = Quad{0, 0, 0, 0};
    block_barrier();
  }

  int& stopped() const { return *reinterpret_cast<int*>(local + STOPPED_AT); }

  // The first time step that a row does not take; its state stays as it is from there on.
  long long end_of(int row) const { return RAGGED ? reinterpret_cast<const long long*>(x.lengths)[first + row] : x.T; }

  // What this block has written is ready for the others.
  void arrive() {
    block_barrier();
    if (CTAS > 1) {
      met++;
      if (thread == 0) count_up(counter);
    }
  }

  // Until all have arrived as often as this block has; false: one never came, and the scan is off.
  bool wait() { return CTAS == 1 || wait_for(counter, met * CTAS); }

  // Once, before the first phase, where blocks read weights that those of another team have laid out.
  bool meet_all(unsigned blocks) {
    unsigned* all = reinterpret_cast<unsigned*>(x.counters);
    block_barrier();
    if (thread == 0) count_up(all);
    return wait_for(all, blocks);
  }

 private:
  bool wait_for(const unsigned* counter, unsigned target) {
    if (thread == 0) {
      long long start = 0;
      for (unsigned polls = 1; static_cast<int>(count_of(counter) - target) < 0; polls++) {
        if (polls % 1024) continue;
        if (start == 0) start = nanoseconds();
        if (nanoseconds() - start < x.patience) continue;
        stopped() = 1;
        raise_flag(reinterpret_cast<int*>(x.flag));
        break;
      }
    }
    block_barrier();
    if (!stopped()) return true;
    spoil(x.spoil_0, x.spoil_0_size);
    spoil(x.spoil_1, x.spoil_1_size);
    spoil(x.spoil_2, x.spoil_2_size);
    return false;
  }

  // No number that was not computed shall pass for one.
  void spoil(float* result, long long size) const {
    for (long long i = block_index() * THREADS + thread; i < size; i += x.blocks * THREADS) result[i] = NOT_A_NUMBER;
  }
};
