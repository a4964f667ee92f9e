// The way back of the Mogrifier LSTM along time; notation and gradients as in scan/mogrifier_torch.py. x.c is the state
// after each step, e half of a round's factor.

// x or h, whose units are P's, on the way back through the rounds that scale it: they hand on to E the gradients by
// their factors. What one round needs is made anew for it, or registers would hold it through all of them.
template <class P>
struct Round {
  float e[per_thread<P>], made[per_thread<P>];
};
template <class P, class E>
struct Scaled {
  const float *half, *after;  // (., T, B, N): e of each round, and what it made
  float* by_factors;          // (., T, B, N): the gradients by them before their sigmoid
  float G[per_thread<P>];

  static long long at(const Team& m, int which, long long t, int unit, int row) {
    return ((which * m.x.T + t) * m.x.B + m.first + row) * P::N + unit;
  }
  void load(const Team& m, Round<P>& r, int which, long long t, int i, int unit, int row) const {
    r.e[i] = half[at(m, which, t, unit, row)], r.made[i] = after[at(m, which, t, unit, row)];
  }
  void pass(const Team& m, Round<P>& r, int i, int unit, int row) {
    r.made[i] *= G[i] * (1.0f - r.e[i]);
    G[i] *= 2.0f * r.e[i];
    hand_on<E>(m, 0, unit, row, r.made[i]);
  }
  void keep(const Team& m, const Round<P>& r, int which, long long t, int i, int unit, int row) const {
    by_factors[at(m, which, t, unit, row)] = r.made[i];
  }
};

// From the gates of step t to what the last round scaled, v, and through that round. The product for the other one, w,
// waits for nobody, and nobody waits for it: it comes while the blocks meet.
template <class V, class W, class OfV, class OfW>
inline bool enter_rounds(Team& m, long long t, OfV& v, OfW& w) {
  constexpr int LAST = (ROUNDS - 1) / 2;
  Round<V> r;
  bool there = phase<V>(
      m, slab<V>(m), exchanged<Z>(m, t % 2),
      [&](int i, int unit, int row, int) { v.load(m, r, LAST, t, i, unit, row); }, Nothing(), Nothing(),
      [&](int i, int unit, int row, int, const float* sums) {
        v.G[i] = sums[0];
        v.pass(m, r, i, unit, row);
      },
      Nothing(), [&](int i, int unit, int row, int) { v.keep(m, r, LAST, t, i, unit, row); });
  if (!there) return false;
  results<W>(m, slab<W>(m), exchanged<Z>(m, t % 2), Nothing(),
             [&](int i, int, int, int, const float* sums) { w.G[i] = sums[0]; });
  block_barrier();
  return true;
}

// What the gates of a step need, and then the gradients by them.
struct Gates {
  static constexpr int MINE = per_thread<StepH>;
  float z[MINE][4], mask[MINE], c[MINE], given[MINE];
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan(const __grid_constant__ Arguments x) {
  Team m(x);
  const long long B = x.B, M = StepX::N, n = StepH::N;
  lay_out_transposed<StepX>(m, x.W_x);
  lay_out_transposed<StepH>(m, x.W_h);
  lay_out_transposed<FromX>(m, x.B_x);
  lay_out_transposed<ToH>(m, x.A_x);
  lay_out_transposed<FromH>(m, x.B_h);
  lay_out_transposed<ToX>(m, x.A_h);
  if (STREAMED && !m.meet_all(x.blocks)) return;

  constexpr int MINE = Gates::MINE;
  Scaled<StepX, EX> of_x;
  Scaled<StepH, EH> of_h;
  of_x.half = x.e_x, of_x.after = x.after_x, of_x.by_factors = x.G_e_x;
  of_h.half = x.e_h, of_h.after = x.after_h, of_h.by_factors = x.G_e_h;
  float G_c[MINE];
  float kept[MINE];  // past steps that a row did not take
  long long end[MINE];
  auto load = [&](long long t, Gates& g, int i, int unit, int row) {
    const long long at = t * B + m.first + row, own = (m.first + row) * n + unit;
    g.given[i] = x.grad_features ? x.grad_features[at * n + unit] : 0.0f;
    g.mask[i] = MASKED ? x.mask[t * x.mask_step + own] : 1.0f;
    g.c[i] = t > 0 ? x.c[(at - B) * n + unit] : x.c0[own];
#pragma unroll
    for (int gate = 0; gate < 4; gate++) g.z[i][gate] = x.gates[at * 4 * n + gate * n + unit];
  };
  auto pass = [&](long long t, Gates& g, int i, int unit, int row, float more) {  // more: what later steps add to G(h)
    float* z = g.z[i];
    const float j = z[0], o = z[1], f = z[2], in = z[3], c = g.c[i], candidate = j * g.mask[i];
    const float rest = 1.0f - f, share = rest < in ? rest : in;
    // Which of the two the minimum took; a tie is shared.
    const float took = in < rest ? 1.0f : in > rest ? 0.0f : 0.5f;
    const float tanh_c = tanhf(f * c + share * candidate);
    const bool over = t >= end[i];
    const float G = over ? g.given[i] : g.given[i] + (kept[i] + more);
    const float through_c = G * o * (1.0f - tanh_c * tanh_c) + (over ? 0.0f : G_c[i]);
    z[0] = through_c * (share * g.mask[i]) * (1.0f - j * j);
    z[1] = G * tanh_c * o * (1.0f - o);
    z[2] = through_c * (c - candidate * (1.0f - took)) * f * rest;
    z[3] = through_c * (candidate * took) * in * (1.0f - in);
    G_c[i] = through_c * f + (over ? G_c[i] : 0.0f);
    kept[i] = over ? kept[i] + more : 0.0f;
#pragma unroll
    for (int gate = 0; gate < 4; gate++) hand_on<Z>(m, t % 2, gate * n + unit, row, z[gate]);
  };
  auto keep = [&](long long t, const Gates& g, int i, int unit, int row) {
#pragma unroll
    for (int gate = 0; gate < 4; gate++)
      x.G_z[(t * B + m.first + row) * 4 * n + gate * n + unit] = g.z[i][gate];
  };

  Gates last;
  each<StepH>(m, [&](int i, int unit, int row, int) {
    const long long own = (m.first + row) * n + unit;
    G_c[i] = x.grad_c ? x.grad_c[own] : 0.0f, kept[i] = 0.0f, end[i] = m.end_of(row);
    load(x.T - 1, last, i, unit, row);
    pass(x.T - 1, last, i, unit, row, x.grad_h ? x.grad_h[own] : 0.0f);
  });
  m.arrive();
  each<StepH>(m, [&](int i, int unit, int row, int) { keep(x.T - 1, last, i, unit, row); });
  for (long long t = x.T - 1; t >= 0; t--) {
    // Once G(h) before the rounds of step t is there: on to the gates of the step before.
    auto load_next = [&](Gates& g, int i, int unit, int row) {
      if (t > 0) load(t - 1, g, i, unit, row);
    };
    auto pass_next = [&](Gates& g, int i, int unit, int row, float G) {
      if (t > 0) pass(t - 1, g, i, unit, row, G);
      else kept[i] += G;
    };
    auto keep_next = [&](const Gates& g, int i, int unit, int row) {
      if (t > 0) return keep(t - 1, g, i, unit, row);
      x.G_h0[(m.first + row) * n + unit] = kept[i];
      x.G_c0[(m.first + row) * n + unit] = G_c[i];
    };
    if (ROUNDS == 0) {
      Gates g;
      bool there = phase<StepH>(
          m, slab<StepH>(m), exchanged<Z>(m, t % 2),
          [&](int i, int unit, int row, int) { load_next(g, i, unit, row); }, Nothing(), Nothing(),
          [&](int i, int unit, int row, int, const float* sums) { pass_next(g, i, unit, row, sums[0]); },
          [&] {
            block_barrier();
            results<StepX>(m, slab<StepX>(m), exchanged<Z>(m, t % 2), Nothing(),
                           [&](int i, int, int, int, const float* sums) { of_x.G[i] = sums[0]; });
          },
          [&](int i, int unit, int row, int) { keep_next(g, i, unit, row); });
      if (!there) return;
    } else {
      if (!(ROUNDS % 2 ? enter_rounds<StepX, StepH>(m, t, of_x, of_h) : enter_rounds<StepH, StepX>(m, t, of_h, of_x)))
        return;
    }
#pragma unroll 1
    for (int k = ROUNDS - 1; k >= 0; k--) {
      if (k % 2) {  // it scaled h by x, and the one before it x
        Round<StepX> r;
        bool there = factored_phase<FromH, U, ToX>(
            m, k / 2, exchanged<EH>(m, 0),
            [&](int i, int unit, int row, int) { of_x.load(m, r, k / 2, t, i, unit, row); },
            [&](int i, int unit, int row, int, const float* sums) {
              of_x.G[i] += sums[0];
              of_x.pass(m, r, i, unit, row);
            },
            [&](int i, int unit, int row, int) { of_x.keep(m, r, k / 2, t, i, unit, row); });
        if (!there) return;
        continue;
      }
      Round<StepH> r;
      Gates g;
      bool there = factored_phase<FromX, U, ToH>(
          m, k / 2, exchanged<EX>(m, 0),
          [&](int i, int unit, int row, int) {
            if (k > 0) of_h.load(m, r, k / 2 - 1, t, i, unit, row);
            else load_next(g, i, unit, row);
          },
          [&](int i, int unit, int row, int, const float* sums) {
            of_h.G[i] += sums[0];
            if (k > 0) of_h.pass(m, r, i, unit, row);
            else pass_next(g, i, unit, row, of_h.G[i]);
          },
          [&](int i, int unit, int row, int) {
            if (k > 0) of_h.keep(m, r, k / 2 - 1, t, i, unit, row);
            else keep_next(g, i, unit, row);
          });
      if (!there) return;
    }
    each<StepX>(m, [&](int i, int unit, int row, int) {
      x.G_x[(t * B + m.first + row) * M + unit] = of_x.G[i];
    });
  }
}
