// The way back of the RHN along time; notation and gradients as in scan/rhn_torch.py. The phase of micro-step l takes
// the gradients by its gates, and ends with those by the gates of the micro-step before it.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = Micro::N;
  lay_out_all<Micro>(m, [&](int l, int k, int unit, int) {
    return k < n ? x.R_H[(l * n + unit) * n + k] : x.R_T[(l * n + unit) * n + k - n];
  });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  constexpr int MINE = per_thread<Micro>;
  float G_s[MINE], kept[MINE], mask[MINE], gates[MINE][2], before[MINE], given[MINE];
  long long end[MINE];
  auto load = [&](long long t, int l, int i, int unit, int row) {  // what micro-step l of step t needs
    const long long at = t * B + m.first + row, own = (m.first + row) * n + unit;
    if (l + 1 == DEPTH) given[i] = x.grad_features ? x.grad_features[at * n + unit] : 0.0f;
    if (l > 0) before[i] = x.inner[((l - 1) * x.T * B + at) * n + unit];
    else before[i] = RAGGED ? x.s[at * n + unit] : t > 0 ? x.features[(at - B) * n + unit] : x.s0[own];
#pragma unroll
    for (int gate = 0; gate < 2; gate++) gates[i][gate] = x.gates[(l * x.T * B + at) * 2 * n + gate * n + unit];
  };
  auto pass = [&](long long t, int l, int turn, int i, int unit, int row) {
    if (l + 1 == DEPTH) {
      const bool over = t >= end[i];
      mask[i] = MASKED ? x.mask[t * x.mask_step + (m.first + row) * n + unit] : 1.0f;
      kept[i] = over ? G_s[i] : 0.0f;
      G_s[i] = over ? given[i] : G_s[i] + given[i];
    }
    float* z = gates[i];
    const float h = z[0], transform = z[1];
    z[0] = G_s[i] * transform * (1.0f - h * h);
    z[1] = G_s[i] * (h - before[i]) * transform * (1.0f - transform);
    G_s[i] *= 1.0f - transform;
    hand_on<Z>(m, turn, unit, row, z[0]);
    hand_on<Z>(m, turn, n + unit, row, z[1]);
  };
  auto keep = [&](long long t, int l, int i, int unit, int row) {
#pragma unroll
    for (int gate = 0; gate < 2; gate++)
      x.G_z[(l * x.T * B + t * B + m.first + row) * 2 * n + gate * n + unit] = gates[i][gate];
  };

  each<Micro>(m, [&](int i, int unit, int row, int) {
    G_s[i] = x.grad_s ? x.grad_s[(m.first + row) * n + unit] : 0.0f, end[i] = m.end_of(row);
    load(x.T - 1, DEPTH - 1, i, unit, row);
    pass(x.T - 1, DEPTH - 1, 0, i, unit, row);
  });
  m.arrive();
  each<Micro>(m, [&](int i, int unit, int row, int) { keep(x.T - 1, DEPTH - 1, i, unit, row); });
  int turn = 0;
  for (long long t = x.T - 1; t >= 0; t--) {
#pragma unroll 1
    for (int l = DEPTH - 1; l >= 0; l--, turn ^= 1) {
      const long long next_t = l > 0 ? t : t - 1;
      const int next_l = l > 0 ? l - 1 : DEPTH - 1;
      bool there = phase<Micro>(
          m, slab<Micro>(m, l), exchanged<Z>(m, turn),
          [&](int i, int unit, int row, int) {
            if (next_t >= 0) load(next_t, next_l, i, unit, row);
          },
          Nothing(), Nothing(),
          [&](int i, int unit, int row, int, const float* sums) {
            G_s[i] += mask[i] * sums[0];
            if (l == 0) G_s[i] += kept[i];
            if (next_t >= 0) pass(next_t, next_l, turn ^ 1, i, unit, row);
          },
          Nothing(),
          [&](int i, int unit, int row, int) {
            if (next_t >= 0) keep(next_t, next_l, i, unit, row);
            else x.G_s0[(m.first + row) * n + unit] = G_s[i];
          });
      if (!there) return;
    }
  }
}
