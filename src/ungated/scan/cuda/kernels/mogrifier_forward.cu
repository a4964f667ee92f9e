// The Mogrifier LSTM along time; notation as in cells/mogrifier.py. x and h travel side by side, h from term SIDE on,
// and every round scales one of them where it lies: no block reads that one meanwhile.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, M = ToX::N, n = Step::N;
  lay_out_matrices<FromH>(m, x.A_x);
  lay_out_matrices<ToX>(m, x.B_x);
  lay_out_matrices<FromX>(m, x.A_h);
  lay_out_matrices<ToH>(m, x.B_h);
  lay_out_all<Step>(m, [&](int, int k, int unit, int gate) {
    if (k < M) return x.W_x[k * 4 * n + gate * n + unit];
    return k < SIDE ? 0.0f : x.W_h[(k - SIDE) * 4 * n + gate * n + unit];
  });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  constexpr int MINE = per_thread<Step>;
  float input[per_thread<ToX>], h[MINE], c[MINE], gated[MINE];  // gated: h as the rounds scale it
  long long end[MINE];
  auto enter = [&](long long t) {  // no round hands x on
    if (ROUNDS > 0 || t == x.T) return;
    each<ToX>(m, [&](int, int unit, int row, int) {
      hand_on<XH>(m, t % 2, unit, row, x.drive[(t * B + m.first + row) * M + unit]);
    });
  };
  each<Step>(m, [&](int i, int unit, int row, int) {
    const long long at = (m.first + row) * n + unit;
    h[i] = x.h0[at], c[i] = x.c0[at], end[i] = m.end_of(row);
    hand_on<XH>(m, 0, SIDE + unit, row, h[i]);
    if (RAGGED && x.save) x.h[at] = h[i];
  });
  enter(0);
  m.arrive();
  for (long long t = 0; t < x.T; t++) {
    const long long at = t * B + m.first;
    const unsigned char *on_x = exchanged<XH>(m, t % 2), *on_h = on_x + SIDE / TERMS * NT * 512;
    each<ToX>(m, [&](int i, int unit, int row, int) { input[i] = x.drive[(at + row) * M + unit]; });
    each<ToH>(m, [&](int i, int, int, int) { gated[i] = h[i]; });
#pragma unroll 1
    for (int k = 0; k < ROUNDS; k += 2) {
      {
        float e[per_thread<ToX>];  // half of the factor
        bool there = factored_phase<FromH, U, ToX>(
            m, k / 2, on_h, [&](int i, int unit, int, int) { e[i] = x.beta_x[k / 2 * M + unit]; },
            [&](int i, int unit, int row, int, const float* sums) {
              e[i] = sigmoid(e[i] + sums[0]);
              input[i] *= 2.0f * e[i];
              hand_on<XH>(m, t % 2, unit, row, input[i]);
            },
            [&](int i, int unit, int row, int) {
              if (x.save) x.e_x[(k / 2 * x.T * B + at + row) * M + unit] = e[i];
            });
        if (!there) return;
      }
      if (k + 1 == ROUNDS) break;
      float e[MINE];
      bool there = factored_phase<FromX, U, ToH>(
          m, k / 2, on_x, [&](int i, int unit, int, int) { e[i] = x.beta_h[k / 2 * n + unit]; },
          [&](int i, int unit, int row, int, const float* sums) {
            e[i] = sigmoid(e[i] + sums[0]);
            gated[i] *= 2.0f * e[i];
            hand_on<XH>(m, t % 2, SIDE + unit, row, gated[i]);
          },
          [&](int i, int unit, int row, int) {
            if (x.save) x.e_h[(k / 2 * x.T * B + at + row) * n + unit] = e[i];
          });
      if (!there) return;
    }
    float gates[MINE][4], mask[MINE], feature[MINE];
    bool there = phase<Step>(
        m, slab<Step>(m), on_x,
        [&](int i, int unit, int row, int) {
#pragma unroll
          for (int gate = 0; gate < 4; gate++) gates[i][gate] = x.b[gate * n + unit];
          mask[i] = MASKED ? x.mask[t * x.mask_step + (m.first + row) * n + unit] : 1.0f;
        },
        Nothing(), Nothing(),
        [&](int i, int unit, int row, int, const float* sums) {
          float* z = gates[i];
          z[0] = tanhf(z[0] + sums[0]);
#pragma unroll
          for (int gate = 1; gate < 4; gate++) z[gate] = sigmoid(z[gate] + sums[gate]);
          const float rest = 1.0f - z[2], share = rest < z[3] ? rest : z[3];
          const float new_c = z[2] * c[i] + share * (z[0] * mask[i]);
          feature[i] = z[1] * tanhf(new_c);
          if (t < end[i]) c[i] = new_c, h[i] = feature[i];
          hand_on<XH>(m, (t + 1) % 2, SIDE + unit, row, h[i]);
        },
        [&] { enter(t + 1); },
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
