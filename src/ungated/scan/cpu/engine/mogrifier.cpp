// The Mogrifier LSTM along time; notation as in cells/mogrifier.py and scan/mogrifier_torch.py: T steps, B rows, m
// inputs, n units, `rounds` of low rank. Two products and two barriers a round; what comes elementwise between two
// products is done where the first one ends. Variable 0 is x, which even rounds scale, 1 is h.
#include "entry.h"
#include "product.h"
#include "scratch.h"
#include "team.h"

struct Mogrifier {
  int64_t T, B, m, n, rounds, rank;
  const float *x, *h0, *c0, *mask;
  int64_t mask_step;                         // floats from one step's mask to the next; 0: one mask for all
  const int64_t* lengths;                    // (B), or null
  const float *W_x, *W_h, *bias;             // (m,4n), (n,4n), (4n): j, o, f, i
  const float *const *A, *const *Bs, *const *beta;
  float* weights;                            // room for MogrifierScan::size floats
  float *features, *h, *c;                   // (T,B,n); (T + 1,B,n), or with kept = 0 the last only (B,n)
  int64_t kept;
  float *gates, *e_x, *e_h;  // (T,B,4n); (.,T,B,m), (.,T,B,n) half the factors of each round: null without a way back
  // backward only; the first three may be null
  const float *grad_features, *grad_h, *grad_c;
  float *grad_z, *grad_e_x, *grad_e_h, *grad_x, *grad_h0, *grad_c0;
};

class MogrifierScan {
 public:
  MogrifierScan(const Mogrifier& a, bool backward, int)
      : a(a), backward(backward), pair{{a.B, a.m + a.n}, {a.B, a.m + a.n}}, middle(a.B, a.rank),
        factor(backward ? a.B : 0, a.m > a.n ? a.m : a.n), gates(backward ? a.B : 0, 4 * a.n), h(a.B, a.n), c(a.B, a.n) {}

  static int64_t size(const Mogrifier& a) {
    const int64_t forward = Gates::size(a.m + a.n, a.n), back = Plain::size(4 * a.n, a.m) + Plain::size(4 * a.n, a.n);
    const int64_t longer = a.m > a.n ? a.m : a.n;
    return (forward > back ? forward : back) + a.rounds * (Plain::size(longer, a.rank) + Plain::size(a.rank, longer));
  }

  void pack(int id, int count) {
    auto pack = [&](const auto& w, const Source& source, int64_t row, int64_t rows) {
      w.pack(source, row, rows, share(w.panels(), count, id), share(w.panels(), count, id + 1));
    };
    const int64_t m = a.m, n = a.n;
    if (backward) {
      pack(to_variable(0), {{a.W_x}, 4 * n, true, nullptr, nullptr}, 0, 4 * n);
      pack(to_variable(1), {{a.W_h}, 4 * n, true, nullptr, nullptr}, 0, 4 * n);
    } else {
      const Gates w = to_gates();
      pack(w, {{a.W_x, a.W_x + n, a.W_x + 2 * n, a.W_x + 3 * n}, 4 * n, false, nullptr, nullptr}, 0, m);
      pack(w, {{a.W_h, a.W_h + n, a.W_h + 2 * n, a.W_h + 3 * n}, 4 * n, false, nullptr, nullptr}, m, n);
    }
    for (int64_t k = 0; k < a.rounds; k++) {
      const Plain in = first(k), out = second(k);
      if (backward) {
        pack(in, {{a.Bs[k]}, width(k % 2), true, nullptr, nullptr}, 0, in.K);
        pack(out, {{a.A[k]}, a.rank, true, nullptr, nullptr}, 0, out.K);
      } else {
        pack(in, {{a.A[k]}, a.rank, false, nullptr, nullptr}, 0, in.K);
        pack(out, {{a.Bs[k]}, width(k % 2), false, nullptr, nullptr}, 0, out.K);
      }
    }
  }

  void operator()(const Role& role) { backward ? backwards(role) : forwards(role); }

 private:
  using Gates = Weights<4, 4>;
  using Plain = Weights<WIDE>;
  const Mogrifier& a;
  bool backward;
  Matrix pair[2];  // x and h side by side as the rounds scale them, of this step and the next; backwards [0] the gradients
  Matrix middle;   // between the two products of a round
  Matrix factor;   // backwards the gradient of a round's factors before their sigmoid
  Matrix gates;    // backwards the gradients of the gates before theirs
  Matrix h, c;     // the state; backwards what of G(h) passes an ended row by, and G(c)

  int64_t width(int64_t variable) const { return variable ? a.n : a.m; }
  int64_t offset(int64_t variable) const { return variable ? a.m : 0; }
  Gates to_gates() const { return {a.weights, a.m + a.n, a.n}; }
  Plain to_variable(int64_t v) const { return {a.weights + (v ? Plain::size(4 * a.n, a.m) : 0), 4 * a.n, width(v)}; }
  // The two products of a round: forwards with A and B, backwards with B' and A'.
  float* round(int64_t k) const {
    const int64_t longer = a.m > a.n ? a.m : a.n, each = Plain::size(longer, a.rank) + Plain::size(a.rank, longer);
    return a.weights + size(a) - (a.rounds - k) * each;
  }
  Plain first(int64_t k) const { return {round(k), width(backward ? k % 2 : 1 - k % 2), a.rank}; }
  Plain second(int64_t k) const {
    return {round(k) + Plain::size(a.m > a.n ? a.m : a.n, a.rank), a.rank, width(backward ? 1 - k % 2 : k % 2)};
  }
  int64_t at_round(int64_t k, int64_t t, int64_t b) const { return ((k / 2 * a.T + t) * a.B + b) * width(k % 2); }
  float* half(int64_t k) const { return k % 2 ? a.e_h : a.e_x; }

  bool ended(int64_t t, int64_t b) const { return a.lengths && a.lengths[b] <= t; }
  vec mask(int64_t t, int64_t b, int64_t j) const {
    return a.mask ? load(a.mask + t * a.mask_step + b * a.n + j, a.n - j) : all(1.0f);
  }

  // ahead(first row, last row, first column of a panel) comes before the work on these.
  template <class Each, class Ahead = Nothing>
  void plain(const Role& role, const float* in, int64_t ld, const Plain& w, Each each, Ahead ahead = Ahead{}) {
    const int64_t units = w.panels() * role.rows();
    product_of_units(
        in, ld, role.rows(), w, role.begin(units), role.end(units),
        [&](int64_t i, int64_t p, const float* result) {
          for (int v = 0; v < WIDE; v++) {
            const int64_t j = p * Plain::P + v * W;
            if (j < w.units) each(role.first + i, j, w.units - j, load(result + v * W));
          }
        },
        [&](int64_t i0, int64_t i1, int64_t p) { ahead(role.first + i0, role.first + i1, p * Plain::P); });
  }

  void enter(const Role& role, int64_t t) {
    const int64_t j0 = share(a.m, role.slabs, role.slab), j1 = share(a.m, role.slabs, role.slab + 1);
    for (int64_t b = role.first; b < role.last; b++)
      memcpy(pair[t % 2].row(b) + j0, a.x + (t * a.B + b) * a.m + j0, static_cast<size_t>(j1 - j0) * 4);
  }

  void forwards(const Role& role) {
    const int64_t B = a.B, m = a.m, n = a.n;
    const Gates W_xh = to_gates();
    enter(role, 0);
    for (int64_t b = role.first; role.slab == 0 && b < role.last; b++)
      for (int64_t j = 0; j < n; j += W) {
        vec h_now = load(a.h0 + b * n + j, n - j), c_now = load(a.c0 + b * n + j, n - j);
        store(h.row(b) + j, h_now), store(c.row(b) + j, c_now);
        store(pair[0].row(b) + m + j, h_now, n - j);
        if (a.kept) store(a.h + b * n + j, h_now, n - j), store(a.c + b * n + j, c_now, n - j);
      }
    role.meet();
    for (int64_t t = 0; t < a.T; t++) {
      Matrix &now = pair[t % 2], &next = pair[(t + 1) % 2];
      for (int64_t k = 0; k < a.rounds; k++) {
        plain(role, now.row(role.first) + offset(1 - k % 2), now.ld, first(k),
              [&](int64_t b, int64_t j, int64_t count, vec u) { store(middle.row(b) + j, u, count); });
        role.meet();
        plain(
            role, middle.row(role.first), middle.ld, second(k),
            [&](int64_t b, int64_t j, int64_t count, vec z) {
              vec e = sigmoid(z + load(a.beta[k] + j, count));
              if (half(k)) store(half(k) + at_round(k, t, b) + j, e, count);
              float* scaled = now.row(b) + offset(k % 2) + j;
              store(scaled, load(scaled, count) * (e + e), count);
            },
            [&](int64_t b0, int64_t b1, int64_t j) {
              if (half(k)) fetch<WRITE>(half(k) + at_round(k, t, 0), width(k % 2), b0, b1, j, Plain::P);
            });
        role.meet();
      }
      if (t + 1 < a.T) enter(role, t + 1);
      product(
          now.row(role.first), now.ld, role.rows(), W_xh, role.begin(W_xh.panels()), role.end(W_xh.panels()),
          [&](int64_t i, int64_t p, const float* result) {
            const int64_t b = role.first + i, j = p * W, count = n - j, at = t * B + b;
            vec z[4];
            for (int q = 0; q < 4; q++) z[q] = load(result + q * W) + load(a.bias + q * n + j, count);
            z[0] = tanh(z[0]);
            for (int q = 1; q < 4; q++) z[q] = sigmoid(z[q]);
            if (a.gates)
              for (int q = 0; q < 4; q++) store(a.gates + at * 4 * n + q * n + j, z[q], count);
            vec rest = 1.0f - z[2], entering = rest < z[3] ? rest : z[3];
            vec c_now = load(c.row(b) + j), c_next = z[2] * c_now + entering * (z[0] * mask(t, b, j));
            vec h_next = z[1] * tanh(c_next);
            store(a.features + at * n + j, h_next, count);
            if (ended(t, b)) h_next = load(h.row(b) + j), c_next = c_now;
            store(h.row(b) + j, h_next), store(c.row(b) + j, c_next);
            store(next.row(b) + m + j, h_next, count);
            if (!a.kept && t + 1 < a.T) return;
            const int64_t to = a.kept ? at + B : b;
            store(a.h + to * n + j, h_next, count), store(a.c + to * n + j, c_next, count);
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            float* gates_t = a.gates ? a.gates + (t * B + role.first) * 4 * n : nullptr;
            for (int q = 0; q < 4; q++) fetch<WRITE>(gates_t, 4 * n, i0, i1, q * n + p * W, W);
            fetch<WRITE>(a.features + (t * B + role.first) * n, n, i0, i1, p * W, W);
            if (!a.kept) return;
            fetch<WRITE>(a.h + ((t + 1) * B + role.first) * n, n, i0, i1, p * W, W);
            fetch<WRITE>(a.c + ((t + 1) * B + role.first) * n, n, i0, i1, p * W, W);
          });
      role.meet();
    }
  }

  // From the gradient of h after step t, without that of the features, on to those of the gates.
  void step_back(int64_t t, int64_t b, int64_t j, vec G_h) {
    const int64_t n = a.n, count = n - j, at = t * a.B + b;
    const bool over = ended(t, b);
    const float* kept = a.gates + at * 4 * n + j;
    vec G_c = load(c.row(b) + j), passed = over ? G_c : vec{};
    store(h.row(b) + j, over ? G_h : vec{});
    if (over) G_h = vec{}, G_c = vec{};
    if (a.grad_features) G_h += load(a.grad_features + at * n + j, count);
    vec candidate = load(kept, count), out = load(kept + n, count), forget = load(kept + 2 * n, count);
    vec in = load(kept + 3 * n, count), c_now = load(a.c + at * n + j, count), m = mask(t, b, j);
    vec rest = 1.0f - forget, entering = rest < in ? rest : in;
    // Which of the two the minimum took; a tie is shared.
    vec took = in < rest ? all(1.0f) : (in > rest ? vec{} : all(0.5f));
    vec squashed = tanh(forget * c_now + entering * (candidate * m));
    G_c += G_h * out * (1.0f - squashed * squashed);
    vec G[4] = {G_c * entering * m * (1.0f - candidate * candidate), G_h * squashed * out * (1.0f - out),
                G_c * (c_now - candidate * m * (1.0f - took)) * forget * rest,
                G_c * candidate * m * took * in * (1.0f - in)};
    for (int q = 0; q < 4; q++) {
      store(gates.row(b) + q * n + j, G[q], count);
      store(a.grad_z + at * 4 * n + q * n + j, G[q], count);
    }
    store(c.row(b) + j, G_c * forget + passed);
  }

  // G of a variable after round k, which scales it, is complete: on to its factors, and to the variable before it.
  void round_back(int64_t k, int64_t t, int64_t b, int64_t j, int64_t count, vec G) {
    const int64_t at = at_round(k, t, b) + j;
    const float* start = k % 2 ? a.h + (t * a.B + b) * a.n + j : a.x + (t * a.B + b) * a.m + j;
    vec after = load(start, count), e{};
    for (int64_t i = k % 2; i <= k; i += 2) {
      e = load(half(i) + at_round(i, t, b) + j, count);
      after *= e + e;
    }
    vec G_e = G * after * (1.0f - e);
    store(factor.row(b) + j, G_e, count);
    store((k % 2 ? a.grad_e_h : a.grad_e_x) + at, G_e, count);
    settle(k, t, b, j, count, k % 2, G * (e + e));
  }

  // G of a variable before round k: final before round 0, for x at once, for h when round 0 has added its share.
  void settle(int64_t k, int64_t t, int64_t b, int64_t j, int64_t count, int64_t variable, vec G) {
    store(pair[0].row(b) + offset(variable) + j, G, count);
    if (k > 0) return;
    if (variable == 0) return store(a.grad_x + (t * a.B + b) * a.m + j, G, count);
    G += load(h.row(b) + j);
    if (t > 0) return step_back(t - 1, b, j, G);
    store(a.grad_h0 + b * a.n + j, G, count);
    store(a.grad_c0 + b * a.n + j, load(c.row(b) + j), count);
  }

  // What `step_back` of step t will read and write, for rows [b0, b1) and a panel's columns.
  void fetch_step(int64_t t, int64_t b0, int64_t b1, int64_t j) const {
    if (t < 0) return;
    const int64_t n = a.n, at = t * a.B * n;
    fetch<READ>(a.c + at, n, b0, b1, j, Plain::P);
    if (a.grad_features) fetch<READ>(a.grad_features + at, n, b0, b1, j, Plain::P);
    for (int q = 0; q < 4; q++) {
      fetch<READ>(a.gates + at * 4, 4 * n, b0, b1, q * n + j, Plain::P);
      fetch<WRITE>(a.grad_z + at * 4, 4 * n, b0, b1, q * n + j, Plain::P);
    }
  }
  // The same for `round_back`.
  void fetch_round(int64_t k, int64_t t, int64_t b0, int64_t b1, int64_t j) const {
    const int64_t v = k % 2, n = width(v);
    for (int64_t i = v; i <= k; i += 2) fetch<READ>(half(i) + at_round(i, t, 0), n, b0, b1, j, Plain::P);
    fetch<READ>((v ? a.h : a.x) + t * a.B * n, n, b0, b1, j, Plain::P);
    fetch<WRITE>((v ? a.grad_e_h : a.grad_e_x) + at_round(k, t, 0), n, b0, b1, j, Plain::P);
  }

  void backwards(const Role& role) {
    const int64_t n = a.n, last = a.rounds - 1;
    const Plain own = to_variable(1);
    for (int64_t b = role.first; b < role.last; b++)
      for (int64_t j = role.begin(own.panels()) * Plain::P; j < n && j < role.end(own.panels()) * Plain::P; j += W) {
        store(c.row(b) + j, a.grad_c ? load(a.grad_c + b * n + j, n - j) : vec{});
        step_back(a.T - 1, b, j, a.grad_h ? load(a.grad_h + b * n + j, n - j) : vec{});
      }
    role.meet();
    Matrix& G_pair = pair[0];
    for (int64_t t = a.T - 1; t >= 0; t--) {
      // `gates` is overwritten for step t - 1 by the last product of step t: without rounds, that is one of these two.
      for (int64_t variable = 0; variable < 2; variable++) {
        const bool scaled_last = last >= 0 && last % 2 == variable;
        plain(
            role, gates.row(role.first), gates.ld, to_variable(variable),
            [&](int64_t b, int64_t j, int64_t count, vec G) {
              if (scaled_last) round_back(last, t, b, j, count, G);
              else if (a.rounds > 0) store(G_pair.row(b) + offset(variable) + j, G, count);
              else if (variable == 0) settle(0, t, b, j, count, 0, G);
              else store(G_pair.row(b) + a.m + j, G, count);
            },
            [&](int64_t b0, int64_t b1, int64_t j) {
              if (scaled_last) fetch_round(last, t, b0, b1, j);
            });
      }
      role.meet();
      if (a.rounds == 0) {
        for (int64_t b = role.first; b < role.last; b++)
          for (int64_t j = role.begin(own.panels()) * Plain::P; j < n && j < role.end(own.panels()) * Plain::P; j += W)
            settle(0, t, b, j, n - j, 1, load(G_pair.row(b) + a.m + j, n - j));
        role.meet();
      }
      for (int64_t k = last; k >= 0; k--) {
        plain(role, factor.row(role.first), factor.ld, first(k),
              [&](int64_t b, int64_t j, int64_t count, vec u) { store(middle.row(b) + j, u, count); });
        role.meet();
        const int64_t by = 1 - k % 2;
        plain(
            role, middle.row(role.first), middle.ld, second(k),
            [&](int64_t b, int64_t j, int64_t count, vec G) {
              G += load(G_pair.row(b) + offset(by) + j, count);
              if (k > 0) round_back(k - 1, t, b, j, count, G);
              else settle(0, t, b, j, count, by, G);
            },
            [&](int64_t b0, int64_t b1, int64_t j) {
              if (k > 0) fetch_round(k - 1, t, b0, b1, j);
              else fetch_step(t - 1, b0, b1, j);
            });
        role.meet();
      }
    }
  }
};

CELL(mogrifier, Mogrifier, MogrifierScan)
