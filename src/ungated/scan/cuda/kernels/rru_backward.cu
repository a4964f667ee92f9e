// The way back of the RRU along time; notation and gradients as in scan/rru_torch.py.
//
// With G the gradient by y and m the row's mean of G y, what passes Normalize is r (G - y m), and its product with W_h'
// is r (G W_h' - m V), V = y W_h' made beforehand for all steps: m / r travels in parts beside G and costs no wait.

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, n = ToState::N, g = ToMiddle::N;
  lay_out_all<ToMiddle>(m, [&](int, int k, int unit, int) { return x.W_c[unit * n + k] * x.Z[k]; });
  lay_out_all<Between>(m, [&](int which, int k, int unit, int) { return x.W_k[(which * g + unit) * g + k]; });
  lay_out_all<ToState>(m, [&](int, int k, int unit, int) { return x.W_h[unit * g + k]; });
  if (STREAMED && !m.meet_all(x.blocks)) return;

  float G_h[per_thread<ToState>], s[per_thread<ToState>];
  long long end[per_thread<ToState>];
  each<ToState>(m, [&](int i, int unit, int row, int) {
    const long long at = (m.first + row) * n + unit;
    G_h[i] = x.grad_h ? x.grad_h[at] : 0.0f, s[i] = x.s[unit], end[i] = m.end_of(row);
    hand_on<G>(m, 0, unit, row, x.T - 1 < end[i] ? G_h[i] : 0.0f);
    x.G_h[x.T * B * n + at] = G_h[i];
  });
  m.arrive();

  RowSums dots;
  for (long long t = x.T - 1; t >= 0; t--) {
    const long long at = t * B + m.first;
    {
      constexpr int MINE = per_thread<ToMiddle>;
      float given[MINE], mask[MINE], gate[MINE], a[MINE];
      bool there = phase<ToMiddle>(
          m, slab<ToMiddle>(m), exchanged<G>(m, 0),
          [&](int i, int unit, int row, int) {
            const long long here = (at + row) * g + unit;
            given[i] = x.grad_d ? x.grad_d[here] : 0.0f;
            mask[i] = MASKED ? x.mask[t * x.mask_step + (m.first + row) * g + unit] : 1.0f;
            if (INNER > 0) gate[i] = x.d[here];
            else a[i] = x.a[here];
          },
          Nothing(), Nothing(),
          [&](int i, int unit, int row, int own, const float* sums) {
            given[i] = (sums[0] + given[i]) * mask[i];
            // The mask has left its sign in d, and takes it out again.
            if (!((INNER > 0 ? gate[i] * mask[i] : a[i]) > 0.0f)) given[i] = 0.0f;
            if (INNER == 0 && NORMALIZE) row_term(m, row, own) = given[i] * a[i];
            hand_on<J>(m, 0, unit, row, given[i]);
          },
          [&] {
            if (INNER == 0 && NORMALIZE) hand_on_row_parts<ToMiddle>(m);
          },
          [&](int i, int unit, int row, int) {
            const long long here = (at + row) * g + unit;
            if (INNER > 0) x.G_k[(INNER - 1) * x.T * B * g + here] = given[i];
            else x.G_a[here] = given[i];
          });
      if (!there) return;
    }
#pragma unroll 1
    for (int k = INNER - 1; k >= 0; k--) {
      const int turn = INNER - 1 - k;
      float gate[per_thread<Between>], given[per_thread<Between>];
      bool there = phase<Between>(
          m, slab<Between>(m, k), exchanged<J>(m, turn),
          [&](int i, int unit, int row, int) {
            const long long here = (at + row) * g + unit;
            gate[i] = k == 0 ? x.a[here] : x.inner[(k - 1) * x.T * B * g + here];
          },
          Nothing(), Nothing(),
          [&](int i, int unit, int row, int own, const float* sums) {
            given[i] = gate[i] > 0.0f ? sums[0] : 0.0f;
            if (k == 0 && NORMALIZE) row_term(m, row, own) = given[i] * gate[i];
            hand_on<J>(m, turn + 1, unit, row, given[i]);
          },
          [&] {
            if (k == 0 && NORMALIZE) hand_on_row_parts<Between>(m);
          },
          [&](int i, int unit, int row, int) {
            const long long here = (at + row) * g + unit;
            if (k == 0) x.G_a[here] = given[i];
            else x.G_k[(k - 1) * x.T * B * g + here] = given[i];
          });
      if (!there) return;
    }
    float V[per_thread<ToState>], r[per_thread<ToState>];
    bool there = phase<ToState>(
        m, slab<ToState>(m), exchanged<J>(m, INNER),
        [&](int i, int unit, int row, int) {
          V[i] = NORMALIZE ? x.V[(at + row) * n + unit] : 0.0f;
          r[i] = NORMALIZE ? x.r[at + row] : 1.0f;
        },
        [&] {
          if (NORMALIZE) dots.load(m);
        },
        [&] {
          if (NORMALIZE) dots.add(m, [&](float sum, int) { return sum / g; });
        },
        [&](int i, int unit, int row, int, const float* sums) {
          const float along_y = NORMALIZE ? r[i] * row_value(m, row) * V[i] : 0.0f;
          G_h[i] = (t < end[i] ? s[i] * G_h[i] : G_h[i]) + r[i] * (sums[0] - along_y);
          hand_on<G>(m, 0, unit, row, t - 1 < end[i] ? G_h[i] : 0.0f);
        },
        Nothing(), [&](int i, int unit, int row, int) { x.G_h[(at + row) * n + unit] = G_h[i]; });
    if (!there) return;
    if (NORMALIZE && m.rank == 0 && m.thread < m.rows) x.mean[at + m.thread] = row_value(m, m.thread);
  }
}
