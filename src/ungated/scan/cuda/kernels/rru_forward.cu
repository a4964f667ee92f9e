// The RRU along time; notation as in cells/rru.py, a what Normalize takes.
//
// Normalize waits for nobody: ReLU(r a) = r ReLU(a) for r = 1 / rms(a) > 0, so ReLU(a) is handed on at once with
// parts of the sum of a^2, and r multiplies what the next product makes of it.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = ToState::N, g = ToMiddle::N;
  lay_out_all<ToMiddle>(m, [&](int, int k, int unit, int) { return x.W_h[k * g + unit]; });
  lay_out_all<Between>(m, [&](int which, int k, int unit, int) { return x.W_k[(which * g + k) * g + unit]; });
  lay_out_all<ToState>(m, [&](int, int k, int unit, int) { return x.W_c[k * n + unit] * x.Z[unit]; });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  float h[per_thread<ToState>], s[per_thread<ToState>], b_c[per_thread<ToState>];  // Z goes into W_c and b_c
  long long end[per_thread<ToState>];
  each<ToState>(m, [&](int i, int unit, int row, int) {
    h[i] = x.h0[(m.first + row) * n + unit], s[i] = x.s[unit], b_c[i] = x.Zb[unit], end[i] = m.end_of(row);
    hand_on<H>(m, 0, unit, row, h[i]);
    if (x.save) x.h[(m.first + row) * n + unit] = h[i];
  });
  m.arrive();

  RowSums squares;
  auto scale = [&] {
    const float epsilon = static_cast<float>(x.epsilon);
    if (NORMALIZE) squares.add(m, [&](float sum, int) { return 1.0f / sqrtf(sum / g + epsilon); });
  };
  auto load_squares = [&] {
    if (NORMALIZE) squares.load(m);
  };
  auto r = [&](int row) { return NORMALIZE ? row_value(m, row) : 1.0f; };

  for (long long t = 0; t < x.T; t++) {
    const long long at = t * B + m.first;
    {
      float a[per_thread<ToMiddle>], mask[per_thread<ToMiddle>];
      bool there = phase<ToMiddle>(
          m, slab<ToMiddle>(m), exchanged<H>(m, 0),
          [&](int i, int unit, int row, int) {
            a[i] = x.drive[(at + row) * g + unit];
            mask[i] = MASKED && INNER == 0 ? x.mask[t * x.mask_step + (m.first + row) * g + unit] : 1.0f;
          },
          Nothing(), Nothing(),
          [&](int i, int unit, int row, int own, const float* sums) {
            a[i] += sums[0];
            if (NORMALIZE) row_term(m, row, own) = a[i] * a[i];
            hand_on<J>(m, 0, unit, row, (a[i] < 0.0f ? 0.0f : a[i]) * mask[i]);
          },
          [&] {
            if (NORMALIZE) hand_on_row_parts<ToMiddle>(m);
          },
          [&](int i, int unit, int row, int) { x.a[(at + row) * g + unit] = a[i]; });
      if (!there) return;
    }
#pragma unroll 1
    for (int k = 0; k < INNER; k++) {
      const bool last = k + 1 == INNER;
      float b[per_thread<Between>], mask[per_thread<Between>];
      bool there = phase<Between>(
          m, slab<Between>(m, k), exchanged<J>(m, k),
          [&](int i, int unit, int row, int) {
            b[i] = x.b_k[k * g + unit];
            mask[i] = MASKED && last ? x.mask[t * x.mask_step + (m.first + row) * g + unit] : 1.0f;
          },
          [&] {
            if (k == 0) load_squares();
          },
          [&] {
            if (k == 0) scale();
          },
          [&](int i, int unit, int row, int, const float* sums) {
            const float j = sums[0] * (k == 0 ? r(row) : 1.0f) + b[i];
            b[i] = (j < 0.0f ? 0.0f : j) * mask[i];
            hand_on<J>(m, k + 1, unit, row, b[i]);
          },
          Nothing(),
          [&](int i, int unit, int row, int) {
            if (last) x.d[(at + row) * g + unit] = b[i];
            else if (x.save) x.inner[(k * x.T * B + at + row) * g + unit] = b[i];
          });
      if (!there) return;
    }
    bool there = phase<ToState>(
        m, slab<ToState>(m), exchanged<J>(m, INNER), Nothing(),
        [&] {
          if (INNER == 0) load_squares();
        },
        [&] {
          if (INNER == 0) scale();
        },
        [&](int i, int unit, int row, int, const float* sums) {
          if (t < end[i]) h[i] = s[i] * h[i] + (sums[0] * (INNER == 0 ? r(row) : 1.0f) + b_c[i]);
          hand_on<H>(m, 0, unit, row, h[i]);
        },
        Nothing(),
        [&](int i, int unit, int row, int) {
          if (x.save) x.h[((t + 1) * B + m.first + row) * n + unit] = h[i];
          else if (t + 1 == x.T) x.h[(m.first + row) * n + unit] = h[i];
        });
    if (!there) return;
    if (NORMALIZE && m.rank == 0 && m.thread < m.rows) x.r[at + m.thread] = row_value(m, m.thread);
  }
}
