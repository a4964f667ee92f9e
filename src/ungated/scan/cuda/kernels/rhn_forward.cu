// The RHN along time; notation as in cells/rhn.py, one phase for each micro-step.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = Micro::N;
  lay_out_all<Micro>(m, [&](int l, int k, int unit, int gate) {
    return (gate ? x.R_T : x.R_H)[(l * n + k) * n + unit];
  });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  constexpr int MINE = per_thread<Micro>;
  float s[MINE], outer[MINE], mask[MINE];  // outer: s before the step
  long long end[MINE];
  each<Micro>(m, [&](int i, int unit, int row, int) {
    const long long at = (m.first + row) * n + unit;
    s[i] = outer[i] = x.s0[at], end[i] = m.end_of(row);
    mask[i] = MASKED ? x.mask[at] : 1.0f;
    hand_on<S>(m, 0, unit, row, s[i] * mask[i]);
    if (RAGGED && x.save) x.s[at] = s[i];
  });
  m.arrive();
  int turn = 0;
  for (long long t = 0; t < x.T; t++) {
    const long long at = t * B + m.first;
#pragma unroll 1
    for (int l = 0; l < DEPTH; l++, turn ^= 1) {
      const bool last = l + 1 == DEPTH;
      float gates[MINE][2], before[MINE];
      bool there = phase<Micro>(
          m, slab<Micro>(m, l), exchanged<S>(m, turn),
          [&](int i, int unit, int row, int) {
            gates[i][0] = x.b_H[l * n + unit], gates[i][1] = x.b_T[l * n + unit];
            if (l == 0)
#pragma unroll
              for (int gate = 0; gate < 2; gate++) gates[i][gate] += x.drive[(at + row) * 2 * n + gate * n + unit];
            if (MASKED && last && t + 1 < x.T) mask[i] = x.mask[(t + 1) * x.mask_step + (m.first + row) * n + unit];
          },
          Nothing(), Nothing(),
          [&](int i, int unit, int row, int, const float* sums) {
            before[i] = s[i];
            gates[i][0] = tanhf(gates[i][0] + sums[0]);
            gates[i][1] = sigmoid(gates[i][1] + sums[1]);
            s[i] += (gates[i][0] - s[i]) * gates[i][1];
            hand_on<S>(m, turn ^ 1, unit, row, (last && t >= end[i] ? outer[i] : s[i]) * mask[i]);
          },
          Nothing(),
          [&](int i, int unit, int row, int) {
            if (x.save) {
              if (l > 0) x.inner[((l - 1) * x.T * B + at + row) * n + unit] = before[i];
#pragma unroll
              for (int gate = 0; gate < 2; gate++)
                x.gates[(l * x.T * B + at + row) * 2 * n + gate * n + unit] = gates[i][gate];
            }
            if (!last) return;
            x.features[(at + row) * n + unit] = s[i];
            s[i] = outer[i] = t < end[i] ? s[i] : outer[i];
            if (RAGGED && x.save && t + 1 < x.T) x.s[(at + B + row) * n + unit] = s[i];
            if (t + 1 == x.T) x.last[(m.first + row) * n + unit] = s[i];
          });
      if (!there) return;
    }
  }
}
