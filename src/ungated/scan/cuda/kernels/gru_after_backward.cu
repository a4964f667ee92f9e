// The way back of the GRU with its reset gate after the product; notation and gradients as in scan/gru_torch.py.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = Step::N;
  lay_out_all<Step>(m, [&](int, int k, int unit, int) {
    return k < 2 * n ? x.W_hg[unit * 2 * n + k] : x.W_hc[unit * n + k - 2 * n];
  });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  constexpr int MINE = per_thread<Step>;
  float G_h[MINE], G_c[MINE], gates[MINE][3], mask[MINE], q[MINE], h[MINE], given[MINE];
  long long end[MINE];  // G_h: what u carries back
  auto load = [&](long long t, int i, int unit, int row) {
    const long long at = t * B + m.first + row, own = (m.first + row) * n + unit;
    given[i] = x.grad_features ? x.grad_features[at * n + unit] : 0.0f;
    mask[i] = MASKED ? x.mask[t * x.mask_step + own] : 1.0f;
    q[i] = x.q[at * n + unit];
    h[i] = RAGGED ? x.h[at * n + unit] : t > 0 ? x.features[(at - B) * n + unit] : x.h0[own];
#pragma unroll
    for (int gate = 0; gate < 3; gate++) gates[i][gate] = x.gates[at * 3 * n + gate * n + unit];
  };
  auto pass = [&](long long t, int i, int unit, int row, float more) {
    float* z = gates[i];
    const float r = z[0], u = z[1], c = z[2], later = G_h[i] + more;
    const bool over = t >= end[i];
    const float G = over ? given[i] : later + given[i];
    G_c[i] = G * (1.0f - u) * mask[i] * (1.0f - c * c);
    z[0] = G_c[i] * q[i] * r * (1.0f - r);
    z[1] = G * (h[i] - c * mask[i]) * u * (1.0f - u);
    z[2] = G_c[i] * r;
    G_h[i] = G * u + (over ? later : 0.0f);
#pragma unroll
    for (int gate = 0; gate < 3; gate++) hand_on<Z>(m, t % 2, gate * n + unit, row, z[gate]);
  };
  auto keep = [&](long long t, int i, int unit, int row) {
    const long long at = t * B + m.first + row;
    x.G_c[at * n + unit] = G_c[i];
#pragma unroll
    for (int gate = 0; gate < 3; gate++) x.G_z[at * 3 * n + gate * n + unit] = gates[i][gate];
  };

  const long long last = x.T - 1;
  each<Step>(m, [&](int i, int unit, int row, int) {
    G_h[i] = x.grad_h ? x.grad_h[(m.first + row) * n + unit] : 0.0f, end[i] = m.end_of(row);
    load(last, i, unit, row);
    pass(last, i, unit, row, 0.0f);
  });
  m.arrive();
  each<Step>(m, [&](int i, int unit, int row, int) { keep(last, i, unit, row); });
  for (long long t = last - 1; t >= -1; t--) {
    bool there = phase<Step>(
        m, slab<Step>(m), exchanged<Z>(m, (t + 1) % 2),
        [&](int i, int unit, int row, int) {
          if (t >= 0) load(t, i, unit, row);
        },
        Nothing(), Nothing(),
        [&](int i, int unit, int row, int, const float* sums) {
          if (t >= 0) pass(t, i, unit, row, sums[0]);
          else G_h[i] += sums[0];
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
          if (t >= 0) return keep(t, i, unit, row);
          x.G_h0[(m.first + row) * n + unit] = G_h[i];
        });
    if (!there) return;
  }
}
