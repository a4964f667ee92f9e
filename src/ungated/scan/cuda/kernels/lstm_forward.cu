// The LSTM along time; notation as in cells/lstm.py.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = Step::N;
  lay_out_all<Step>(m, [&](int, int k, int unit, int gate) { return x.W_h[k * 4 * n + gate * n + unit]; });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  float c[per_thread<Step>], h[per_thread<Step>];
  long long end[per_thread<Step>];
  each<Step>(m, [&](int i, int unit, int row, int) {
    const long long at = (m.first + row) * n + unit;
    c[i] = x.c0[at], h[i] = x.h0[at], end[i] = m.end_of(row);
    hand_on<H>(m, 0, unit, row, h[i]);
    if (RAGGED && x.save) x.h[at] = h[i];
  });
  m.arrive();
  for (long long t = 0; t < x.T; t++) {
    const long long at = t * B + m.first;
    float gates[per_thread<Step>][4], mask[per_thread<Step>], feature[per_thread<Step>];
    bool there = phase<Step>(
        m, slab<Step>(m), exchanged<H>(m, t % 2),
        [&](int i, int unit, int row, int) {
#pragma unroll
          for (int gate = 0; gate < 4; gate++) gates[i][gate] = x.drive[(at + row) * 4 * n + gate * n + unit];
          mask[i] = MASKED ? x.mask[t * x.mask_step + (m.first + row) * n + unit] : 1.0f;
        },
        Nothing(), Nothing(),
        [&](int i, int unit, int row, int, const float* sums) {
          float* z = gates[i];
          z[0] = sigmoid(z[0] + sums[0]);
          z[1] = tanhf(z[1] + sums[1]);
          z[2] = sigmoid(z[2] + sums[2] + static_cast<float>(x.forget_bias));
          z[3] = sigmoid(z[3] + sums[3]);
          const float new_c = c[i] * z[2] + z[0] * (z[1] * mask[i]);
          feature[i] = tanhf(new_c) * z[3];
          if (t < end[i]) c[i] = new_c, h[i] = feature[i];
          hand_on<H>(m, (t + 1) % 2, unit, row, h[i]);
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
          x.features[(at + row) * n + unit] = feature[i];
          if (x.save) {
            x.c[(at + row) * n + unit] = c[i];
#pragma unroll
            for (int gate = 0; gate < 4; gate++) x.gates[(at + row) * 4 * n + gate * n + unit] = gates[i][gate];
          }
          if (RAGGED && x.save && t + 1 < x.T) x.h[(at + B + row) * n + unit] = h[i];
          if (t + 1 == x.T) {
            x.last_h[(m.first + row) * n + unit] = h[i];
            x.last_c[(m.first + row) * n + unit] = c[i];
          }
        });
    if (!there) return;
  }
}
