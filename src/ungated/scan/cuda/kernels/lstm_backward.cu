// The way back of the LSTM along time; notation and gradients as in scan/lstm_torch.py. x.c is the state after each
// step.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = Step::N;
  lay_out_all<Step>(m, [&](int, int k, int unit, int) { return x.W_h[unit * 4 * n + k]; });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  constexpr int MINE = per_thread<Step>;
  float G_c[MINE], G_h[MINE], gates[MINE][4], mask[MINE], c[MINE];
  float kept[MINE];  // past steps that a row did not take
  long long end[MINE];
  auto load = [&](long long t, int i, int unit, int row) {  // what the gates of step t need
    const long long at = t * B + m.first + row, own = (m.first + row) * n + unit;
    G_h[i] = x.grad_features ? x.grad_features[at * n + unit] : 0.0f;
    mask[i] = MASKED ? x.mask[t * x.mask_step + own] : 1.0f;
    c[i] = t > 0 ? x.c[(at - B) * n + unit] : x.c0[own];
#pragma unroll
    for (int gate = 0; gate < 4; gate++) gates[i][gate] = x.gates[at * 4 * n + gate * n + unit];
  };
  auto pass = [&](long long t, int i, int unit, int row, float more) {  // more: what later steps add to G_h
    float* z = gates[i];
    const float in = z[0], candidate = z[1], forget = z[2], out = z[3];
    const float tanh_c = tanhf(c[i] * forget + in * (candidate * mask[i]));
    const bool over = t >= end[i];
    const float G = over ? G_h[i] : G_h[i] + (kept[i] + more);
    const float through_c = G * out * (1.0f - tanh_c * tanh_c) + (over ? 0.0f : G_c[i]);
    z[0] = through_c * (candidate * mask[i]) * in * (1.0f - in);
    z[1] = through_c * (in * mask[i]) * (1.0f - candidate * candidate);
    z[2] = through_c * c[i] * forget * (1.0f - forget);
    z[3] = G * tanh_c * out * (1.0f - out);
    G_c[i] = through_c * forget + (over ? G_c[i] : 0.0f);
    kept[i] = over ? kept[i] + more : 0.0f;
#pragma unroll
    for (int gate = 0; gate < 4; gate++) hand_on<Z>(m, t % 2, gate * n + unit, row, z[gate]);
  };
  auto keep = [&](long long t, int i, int unit, int row) {
#pragma unroll
    for (int gate = 0; gate < 4; gate++)
      x.G_z[(t * B + m.first + row) * 4 * n + gate * n + unit] = gates[i][gate];
  };

  const long long last = x.T - 1;
  each<Step>(m, [&](int i, int unit, int row, int) {
    const long long own = (m.first + row) * n + unit;
    G_c[i] = x.grad_c ? x.grad_c[own] : 0.0f, kept[i] = 0.0f, end[i] = m.end_of(row);
    load(last, i, unit, row);
    pass(last, i, unit, row, x.grad_h ? x.grad_h[own] : 0.0f);
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
          else G_h[i] = sums[0] + kept[i];
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
          if (t >= 0) return keep(t, i, unit, row);
          x.G_h0[(m.first + row) * n + unit] = G_h[i];
          x.G_c0[(m.first + row) * n + unit] = G_c[i];
        });
    if (!there) return;
  }
}
