// The way back of the GRU with its reset gate before the product; notation and gradients as in scan/gru_torch.py.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = Gates::N;
  lay_out_all<Candidate>(m, [&](int, int k, int unit, int) { return x.W_hc[unit * n + k]; });
  lay_out_all<Gates>(m, [&](int, int k, int unit, int) { return x.W_hg[unit * 2 * n + k]; });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  constexpr int MINE = per_thread<Gates>;
  float G_h[MINE], gates[MINE][3], mask[MINE], h[MINE], given[MINE];
  long long end[MINE];  // G_h: what u and r carry back
  auto load = [&](long long t, int i, int unit, int row) {  // what u and c of step t need, and r after them
    const long long at = t * B + m.first + row, own = (m.first + row) * n + unit;
    given[i] = x.grad_features ? x.grad_features[at * n + unit] : 0.0f;
    mask[i] = MASKED ? x.mask[t * x.mask_step + own] : 1.0f;
    h[i] = RAGGED ? x.h[at * n + unit] : t > 0 ? x.features[(at - B) * n + unit] : x.h0[own];
#pragma unroll
    for (int gate = 0; gate < 3; gate++) gates[i][gate] = x.gates[at * 3 * n + gate * n + unit];
  };
  auto pass = [&](long long t, int i, int unit, int row, float more) {
    float* z = gates[i];
    const float u = z[1], c = z[2], later = G_h[i] + more;
    const bool over = t >= end[i];
    const float G = over ? given[i] : later + given[i];
    z[1] = G * (h[i] - c * mask[i]) * u * (1.0f - u);
    z[2] = G * (1.0f - u) * mask[i] * (1.0f - c * c);
    G_h[i] = G * u + (over ? later : 0.0f);
    hand_on<C>(m, 0, unit, row, z[2]);
  };

  each<Gates>(m, [&](int i, int unit, int row, int) {
    G_h[i] = x.grad_h ? x.grad_h[(m.first + row) * n + unit] : 0.0f, end[i] = m.end_of(row);
    load(x.T - 1, i, unit, row);
    pass(x.T - 1, i, unit, row, 0.0f);
  });
  m.arrive();
  for (long long t = x.T - 1; t >= 0; t--) {
    bool there = phase<Candidate>(
        m, slab<Candidate>(m), exchanged<C>(m, 0), Nothing(), Nothing(), Nothing(),
        [&](int i, int unit, int row, int, const float* sums) {
          const float r = gates[i][0];
          gates[i][0] = sums[0] * h[i] * r * (1.0f - r);
          G_h[i] += sums[0] * r;
          hand_on<Z>(m, 0, unit, row, gates[i][0]);
          hand_on<Z>(m, 0, n + unit, row, gates[i][1]);
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
#pragma unroll
          for (int gate = 0; gate < 3; gate++)
            x.G_z[(t * B + m.first + row) * 3 * n + gate * n + unit] = gates[i][gate];
        });
    if (!there) return;
    there = phase<Gates>(
        m, slab<Gates>(m), exchanged<Z>(m, 0),
        [&](int i, int unit, int row, int) {
          if (t > 0) load(t - 1, i, unit, row);
        },
        Nothing(), Nothing(),
        [&](int i, int unit, int row, int, const float* sums) {
          if (t > 0) pass(t - 1, i, unit, row, sums[0]);
          else G_h[i] += sums[0];
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
          if (t == 0) x.G_h0[(m.first + row) * n + unit] = G_h[i];
        });
    if (!there) return;
  }
}
