// The GRU with its reset gate after the product, along time; notation as in cells/gru.py, q = h W_hc + b_hc.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = Step::N;
  lay_out_all<Step>(m, [&](int, int k, int unit, int gate) {
    return gate < 2 ? x.W_hg[k * 2 * n + gate * n + unit] : x.W_hc[k * n + unit];
  });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  float h[per_thread<Step>], b[per_thread<Step>];
  long long end[per_thread<Step>];
  each<Step>(m, [&](int i, int unit, int row, int) {
    h[i] = x.h0[(m.first + row) * n + unit], b[i] = x.b_hc[unit], end[i] = m.end_of(row);
    hand_on<H>(m, 0, unit, row, h[i]);
    if (RAGGED && x.save) x.h[(m.first + row) * n + unit] = h[i];
  });
  m.arrive();
  for (long long t = 0; t < x.T; t++) {
    const long long at = t * B + m.first;
    float gates[per_thread<Step>][3], mask[per_thread<Step>], q[per_thread<Step>], feature[per_thread<Step>];
    bool there = phase<Step>(
        m, slab<Step>(m), exchanged<H>(m, t % 2),
        [&](int i, int unit, int row, int) {
#pragma unroll
          for (int gate = 0; gate < 3; gate++) gates[i][gate] = x.drive[(at + row) * 3 * n + gate * n + unit];
          mask[i] = MASKED ? x.mask[t * x.mask_step + (m.first + row) * n + unit] : 1.0f;
        },
        Nothing(), Nothing(),
        [&](int i, int unit, int row, int, const float* sums) {
          float* z = gates[i];
          z[0] = sigmoid(z[0] + sums[0]);
          z[1] = sigmoid(z[1] + sums[1]);
          q[i] = sums[2] + b[i];
          z[2] = tanhf(z[2] + z[0] * q[i]);
          feature[i] = z[1] * h[i] + (1.0f - z[1]) * (z[2] * mask[i]);
          if (t < end[i]) h[i] = feature[i];
          hand_on<H>(m, (t + 1) % 2, unit, row, h[i]);
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
          x.features[(at + row) * n + unit] = feature[i];
          if (x.save) {
            x.q[(at + row) * n + unit] = q[i];
#pragma unroll
            for (int gate = 0; gate < 3; gate++) x.gates[(at + row) * 3 * n + gate * n + unit] = gates[i][gate];
          }
          if (RAGGED && x.save && t + 1 < x.T) x.h[(at + B + row) * n + unit] = h[i];
          if (t + 1 == x.T) x.last[(m.first + row) * n + unit] = h[i];
        });
    if (!there) return;
  }
}
