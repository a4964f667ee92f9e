// The RRU along time; notation as in cells/rru.py: T steps, B rows, n units, g middle units; `inner` is the number of
// ReLU layers after the first.
//
// Normalisation costs no barrier: ReLU(r a) = r ReLU(a) for r > 0, so the product after it takes ReLU(a), partial sums
// of a^2 travel with it, and r multiplies its result. Backwards there is one where threads share rows: it is cheaper than
// to have each of them read all of a.
//
// Threads that share rows divide the middle units. What a thread makes of them, it multiplies itself: then the sums of
// all threads are exchanged, n + p numbers a row, and not the g middle units. One thread alone does the same.

#include "entry.h"
#include "product.h"
#include "scratch.h"
#include "sparse.h"
#include "team.h"

struct RRU {
  int64_t T, B, n, g, m, p, inner, normalize;
  double epsilon;
  const float *in, *h0, *mask;  // x (T,B,m), or with m = 0 the drive (T,B,g)
  int64_t mask_step;            // floats from one step's mask to the next; 0: one mask for all
  const int64_t* lengths;       // (B), or null
  const float *W_h, *W_c, *W_x, *b_j, *W_o, *b_o;  // (n,g), (g,n), (m,g), (g), (g,p), (p)
  const float *const *W_k, *const *b_k;            // `inner` of (g,g) and (g)
  const float *s, *Z, *Zb;                         // (n) each: sigmoid(10 S), Z, Z * b_c
  float* weights;                                  // room for RRUScan::size floats
  float *out, *h;  // o (T,B,p), or with p = 0 d (T,B,g); (T + 1,B,n), or with h_step = 0 the last only (B,n)
  int64_t h_step;
  float* a;  // for the way back, null without one, as the next two: (T,B,g), its rows `ld` apart
  int64_t ld;
  float *r, *const *y;  // (T,B); `inner` of (T,B,g): outputs of the ReLU layers after the first, the last of them d
  // backward only; the first two may be null
  const float *grad_out, *grad_h;
  float* grad_a;  // (T,B,g), its rows `grad_a_ld` apart
  int64_t grad_a_ld;
  float *const *grad_z, *grad_c, *grad_h0;  // `inner` of (T,B,g) before each ReLU; (T,B,n): Z * this is G(c); (B,n)
  float* grad_s;                            // (B,n) each row's share is added here
};

class RRUScan {
 public:
  RRUScan(const RRU& x, bool backward, int threads)
      : x(x),
        backward(backward),
        span(!backward && x.B <= SPAN_ROWS / 4 ? SPAN_ROWS / x.B : 1),
        middle{{x.B, x.g}, {x.inner ? x.B : 0, x.g}},
        handed(backward ? 0 : span * x.B, x.g),
        drives(span > 1 && x.m ? span * x.B : 0, x.g),
        state(x.B, x.n + (backward ? 0 : beside())),
        entering(backward ? x.B : 0, x.n + x.p),
        biases(1 + x.inner, x.g),
        partial(x.B * threads, W),
        shares(x.B * (threads / row_groups(threads, x.B, size(x) * 4)),
               (backward ? to_state() : to_both()).panels() * Plain::P) {
    if (x.m && !backward) memcpy(biases.row(0), x.b_j, static_cast<size_t>(x.g) * 4);
    for (int64_t k = 0; k < x.inner; k++) memcpy(biases.row(1 + k), x.b_k[k], static_cast<size_t>(x.g) * 4);
  }

  static int64_t size(const RRU& x) {
    return Plain::size(x.n + std::max(x.m, x.p), x.g) + x.inner * Plain::size(x.g, x.g) + Plain::size(x.g, x.n) +
           Plain::size(x.g, x.p);
  }

  void pack(int id, int count) {
    auto pack = [&](const Plain& w, const Source& source, int64_t row, int64_t rows) {
      w.pack(source, row, rows, share(w.panels(), count, id), share(w.panels(), count, id + 1));
    };
    if (backward) {
      pack(to_middle(), {{x.W_c}, x.n, true, nullptr, x.Z}, 0, x.n);
      if (x.p) pack(to_middle(), {{x.W_o}, x.p, true, nullptr, nullptr}, x.n, x.p);
      pack(to_state(), {{x.W_h}, x.g, true, nullptr, nullptr}, 0, x.g);
    } else {
      pack(to_middle(), {{x.W_h}, x.g, false, nullptr, nullptr}, 0, x.n);
      if (beside()) pack(to_middle(), {{x.W_x}, x.g, false, nullptr, nullptr}, x.n, x.m);
      else if (x.m) pack(of_input(), {{x.W_x}, x.g, false, nullptr, nullptr}, 0, x.m);
      pack(to_state(), {{x.W_c}, x.n, false, x.Z, nullptr}, 0, x.g);
      if (x.p) pack(to_output(), {{x.W_o}, x.p, false, nullptr, nullptr}, 0, x.g);
    }
    for (int64_t k = 0; k < x.inner; k++) pack(between(k), {{x.W_k[k]}, x.g, backward, nullptr, nullptr}, 0, x.g);
  }

  void operator()(const Role& role) { backward ? backwards(role) : forwards(role); }

 private:
  using Plain = Weights<WIDE>;
  const RRU& x;
  bool backward;
  // A few rows at a time do not pay for reading weights. So, with a small batch, the steps of a span take their products
  // with the input and to the output together, SPAN_ROWS rows; else a span is one step, and x stands beside h.
  static constexpr int64_t SPAN_ROWS = 16;
  int64_t span;
  Matrix middle[2];  // what one product hands to the next
  Matrix handed;     // forwards the same from the last ReLU layer, for each step of the span: half of it is zero
  Matrix drives;     // x W_x + b_j for each step of the span
  Matrix state;      // forwards h and perhaps x; backwards the gradient of h
  Matrix entering;   // backwards: the gradient of h where the row has not ended, 0 where it has; beside it that of o
  Matrix biases;     // b_j, b_k
  Matrix partial;    // a register of partial sums for each slab and row
  Matrix shares;     // of each slab and row, the sums that the slab's middle units give

  // The products of a step: to the middle units, between them, on to the state and, forwards, to the output.
  int64_t beside() const { return backward ? x.p : span > 1 ? 0 : x.m; }
  Plain to_middle() const { return {x.weights, x.n + beside(), x.g}; }
  Plain of_input() const { return {after(to_middle()), x.m - (backward ? x.m : beside()), x.g}; }
  Plain between(int64_t k) const { return {after(of_input()) + k * Plain::size(x.g, x.g), x.g, x.g}; }
  Plain to_state() const { return {after(of_input()) + x.inner * Plain::size(x.g, x.g), x.g, x.n, !backward}; }
  Plain to_output() const { return {after(to_state()), x.g, x.p, true}; }
  Plain to_both() const { return {to_state().data, x.g, to_state().panels() * Plain::P + x.p, true}; }
  static float* after(const Plain& w) { return w.data + Plain::size(w.K, w.units); }

  bool ended(int64_t t, int64_t b) const { return x.lengths && x.lengths[b] <= t; }
  const float* mask(int64_t t, int64_t first) const { return x.mask ? x.mask + t * x.mask_step + first * x.g : nullptr; }
  float sums(const Role& role, int64_t b) {
    vec total{};
    for (int slab = 0; slab < role.slabs; slab++) total += load(partial.row(slab * x.B + b));
    return sum(total);
  }

  // Keeps what the slab's middle units give, for `gather`.
  auto contribute(const Role& role) {
    return [this, &role](int64_t i, int64_t p, const float* result) {
      float* to = shares.row(role.slab * x.B + role.first + i) + p * Plain::P;
      for (int v = 0; v < WIDE; v++) store(to + v * W, load(result + v * W));
    };
  }

  // This thread's part of the product with `weights`, of all slabs: for each row and panel, after(row, panel, results).
  template <class After>
  void gather(const Role& role, const Plain& weights, After after) {
    alignas(64) float result[Plain::P];
    const int64_t units = weights.panels() * role.rows();
    for (int64_t unit = role.begin(units); unit < role.end(units); unit++) {
      const int64_t p = unit / role.rows(), i = unit % role.rows();
      for (int v = 0; v < WIDE; v++) {
        vec total{};
        for (int slab = 0; slab < role.slabs; slab++)
          total += load(shares.row(slab * x.B + role.first + i) + p * Plain::P + v * W);
        store(result + v * W, total);
      }
      after(i, p, result);
    }
  }

  // The registers of one row of one panel: each(column, floats from there to the end, result there).
  template <class Each>
  static void columns(int64_t p, int64_t n, const float* result, Each each) {
    for (int v = 0; v < WIDE; v++) {
      int64_t column = p * Plain::P + v * W;
      if (column < n) each(column, n - column, load(result + v * W));
    }
  }

  // Step t of what goes beside the state into the first product, from (T,B,width) or zeros: this thread's rows of it.
  void bring(const Role& role, Matrix& beside, const float* from, int64_t t, int64_t width) {
    for (int64_t i = share(role.rows(), role.slabs, role.slab); i < share(role.rows(), role.slabs, role.slab + 1); i++) {
      float* to = beside.row(role.first + i) + x.n;
      if (!from) memset(to, 0, static_cast<size_t>(width) * 4);
      else memcpy(to, from + (t * x.B + role.first + i) * width, static_cast<size_t>(width) * 4);
    }
  }

  // The drives of a span from step t on: these panels, for all rows.
  void prepare(int64_t t, int64_t p0, int64_t p1) {
    product(x.in + t * x.B * x.m, x.m, std::min(span, x.T - t) * x.B, of_input(), p0, p1,
            [&](int64_t i, int64_t p, const float* result) {
              columns(p, x.g, result, [&](int64_t j, int64_t, vec drive) {
                store(drives.row(i) + j, drive + load(biases.row(0) + j));
              });
            });
  }

  void forwards(const Role& role) {
    const int64_t B = x.B, n = x.n, g = x.g, first = role.first, rows = role.rows();
    const Plain W_h = to_middle(), W_c = to_state(), W_o = to_output(), onward = span > 1 ? W_c : to_both();
    const int64_t g0 = role.begin(W_h.panels()), g1 = role.end(W_h.panels());
    const int64_t k0 = g0 * Plain::P, k1 = std::min(g1 * Plain::P, g);
    std::vector<Places<1>> places;
    if (role.slab == 0)
      for (int64_t b = first; b < role.last; b++) {
        memcpy(state.row(b), x.h0 + b * n, static_cast<size_t>(n) * 4);
        if (x.h_step) memcpy(x.h + b * n, x.h0 + b * n, static_cast<size_t>(n) * 4);
      }
    if (beside()) bring(role, state, x.in, 0, x.m);
    role.meet();
    std::vector<float> scales(static_cast<size_t>(span * rows), 1.0f);
    for (int64_t t = 0; t < x.T; t++) {
      const int64_t at = (t * B + first) * g, in_span = t % span * B, drive_ld = x.m ? drives.ld : g;
      if (span > 1 && x.m && t % span == 0) prepare(t, g0, g1);
      const float* drive = !x.m ? x.in + at : span > 1 ? drives.row(in_span) : nullptr;
      const float* m = mask(t, first);
      float* r = scales.data() + t % span * rows;
      float* a = x.a ? x.a + (t * B + first) * x.ld : nullptr;
      for (int64_t i = 0; i < rows; i++) store(partial.row(role.slab * B + first + i), vec{});
      product(
          state.row(first), state.ld, rows, W_h, g0, g1,
          [&](int64_t i, int64_t p, const float* result) {
            float* squares = partial.row(role.slab * B + first + i);
            vec squared = load(squares);
            columns(p, g, result, [&](int64_t j, int64_t count, vec before) {
              before += drive ? load(drive + i * drive_ld + j, count) : load(biases.row(0) + j);
              if (a) store(a + i * x.ld + j, before);
              squared += before * before;
              vec after = relu(before);
              if (m && !x.inner) after *= load(m + i * g + j, count);
              if (x.inner) store(middle[0].row(first + i) + j, after);
              else store(handed.row(in_span + first + i) + j, after);
              if (!x.p && !x.inner) store(x.out + at + i * g + j, after, count);
            });
            store(squares, squared);
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            fetch<READ>(drive, drive_ld, i0, i1, p * Plain::P, Plain::P);
            if (!x.inner) fetch<READ>(m, g, i0, i1, p * Plain::P, Plain::P);
            fetch<WRITE>(a, x.ld, i0, i1, p * Plain::P, Plain::P);
            // Others have read what is there before it is written again.
            if (x.inner && role.slabs > 1) fetch<WRITE>(middle[0].row(first), middle[0].ld, i0, i1, p * Plain::P, Plain::P);
          });
      auto hand_on = [&] {
        if (k0 < k1)  // with more threads than panels, some have none
          sparse_product(handed.row(in_span + first) + k0, handed.ld, rows, onward.rows(k0, k1), places, contribute(role));
      };
      if (!x.inner) hand_on();
      role.meet();
      if (x.normalize)
        for (int64_t i = 0; i < rows; i++) {
          r[i] = 1.0f / __builtin_sqrtf(sums(role, first + i) / static_cast<float>(g) + static_cast<float>(x.epsilon));
          if (x.r && role.slab == 0) x.r[t * B + first + i] = r[i];
        }
      // What has been handed on is still to be multiplied by r; d, if it is wanted, is multiplied here.
      if (!x.p && !x.inner)
        for (int64_t i = 0; i < rows; i++)
          for (int64_t j = g0 * Plain::P; j < g && j < g1 * Plain::P; j += W)
            store(x.out + at + i * g + j, load(x.out + at + i * g + j, g - j) * r[i], g - j);
      for (int64_t k = 0; k < x.inner; k++) {
        const bool last = k + 1 == x.inner;
        Matrix &in = middle[k % 2], &out = middle[(k + 1) % 2];
        float *y = x.y ? x.y[k] + at : nullptr, *d = last && !x.p ? x.out + at : nullptr;
        product(in.row(first), in.ld, rows, between(k), g0, g1, [&](int64_t i, int64_t p, const float* result) {
          const float scale = k == 0 ? r[i] : 1.0f;
          columns(p, g, result, [&](int64_t j, int64_t count, vec before) {
            vec after = relu(before * scale + load(biases.row(1 + k) + j));
            if (m && last) after *= load(m + i * g + j, count);
            if (y) store(y + i * g + j, after, count);
            if (d) store(d + i * g + j, after, count);
            if (last) store(handed.row(in_span + first + i) + j, after);
            else store(out.row(first + i) + j, after);
          });
        });
        if (last) hand_on();
        role.meet();
      }
      float* h = x.h_step ? x.h + (t + 1) * x.h_step : t + 1 == x.T ? x.h : nullptr;
      // Panels of W_c are the state's, those after them the output's.
      float* o = x.out + (t * B + first) * x.p;
      const float* scale_of = r;
      int64_t panels_before = 0;
      auto take = [&](int64_t i, int64_t p, const float* result) {
        const float scale = x.inner ? 1.0f : scale_of[i];
        if (p + panels_before >= W_c.panels())
          return columns(p + panels_before - W_c.panels(), x.p, result, [&](int64_t j, int64_t count, vec out) {
            store(o + i * x.p + j, out * scale + load(x.b_o + j, count), count);
          });
        const bool over = ended(t, first + i);
        float* own = state.row(first + i);
        columns(p, n, result, [&](int64_t j, int64_t count, vec c) {
          vec now = load(own + j, count);
          if (!over) now = load(x.s + j, count) * now + (c * scale + load(x.Zb + j, count));
          store(own + j, now, count);
          if (h) store(h + (first + i) * n + j, now, count);
        });
      };
      gather(role, onward, take);
      if (span > 1 && (t % span == span - 1 || t + 1 == x.T)) {  // then all rows are this thread's
        const int64_t start = t - t % span, all_rows = (t + 1 - start) * B, all_units = W_o.panels() * all_rows;
        o = x.out + start * B * x.p, scale_of = scales.data(), panels_before = W_c.panels();
        product_of_units(handed.row(0), handed.ld, all_rows, W_o, role.begin(all_units), role.end(all_units), take);
      }
      if (beside() && t + 1 < x.T) bring(role, state, x.in, t + 1, x.m);
      role.meet();
    }
  }

  void backwards(const Role& role) {
    const int64_t B = x.B, n = x.n, g = x.g, first = role.first, rows = role.rows();
    const Plain W_c = to_middle(), W_h = to_state();
    const int64_t g0 = role.begin(W_c.panels()), g1 = role.end(W_c.panels());
    const int64_t k0 = g0 * Plain::P, k1 = std::min(g1 * Plain::P, g);
    if (role.slab == 0)
      for (int64_t b = first; b < role.last; b++)
        for (int64_t j = 0; j < n; j += W) {
          vec G = x.grad_h ? load(x.grad_h + b * n + j, n - j) : vec{};
          store(state.row(b) + j, G);
          G = ended(x.T - 1, b) ? vec{} : G;
          store(entering.row(b) + j, G, n - j);
          store(x.grad_c + ((x.T - 1) * B + b) * n + j, G, n - j);
        }
    if (x.p) bring(role, entering, x.grad_out, x.T - 1, x.p);
    role.meet();
    for (int64_t t = x.T - 1; t >= 0; t--) {
      const int64_t at = (t * B + first) * g;
      const float *a = x.a + (t * B + first) * x.ld, *m = mask(t, first);
      const float* grad_d = x.grad_out && !x.p ? x.grad_out + at : nullptr;
      float* grad_a = x.grad_a + (t * B + first) * x.grad_a_ld;
      for (int64_t i = 0; i < rows; i++) store(partial.row(role.slab * B + first + i), vec{});
      // G(y) of the first ReLU layer, the one after Normalize, on to G of what Normalize gave.
      auto to_first = [&](int64_t i, int64_t j, int64_t count, vec G, vec& dot, Matrix& out) {
        vec before = load(a + i * x.ld + j);
        G = where_positive(before, G);
        dot += G * before;
        store(out.row(first + i) + j, G);
        if (!x.normalize) store(grad_a + i * x.grad_a_ld + j, G, count);
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
              G = where_positive(load(x.y[x.inner - 1] + at + i * g + j, count), G);
              store(middle[0].row(first + i) + j, G);
              store(x.grad_z[x.inner - 1] + at + i * g + j, G, count);
            });
            store(dots, dot);
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            fetch<READ>(grad_d, g, i0, i1, p * Plain::P, Plain::P);
            fetch<READ>(m, g, i0, i1, p * Plain::P, Plain::P);
            if (!x.inner) fetch<READ>(a, x.ld, i0, i1, p * Plain::P, Plain::P);
            fetch<WRITE>(grad_a, x.grad_a_ld, i0, i1, p * Plain::P, Plain::P);
            if (x.inner && role.slabs > 1) fetch<WRITE>(middle[0].row(first), middle[0].ld, i0, i1, p * Plain::P, Plain::P);
          });
      if (x.normalize || x.inner) role.meet();
      for (int64_t k = x.inner - 1; k >= 0; k--) {
        Matrix &in = middle[(x.inner - 1 - k) % 2], &out = middle[(x.inner - k) % 2];
        product(in.row(first), in.ld, rows, between(k), g0, g1, [&](int64_t i, int64_t p, const float* result) {
          float* dots = partial.row(role.slab * B + first + i);
          vec dot = load(dots);
          columns(p, g, result, [&](int64_t j, int64_t count, vec G) {
            if (k == 0) return to_first(i, j, count, G, dot, out);
            G = where_positive(load(x.y[k - 1] + at + i * g + j, count), G);
            store(out.row(first + i) + j, G);
            store(x.grad_z[k - 1] + at + i * g + j, G, count);
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
            float* at_j = last.row(first + i) + j;
            vec G = load(at_j) * r - load(a + i * x.ld + j) * along;
            store(at_j, G);
            store(grad_a + i * x.grad_a_ld + j, G, g - j);
          }
        }
      }
      if (k0 < k1)
        product(last.row(first) + k0, last.ld, rows, W_h.rows(k0, k1), 0, W_h.panels(), contribute(role));
      role.meet();
      auto take = [&](int64_t i, int64_t p, const float* result) {
        const int64_t b = first + i;
        const bool over = ended(t, b), over_before = t > 0 && ended(t - 1, b);
        columns(p, n, result, [&](int64_t j, int64_t count, vec G) {
          vec carried = load(state.row(b) + j);
          float *into = entering.row(b) + j, *s = x.grad_s + b * n + j;
          store(s, load(s, count) + load(into, count) * load(x.h + (t * B + b) * n + j, count), count);
          G += over ? carried : load(x.s + j, count) * carried;
          store(state.row(b) + j, G);
          if (t == 0) return store(x.grad_h0 + b * n + j, G, count);
          G = over_before ? vec{} : G;
          store(into, G, count);
          store(x.grad_c + ((t - 1) * B + b) * n + j, G, count);
        });
      };
      gather(role, W_h, take);
      if (x.p && t > 0) bring(role, entering, x.grad_out, t - 1, x.p);
      role.meet();
    }
  }
};

CELL(rru, RRU, RRUScan)
