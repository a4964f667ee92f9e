// The RRU along time; notation as in cells/rru.py: T steps, B rows, n units, g middle units; `inner` is the number of
// ReLU layers after the first.
//
// Normalisation costs no barrier: ReLU(r a) = r ReLU(a) for r > 0, so the product after it takes ReLU(a), partial sums
// of a^2 travel with it, and r multiplies its result. Backwards there is one where threads share rows: it is cheaper than
// to have each of them read all of a.
#include <cmath>

#include "entry.h"
#include "product.h"
#include "scratch.h"
#include "team.h"

struct RRU {
  int64_t T, B, n, g, inner, normalize;
  double epsilon;
  const float *drive, *h0, *mask;
  int64_t mask_step;        // floats from one step's mask to the next; 0: one mask for all
  const int64_t* lengths;   // (B), or null
  const float *W_h, *W_c;   // (n,g), (g,n)
  const float *W_k, *b_k;   // (inner,g,g), (inner,g)
  const float *s, *Z, *Zb;  // (n) each: sigmoid(10 S), Z, Z * b_c
  float* weights;           // room for RRUScan::size floats
  float *d, *h;             // (T,B,g); (T + 1,B,n), or with h_step = 0 the last only (B,n)
  int64_t h_step;
  float *a, *r, *y;         // for the way back, null without one: (T,B,g), (T,B), (inner,T,B,g) inputs of W_k
  // backward only; the first two may be null
  const float *grad_d, *grad_h;
  float *grad_a, *grad_z, *grad_c, *grad_h0;  // (T,B,g); (inner,T,B,g) before each ReLU; Z * this is G(c) (T,B,n); (B,n)
};

class RRUScan {
 public:
  RRUScan(const RRU& x, bool backward, int threads)
      : x(x),
        backward(backward),
        middle{{x.B, x.g}, {x.inner ? x.B : 0, x.g}},
        state(x.B, x.n),
        entering(backward ? x.B : 0, x.n),
        partial(x.B * threads, W) {}

  static int64_t size(const RRU& x) {
    return Plain::size(x.n, x.g) + x.inner * Plain::size(x.g, x.g) + Plain::size(x.g, x.n);
  }

  void pack(int id, int count) {
    auto pack = [&](const Plain& w, const Source& source) {
      w.pack(source, 0, w.K, share(w.panels(), count, id), share(w.panels(), count, id + 1));
    };
    if (backward) pack(from_state(), {{x.W_c}, x.n, true, nullptr, x.Z});
    else pack(from_state(), {{x.W_h}, x.g, false, nullptr, nullptr});
    for (int64_t k = 0; k < x.inner; k++) pack(between(k), {{x.W_k + k * x.g * x.g}, x.g, backward, nullptr, nullptr});
    if (backward) pack(to_state(), {{x.W_h}, x.g, true, nullptr, nullptr});
    else pack(to_state(), {{x.W_c}, x.n, false, x.Z, nullptr});
  }

  void operator()(const Role& role) { backward ? backwards(role) : forwards(role); }

 private:
  using Plain = Weights<WIDE>;
  const RRU& x;
  bool backward;
  Matrix middle[2];  // what one product hands to the next
  Matrix state;      // forwards h; backwards its gradient
  Matrix entering;   // backwards: the gradient of h where the row has not ended, 0 where it has
  Matrix partial;    // a register of partial sums for each slab and row

  Plain from_state() const { return {x.weights, x.n, x.g}; }
  Plain between(int64_t k) const { return {x.weights + Plain::size(x.n, x.g) + k * Plain::size(x.g, x.g), x.g, x.g}; }
  Plain to_state() const { return {x.weights + Plain::size(x.n, x.g) + x.inner * Plain::size(x.g, x.g), x.g, x.n}; }

  bool ended(int64_t t, int64_t b) const { return x.lengths && x.lengths[b] <= t; }
  const float* mask(int64_t t, int64_t first) const { return x.mask ? x.mask + t * x.mask_step + first * x.g : nullptr; }
  float sums(const Role& role, int64_t b) {
    vec total{};
    for (int slab = 0; slab < role.slabs; slab++) total += load(partial.row(slab * x.B + b));
    return sum(total);
  }

  // The registers of one row of one panel: each(column, floats from there to the end, result there).
  template <class Each>
  static void columns(int64_t p, int64_t n, const float* result, Each each) {
    for (int v = 0; v < WIDE; v++) {
      int64_t column = p * Plain::P + v * W;
      if (column < n) each(column, n - column, load(result + v * W));
    }
  }

  void forwards(const Role& role) {
    const int64_t B = x.B, n = x.n, g = x.g, first = role.first, rows = role.rows();
    const Plain W_h = from_state(), W_c = to_state();
    const int64_t g0 = role.begin(W_h.panels()), g1 = role.end(W_h.panels());
    const int64_t n0 = role.begin(W_c.panels()), n1 = role.end(W_c.panels());
    if (role.slab == 0)
      for (int64_t b = first; b < role.last; b++) {
        memcpy(state.row(b), x.h0 + b * n, static_cast<size_t>(n) * 4);
        if (x.h_step) memcpy(x.h + b * n, x.h0 + b * n, static_cast<size_t>(n) * 4);
      }
    role.meet();
    std::vector<float> r(static_cast<size_t>(rows), 1.0f);
    for (int64_t t = 0; t < x.T; t++) {
      const int64_t at = (t * B + first) * g;
      const float *drive = x.drive + at, *m = mask(t, first);
      float *d = x.d + at, *a = x.a ? x.a + at : nullptr;
      for (int64_t i = 0; i < rows; i++) store(partial.row(role.slab * B + first + i), vec{});
      product(
          state.row(first), state.ld, rows, W_h, g0, g1,
          [&](int64_t i, int64_t p, const float* result) {
            float* squares = partial.row(role.slab * B + first + i);
            vec squared = load(squares);
            columns(p, g, result, [&](int64_t j, int64_t count, vec before) {
              before += load(drive + i * g + j, count);
              if (a) store(a + i * g + j, before, count);
              squared += before * before;
              vec after = relu(before);
              if (m && !x.inner) after *= load(m + i * g + j, count);
              store(middle[0].row(first + i) + j, after);
            });
            store(squares, squared);
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            fetch(drive, g, i0, i1, p * Plain::P, Plain::P);
            fetch_to_write(a, g, i0, i1, p * Plain::P, Plain::P);
            fetch_to_write(d, g, i0, i1, p * Plain::P, Plain::P);
          });
      role.meet();
      if (x.normalize)
        for (int64_t i = 0; i < rows; i++) {
          r[i] = 1.0f / std::sqrt(sums(role, first + i) / static_cast<float>(g) + static_cast<float>(x.epsilon));
          if (x.r && role.slab == 0) x.r[t * B + first + i] = r[i];
        }
      // What has been handed on is still to be multiplied by r; what is kept is multiplied here.
      float* kept = x.inner ? (x.y ? x.y + at : nullptr) : d;
      if (kept)
        for (int64_t i = 0; i < rows; i++)
          for (int64_t j = g0 * Plain::P; j < g && j < g1 * Plain::P; j += W)
            store(kept + i * g + j, load(middle[0].row(first + i) + j) * r[i], g - j);
      for (int64_t k = 0; k < x.inner; k++) {
        const bool last = k + 1 == x.inner;
        Matrix &in = middle[k % 2], &out = middle[(k + 1) % 2];
        float* y = last ? d : x.y ? x.y + (k + 1) * x.T * B * g + at : nullptr;
        product(in.row(first), in.ld, rows, between(k), g0, g1, [&](int64_t i, int64_t p, const float* result) {
          const float scale = k == 0 ? r[i] : 1.0f;
          columns(p, g, result, [&](int64_t j, int64_t count, vec before) {
            vec after = relu(before * scale + load(x.b_k + k * g + j, count));
            if (m && last) after *= load(m + i * g + j, count);
            if (y) store(y + i * g + j, after, count);
            store(out.row(first + i) + j, after);
          });
        });
        role.meet();
      }
      Matrix& in = middle[x.inner % 2];
      float* h = x.h_step ? x.h + (t + 1) * x.h_step : t + 1 == x.T ? x.h : nullptr;
      product(in.row(first), in.ld, rows, W_c, n0, n1, [&](int64_t i, int64_t p, const float* result) {
        const float scale = x.inner ? 1.0f : r[i];
        const bool over = ended(t, first + i);
        float* own = state.row(first + i);
        columns(p, n, result, [&](int64_t j, int64_t count, vec c) {
          vec now = load(own + j);
          if (!over) now = load(x.s + j, count) * now + (c * scale + load(x.Zb + j, count));
          store(own + j, now);
          if (h) store(h + (first + i) * n + j, now, count);
        });
      });
      role.meet();
    }
  }

  void backwards(const Role& role) {
    const int64_t B = x.B, n = x.n, g = x.g, first = role.first, rows = role.rows();
    const Plain W_c = from_state(), W_h = to_state();
    const int64_t g0 = role.begin(W_c.panels()), g1 = role.end(W_c.panels());
    const int64_t n0 = role.begin(W_h.panels()), n1 = role.end(W_h.panels());
    if (role.slab == 0)
      for (int64_t b = first; b < role.last; b++)
        for (int64_t j = 0; j < n; j += W) {
          vec G = x.grad_h ? load(x.grad_h + b * n + j, n - j) : vec{};
          store(state.row(b) + j, G);
          G = ended(x.T - 1, b) ? vec{} : G;
          store(entering.row(b) + j, G);
          store(x.grad_c + ((x.T - 1) * B + b) * n + j, G, n - j);
        }
    role.meet();
    for (int64_t t = x.T - 1; t >= 0; t--) {
      const int64_t at = (t * B + first) * g;
      const float *a = x.a + at, *d = x.d + at, *m = mask(t, first), *grad_d = x.grad_d ? x.grad_d + at : nullptr;
      float* grad_a = x.grad_a + at;
      for (int64_t i = 0; i < rows; i++) store(partial.row(role.slab * B + first + i), vec{});
      // G(y) of the first ReLU layer, the one after Normalize, on to G of what Normalize gave.
      auto to_first = [&](int64_t i, int64_t j, int64_t count, vec G, vec& dot, Matrix& out) {
        vec before = load(a + i * g + j, count);
        G = where_positive(before, G);
        dot += G * before;
        store(out.row(first + i) + j, G);
        if (!x.normalize) store(grad_a + i * g + j, G, count);
      };
      product(
          entering.row(first), entering.ld, rows, W_c, g0, g1,
          [&](int64_t i, int64_t p, const float* result) {
            float* dots = partial.row(role.slab * B + first + i);
            vec dot = load(dots);
            columns(p, g, result, [&](int64_t j, int64_t count, vec G) {
              if (grad_d) G += load(grad_d + i * g + j, count);
              if (m) G *= load(m + i * g + j, count);
              if (!x.inner) return to_first(i, j, count, G, dot, middle[0]);
              G = where_positive(load(d + i * g + j, count), G);
              store(middle[0].row(first + i) + j, G);
              store(x.grad_z + (x.inner - 1) * x.T * B * g + at + i * g + j, G, count);
            });
            store(dots, dot);
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            fetch(grad_d, g, i0, i1, p * Plain::P, Plain::P);
            fetch(x.inner ? d : a, g, i0, i1, p * Plain::P, Plain::P);
            fetch_to_write(grad_a, g, i0, i1, p * Plain::P, Plain::P);
          });
      role.meet();
      for (int64_t k = x.inner - 1; k >= 0; k--) {
        Matrix &in = middle[(x.inner - 1 - k) % 2], &out = middle[(x.inner - k) % 2];
        product(in.row(first), in.ld, rows, between(k), g0, g1, [&](int64_t i, int64_t p, const float* result) {
          float* dots = partial.row(role.slab * B + first + i);
          vec dot = load(dots);
          columns(p, g, result, [&](int64_t j, int64_t count, vec G) {
            if (k == 0) return to_first(i, j, count, G, dot, out);
            G = where_positive(load(x.y + k * x.T * B * g + at + i * g + j, count), G);
            store(out.row(first + i) + j, G);
            store(x.grad_z + (k - 1) * x.T * B * g + at + i * g + j, G, count);
          });
          store(dots, dot);
        });
        role.meet();
      }
      Matrix& last = middle[x.inner % 2];
      if (x.normalize) {
        for (int64_t i = 0; i < rows; i++) {
          const float r = x.r[t * B + first + i];
          const float along = r * r * r * (sums(role, first + i) / static_cast<float>(g));
          for (int64_t j = g0 * Plain::P; j < g && j < g1 * Plain::P; j += W) {
            float* G = last.row(first + i) + j;
            store(G, load(G) * r - load(a + i * g + j, g - j) * along);
            store(grad_a + i * g + j, load(G), g - j);
          }
        }
        role.meet();
      }
      product(last.row(first), last.ld, rows, W_h, n0, n1,
              [&](int64_t i, int64_t p, const float* result) {
                const int64_t b = first + i;
                const bool over = ended(t, b), over_before = t > 0 && ended(t - 1, b);
                columns(p, n, result, [&](int64_t j, int64_t count, vec G) {
                  vec carried = load(state.row(b) + j);
                  G += over ? carried : load(x.s + j, count) * carried;
                  store(state.row(b) + j, G);
                  if (t == 0) return store(x.grad_h0 + b * n + j, G, count);
                  G = over_before ? vec{} : G;
                  store(entering.row(b) + j, G);
                  store(x.grad_c + ((t - 1) * B + b) * n + j, G, count);
                });
              });
      role.meet();
    }
  }
};

CELL(rru, RRU, RRUScan)
