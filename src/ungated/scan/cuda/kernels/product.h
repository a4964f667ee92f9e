// A phase: a product of exchanged activations with the columns of a weight that a block owns, and what follows it for
// each of its units. A product P has K terms and N units of GATES columns; a block owns UNITS units, whose columns
// lie side by side in TILES tiles. Warps divide the terms (WK ways) and the tiles; what they found is added in a
// fixed order.


// Column `unit * GATES + gate` of tile-wise weights in the team's memory, padded with zeros. value(k, unit, gate).
template <class P, class Value>
inline void lay_out(const Team& m, Quad* slab, Value value) {
  constexpr int COLUMNS = P::TILES * 16, ALL = P::BLOCKS * TERMS * COLUMNS;
  unsigned char* bytes = reinterpret_cast<unsigned char*>(slab);
#pragma unroll 1
  for (int i = m.thread; i < ALL; i += THREADS) {
    const int column = i % COLUMNS, k = i / COLUMNS, own = column / P::GATES, unit = m.rank * P::UNITS + own;
    const bool there = k < P::K && own < P::UNITS && unit < P::N;
    const int block = column / 16 * P::BLOCKS + k / TERMS;
    put(bytes + block * 1024 + weight_at(column % 16, k % TERMS), there ? value(k, unit, column % P::GATES) : 0.0f);
  }
}

// Where a block's columns of the product's weight number `which` are: on chip, or in the device's memory.
template <class P>
inline Quad* slab(const Team& m, int which = 0) {
  constexpr int SIZE = P::TILES * P::BLOCKS * WEIGHTS;
  Quad* near = reinterpret_cast<Quad*>(m.local + P::SLAB_AT) + which * SIZE;
  if (P::RESIDENT == P::COUNT) return near;
  Quad* far = reinterpret_cast<Quad*>(m.x.scratch) + P::SCRATCH_AT;
  far += static_cast<long long>(which * CTAS + m.rank) * SIZE;
  return which < P::RESIDENT ? near : far;
}

// Lay out every weight of a product that is this block's to lay out: value(which, k, unit, gate).
template <class P, class Value>
inline void lay_out_all(const Team& m, Value value) {
#pragma unroll 1
  for (int which = 0; which < P::COUNT; which++)
    if (which < P::RESIDENT || m.team == 0)
      lay_out<P>(m, slab<P>(m, which), [&](int k, int unit, int gate) { return value(which, k, unit, gate); });
}

// The same for weights as they are in memory, (COUNT, K, N); or, as the way back takes them, (COUNT, N, K).
template <class P>
inline void lay_out_matrices(const Team& m, const float* W) {
  const long long K = P::K, N = P::N;
  lay_out_all<P>(m, [&](int which, int k, int unit, int) { return W[(which * K + k) * N + unit]; });
}
template <class P>
inline void lay_out_transposed(const Team& m, const float* W) {
  const long long K = P::K, N = P::N;
  lay_out_all<P>(m, [&](int which, int k, int unit, int) { return W[(which * N + unit) * K + k]; });
}

template <class X>
inline unsigned char* exchanged(const Team& m, int turn) {
  return m.exchange + X::AT + (turn % 2) * X::BLOCKS * NT * 512;
}

// Hand term k of a row on to the phase that takes X.
template <class X>
inline void hand_on(const Team& m, int turn, int k, int row, float value) {
  put(exchanged<X>(m, turn) + (k / TERMS * NT + row / 8) * 512 + row_at(row % 8, k % TERMS), value);
}

template <class P>
inline constexpr int per_thread = (P::UNITS * ROWS + THREADS - 1) / THREADS;

// f(i, unit, row of the team, own unit) for this thread's share of the block's results; i numbers them.
template <class P, class Each>
inline void each(const Team& m, Each f) {
#pragma unroll
  for (int i = 0; i < per_thread<P>; i++) {
    const int entry = i * THREADS + m.thread, own = entry % P::UNITS, row = entry / P::UNITS;
    const int unit = m.rank * P::UNITS + own;
    if (row < m.rows && unit < P::N) f(i, unit, row, own);
  }
}

template <int COUNT>
inline void load_rows(Quad (&rows)[COUNT][NT], const Quad* in, int block, int end, int lane) {
#pragma unroll
  for (int c = 0; c < COUNT; c++)
#pragma unroll
    for (int j = 0; j < NT; j++)
      if (block + c < end) {
        const Quad* from = in + ((block + c) * NT + j) * ROWS_OF_8 + lane;
        rows[c][j] = CTAS == 1 ? *from : load_exchanged(from);
      }
}

// The warp's part of the product goes to its place among the partial sums.
template <class P>
inline void multiply(const Team& m, const Quad* weights, const Quad* in) {
  constexpr int TILES = P::TILES_W < PASS ? P::TILES_W : PASS;  // whose sums registers hold at once
  float* partial = reinterpret_cast<float*>(m.local + PARTIAL_AT);
  float* stage = reinterpret_cast<float*>(m.local + STAGE_AT) + m.warp * ROWS * 20;
  const int part = m.warp % P::WK, tile0 = m.warp / P::WK * P::TILES_W;
  const int tiles = tile0 + P::TILES_W < P::TILES ? tile0 + P::TILES_W : P::TILES;
  const int begin = part * P::BLOCKS_W;
  const int end = unknown(begin + P::BLOCKS_W < P::BLOCKS ? begin + P::BLOCKS_W : P::BLOCKS);
#pragma unroll 1
  for (int tile = tile0; tile < tiles; tile += TILES) {
    float sum[TILES][NT][4] = {};
    Quad rows[AHEAD][NT] = {}, next[AHEAD][NT] = {};
    load_rows(rows, in, begin, end, m.lane);
#pragma unroll 1
    for (int block = begin; block < end; block += AHEAD) {
      load_rows(next, in, block + AHEAD, end, m.lane);
#pragma unroll
      for (int c = 0; c < AHEAD; c++)
        if (block + c < end) {
          if (MODE == FP32) stage_block(rows[c], m.lane, stage);
#pragma unroll
          for (int i = 0; i < TILES; i++)
            if (tile + i < tiles)
              multiply_block(sum[i], weights + ((tile + i) * P::BLOCKS + block + c) * WEIGHTS, rows[c], m.lane, stage);
        }
#pragma unroll
      for (int c = 0; c < AHEAD; c++)
#pragma unroll
        for (int j = 0; j < NT; j++) rows[c][j] = next[c][j];
    }
#pragma unroll
    for (int i = 0; i < TILES; i++)
      if (tile + i < tiles)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int row = j * 8 + m.lane % 4 * 2 + e % 2, column = (tile + i) * 16 + m.lane / 4 + e / 2 * 8;
            partial[(part * ROWS + row) * P::LD + column] = sum[i][j][e];
          }
  }
}

// A product, all of its block's: apply(i, unit, row, own unit, sums of the unit's gates) for every result of this
// thread, after() once before that. The partial sums are free again behind the next barrier.
template <class P, class After, class Apply>
inline void results(const Team& m, const Quad* weights, const unsigned char* in, After after, Apply apply) {
  multiply<P>(m, weights, reinterpret_cast<const Quad*>(in));
  after();
  block_barrier();
  const float* partial = reinterpret_cast<const float*>(m.local + PARTIAL_AT);
  each<P>(m, [&](int i, int unit, int row, int own) {
    float sums[P::GATES];
#pragma unroll
    for (int gate = 0; gate < P::GATES; gate++) {
      sums[gate] = 0.0f;
#pragma unroll
      for (int part = 0; part < P::WK; part++)
        sums[gate] += partial[(part * ROWS + row) * P::LD + own * P::GATES + gate];
    }
    apply(i, unit, row, own, sums);
  });
}

// One phase, in this order, where f stands for f(i, unit, row, own unit) of every result of this thread:
//   before f   loads what does not wait for other blocks' activations
//   during()   loads what does, beside the product
//   after()    the product is done; its results are seen after a barrier
//   apply f    takes the sums of the unit's gates too, and hands activations on
//   close()    hands on what is not of one result
//   finish f   writes what no other block waits for
// False: a block never came.
template <class P, class Before, class During, class After, class Apply, class Close, class Finish>
inline bool phase(Team& m, const Quad* weights, const unsigned char* in, Before before, During during, After after,
                  Apply apply, Close close, Finish finish) {
  each<P>(m, before);
  if (!m.wait()) return false;
  during();
  results<P>(m, weights, in, after, apply);
  close();
  m.arrive();
  each<P>(m, finish);
  return true;
}

struct Nothing {
  template <class... Any>
  void operator()(Any...) const {}
};

// A phase of P with weight number `which`, a product of two: where there are weights of First, P's are the second
// factor, and First hands its results on to P by X in a phase of its own; else P's are the whole.
template <class First, class X, class P, class Before, class Apply, class Finish>
inline bool factored_phase(Team& m, int which, const unsigned char* in, Before before, Apply apply, Finish finish) {
  if (First::COUNT > 0) {
    auto hand = [&](int, int unit, int row, int, const float* sums) { hand_on<X>(m, 0, unit, row, sums[0]); };
    if (!phase<First>(m, slab<First>(m, which), in, Nothing(), Nothing(), Nothing(), hand, Nothing(), Nothing()))
      return false;
    in = exchanged<X>(m, 0);
  }
  return phase<P>(m, slab<P>(m, which), in, before, Nothing(), Nothing(), apply, Nothing(), finish);
}
