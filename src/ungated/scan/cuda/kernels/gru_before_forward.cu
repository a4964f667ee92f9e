// The GRU with its reset gate before the product, along time; notation as in cells/gru.py. A block has the same units
// in both products, and keeps what the second phase needs of the first.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = Gates::N;
  lay_out_all<Gates>(m, [&](int, int k, int unit, int gate) { return x.W_hg[k * 2 * n + gate * n + unit]; });
  lay_out_all<Candidate>(m, [&](int, int k, int unit, int) { return x.W_hc[k * n + unit]; });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  constexpr int MINE = per_thread<Gates>;
  float h[MINE], gates[MINE][2], c[MINE], mask[MINE], feature[MINE];
  long long end[MINE];
  each<Gates>(m, [&](int i, int unit, int row, int) {
    h[i] = x.h0[(m.first + row) * n + unit], end[i] = m.end_of(row);
    hand_on<H>(m, 0, unit, row, h[i]);
    if (RAGGED && x.save) x.h[(m.first + row) * n + unit] = h[i];
  });
  m.arrive();
  for (long long t = 0; t < x.T; t++) {
    const long long at = t * B + m.first;
    bool there = phase<Gates>(
        m, slab<Gates>(m), exchanged<H>(m, 0),
        [&](int i, int unit, int row, int) {
#pragma unroll
          for (int gate = 0; gate < 2; gate++) gates[i][gate] = x.drive[(at + row) * 3 * n + gate * n + unit];
        },
        Nothing(), Nothing(),
        [&](int i, int unit, int row, int, const float* sums) {
#pragma unroll
          for (int gate = 0; gate < 2; gate++) gates[i][gate] = sigmoid(gates[i][gate] + sums[gate]);
          hand_on<R>(m, 0, unit, row, gates[i][0] * h[i]);
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
          if (x.save)
#pragma unroll
            for (int gate = 0; gate < 2; gate++) x.gates[(at + row) * 3 * n + gate * n + unit] = gates[i][gate];
        });
    if (!there) return;
    there = phase<Candidate>(
        m, slab<Candidate>(m), exchanged<R>(m, 0),
        [&](int i, int unit, int row, int) {
          c[i] = x.drive[(at + row) * 3 * n + 2 * n + unit];
          mask[i] = MASKED ? x.mask[t * x.mask_step + (m.first + row) * n + unit] : 1.0f;
        },
        Nothing(), Nothing(),
        [&](int i, int unit, int row, int, const float* sums) {
          const float u = gates[i][1];
          c[i] = tanhf(c[i] + sums[0]);
          feature[i] = u * h[i] + (1.0f - u) * (c[i] * mask[i]);
          if (t < end[i]) h[i] = feature[i];
          hand_on<H>(m, 0, unit, row, h[i]);
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
          x.features[(at + row) * n + unit] = feature[i];
          if (RAGGED && x.save && t + 1 < x.T) x.h[(at + B + row) * n + unit] = h[i];
          if (x.save) x.gates[(at + row) * 3 * n + 2 * n + unit] = c[i];
          if (t + 1 == x.T) x.last[(m.first + row) * n + unit] = h[i];
        });
    if (!there) return;
  }
}
