// The GRU along time, in both reset forms; notation as in cells/gru.py and scan/gru_torch.py: T steps, B rows, n units.
// reset="after": one product and one barrier a step, the gates r, u, c of a unit side by side in a panel. "before": two
// of each. What a step's gradient needs elementwise is done where the product before it ends.
#include "entry.h"
#include "product.h"
#include "scratch.h"
#include "team.h"

struct GRU {
  int64_t T, B, n;
  const float *drive, *h0, *mask;
  int64_t mask_step;       // floats from one step's mask to the next; 0: one mask for all
  const int64_t* lengths;  // (B), or null
  const float *W_hg, *W_hc, *b_hc;  // (n,2n), (n,n), (n); b_hc null: reset="before"
  float* weights;                   // room for GRUScan::size floats
  float *features, *h;              // (T,B,n); (T + 1,B,n), or with kept = 0 the last only (B,n)
  int64_t kept;
  float *gates, *q;  // (T,B,3n) r, u, c and, "after", (T,B,n) h W_hc + b_hc: for the way back, null without one
  // backward only; the first two may be null
  const float *grad_features, *grad_h;
  float *grad_drive, *grad_q, *grad_h0;  // grad_q: (T,B,n), "after" only
};

class GRUScan {
 public:
  GRUScan(const GRU& x, bool backward, int)
      : x(x), backward(backward), after(x.b_hc), h{{x.B, backward ? 3 * x.n : x.n}, {x.B, backward ? 3 * x.n : x.n}},
        reset(x.B, x.n), carried(x.B, x.n) {}

  static int64_t size(const GRU& x) {
    const int64_t n = x.n, both = Three::size(n, n), two = Two::size(n, n) + Plain::size(n, n);
    const int64_t back = Plain::size(3 * n, n), most = both > two ? both : two;
    return most > back ? most : back;
  }

  void pack(int id, int count) {
    const int64_t n = x.n;
    auto pack = [&](const auto& w, const Source& source, int64_t row, int64_t rows) {
      w.pack(source, row, rows, share(w.panels(), count, id), share(w.panels(), count, id + 1));
    };
    if (after && backward) {
      pack(Plain{x.weights, 3 * n, n}, {{x.W_hg}, 2 * n, true, nullptr, nullptr}, 0, 2 * n);
      pack(Plain{x.weights, 3 * n, n}, {{x.W_hc}, n, true, nullptr, nullptr}, 2 * n, n);
    } else if (after) {
      // The three gates come from two matrices of different widths, so each is packed as a gate of its own.
      pack_gate(0, x.W_hg, 2 * n, id, count);
      pack_gate(1, x.W_hg + n, 2 * n, id, count);
      pack_gate(2, x.W_hc, n, id, count);
    } else if (backward) {
      pack(Plain{x.weights, 2 * n, n}, {{x.W_hg}, 2 * n, true, nullptr, nullptr}, 0, 2 * n);
      pack(candidate(), {{x.W_hc}, n, true, nullptr, nullptr}, 0, n);
    } else {
      pack(Two{x.weights, n, n}, {{x.W_hg, x.W_hg + n}, 2 * n, false, nullptr, nullptr}, 0, n);
      pack(candidate(), {{x.W_hc}, n, false, nullptr, nullptr}, 0, n);
    }
  }

  void operator()(const Role& role) {
    if (backward) backwards(role);
    else if (after) forwards_after(role);
    else forwards_before(role);
  }

 private:
  using Three = Weights<3, 3>;
  using Two = Weights<2, 2>;
  using Plain = Weights<WIDE>;
  const GRU& x;
  bool backward, after;
  Matrix h[2];     // what the products take: h; backwards the gradients of r, u, and c or q
  Matrix reset;    // "before": r h, or backwards its gradient's share of h's; "after" unused
  Matrix carried;  // forwards u; backwards what of the gradient of h goes around the products

  Plain candidate() const { return {x.weights + (backward ? Plain::size(2 * x.n, x.n) : Two::size(x.n, x.n)), x.n, x.n}; }
  void pack_gate(int q, const float* in, int64_t ld, int id, int count) {
    const Three w{x.weights, x.n, x.n};
    for (int64_t p = share(w.panels(), count, id); p < share(w.panels(), count, id + 1); p++)
      for (int64_t k = 0; k < x.n; k++)
        store(w.panel(p) + k * Three::P + q * W, load(in + k * ld + p * W, x.n - p * W));
  }
  bool ended(int64_t t, int64_t b) const { return x.lengths && x.lengths[b] <= t; }
  vec mask(int64_t t, int64_t b, int64_t j) const {
    return x.mask ? load(x.mask + t * x.mask_step + b * x.n + j, x.n - j) : all(1.0f);
  }

  void start(const Role& role) {
    for (int64_t b = role.first; role.slab == 0 && b < role.last; b++)
      for (int64_t j = 0; j < x.n; j += W) {
        vec now = load(x.h0 + b * x.n + j, x.n - j);
        store(h[0].row(b) + j, now);
        if (x.kept) store(x.h + b * x.n + j, now, x.n - j);
      }
    role.meet();
  }

  // h after step t from its gates; `before` and `next` are the places of the state.
  void finish(int64_t t, int64_t b, int64_t j, vec u, vec c, const float* before, float* next) {
    const int64_t n = x.n, count = n - j;
    vec now = load(before);
    vec after = u * now + (1.0f - u) * (c * mask(t, b, j));
    store(x.features + (t * x.B + b) * n + j, after, count);
    if (ended(t, b)) after = now;
    store(next, after);
    if (x.kept) store(x.h + ((t + 1) * x.B + b) * n + j, after, count);
    else if (t + 1 == x.T) store(x.h + b * n + j, after, count);
  }

  // What `finish` will write, for rows [i0, i1) after `first` and some columns.
  void fetch_finish(int64_t t, int64_t first, int64_t i0, int64_t i1, int64_t j, int64_t count) const {
    fetch<WRITE>(x.features + (t * x.B + first) * x.n, x.n, i0, i1, j, count);
    if (x.kept) fetch<WRITE>(x.h + ((t + 1) * x.B + first) * x.n, x.n, i0, i1, j, count);
  }

  void forwards_after(const Role& role) {
    const int64_t n = x.n, first = role.first;
    const Three W_h{x.weights, n, n};
    start(role);
    for (int64_t t = 0; t < x.T; t++) {
      const float* drive = x.drive + (t * x.B + first) * 3 * n;
      float* gates = x.gates ? x.gates + (t * x.B + first) * 3 * n : nullptr;
      Matrix &now = h[t % 2], &next = h[(t + 1) % 2];
      product(
          now.row(first), now.ld, role.rows(), W_h, role.begin(W_h.panels()), role.end(W_h.panels()),
          [&](int64_t i, int64_t p, const float* result) {
            const int64_t b = first + i, j = p * W, count = n - j;
            const float* in = drive + i * 3 * n + j;
            vec r = sigmoid(load(result) + load(in, count)), u = sigmoid(load(result + W) + load(in + n, count));
            vec q = load(result + 2 * W) + load(x.b_hc + j, count);
            vec c = tanh(load(in + 2 * n, count) + r * q);
            if (gates) {
              float* out = gates + i * 3 * n + j;
              store(out, r, count), store(out + n, u, count), store(out + 2 * n, c, count);
              store(x.q + (t * x.B + b) * n + j, q, count);
            }
            finish(t, b, j, u, c, now.row(b) + j, next.row(b) + j);
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            ahead(drive, gates, 0, 3, i0, i1, p * W, W);
            if (gates) fetch<WRITE>(x.q + (t * x.B + first) * n, n, i0, i1, p * W, W);
            fetch_finish(t, first, i0, i1, p * W, W);
          });
      role.meet();
    }
  }

  void forwards_before(const Role& role) {
    const int64_t n = x.n, first = role.first;
    const Two W_hg{x.weights, n, n};
    const Plain W_hc = candidate();
    start(role);
    for (int64_t t = 0; t < x.T; t++) {
      const float* drive = x.drive + (t * x.B + first) * 3 * n;
      float* gates = x.gates ? x.gates + (t * x.B + first) * 3 * n : nullptr;
      product(
          h[0].row(first), h[0].ld, role.rows(), W_hg, role.begin(W_hg.panels()), role.end(W_hg.panels()),
          [&](int64_t i, int64_t p, const float* result) {
            const int64_t b = first + i, j = p * W, count = n - j;
            const float* in = drive + i * 3 * n + j;
            vec r = sigmoid(load(result) + load(in, count)), u = sigmoid(load(result + W) + load(in + n, count));
            if (gates) store(gates + i * 3 * n + j, r, count), store(gates + i * 3 * n + n + j, u, count);
            store(reset.row(b) + j, r * load(h[0].row(b) + j));
            store(carried.row(b) + j, u);
          },
          [&](int64_t i0, int64_t i1, int64_t p) { ahead(drive, gates, 0, 2, i0, i1, p * W, W); });
      role.meet();
      product(
          reset.row(first), reset.ld, role.rows(), W_hc, role.begin(W_hc.panels()), role.end(W_hc.panels()),
          [&](int64_t i, int64_t p, const float* result) {
            const int64_t b = first + i;
            for (int v = 0; v < WIDE; v++) {
              const int64_t j = p * Plain::P + v * W, count = n - j;
              if (count <= 0) continue;
              vec c = tanh(load(result + v * W) + load(drive + i * 3 * n + 2 * n + j, count));
              if (gates) store(gates + i * 3 * n + 2 * n + j, c, count);
              finish(t, b, j, load(carried.row(b) + j), c, h[0].row(b) + j, h[0].row(b) + j);
            }
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            ahead(drive, gates, 2, 3, i0, i1, p * Plain::P, Plain::P);
            fetch_finish(t, first, i0, i1, p * Plain::P, Plain::P);
          });
      role.meet();
    }
  }

  void ahead(const float* read, float* written, int q0, int q1, int64_t i0, int64_t i1, int64_t j, int64_t count) const {
    for (int q = q0; q < q1; q++) {
      fetch<READ>(read, 3 * x.n, i0, i1, q * x.n + j, count);
      fetch<WRITE>(written, 3 * x.n, i0, i1, q * x.n + j, count);
    }
  }

  // From the gradient of h after step t, without that of the features, on to those of u, c and, "after", r and q.
  void step_back(int64_t t, int64_t b, int64_t j, vec G_h) {
    const int64_t n = x.n, count = n - j, at = t * x.B + b;
    const float* gates = x.gates + at * 3 * n + j;
    vec passed = ended(t, b) ? G_h : vec{};
    if (ended(t, b)) G_h = vec{};
    if (x.grad_features) G_h += load(x.grad_features + at * n + j, count);
    vec u = load(gates + n, count), c = load(gates + 2 * n, count), m = mask(t, b, j);
    vec G_u = G_h * (load(x.h + at * n + j, count) - c * m) * u * (1.0f - u);
    vec G_c = G_h * (1.0f - u) * m * (1.0f - c * c);
    store(carried.row(b) + j, passed + G_h * u);
    float *G = h[t % 2].row(b) + j, *kept = x.grad_drive + at * 3 * n + j;
    store(kept + n, G_u, count), store(kept + 2 * n, G_c, count);
    if (after) {
      vec r = load(gates, count), G_q = G_c * r;
      vec G_r = G_c * load(x.q + at * n + j, count) * r * (1.0f - r);
      store(kept, G_r, count);
      store(x.grad_q + at * n + j, G_q, count);
      store(G, G_r, count), store(G + n, G_u, count), store(G + 2 * n, G_q, count);
    } else {
      store(G + n, G_u, count), store(G + 2 * n, G_c, count);
    }
  }

  void backwards(const Role& role) {
    const int64_t B = x.B, n = x.n, first = role.first;
    const Plain W_h{x.weights, after ? 3 * n : 2 * n, n}, W_hc = candidate();
    const int64_t p0 = role.begin(W_h.panels()), p1 = role.end(W_h.panels());
    for (int64_t b = first; b < role.last; b++)
      for (int64_t j = p0 * Plain::P; j < n && j < p1 * Plain::P; j += W)
        step_back(x.T - 1, b, j, x.grad_h ? load(x.grad_h + b * n + j, n - j) : vec{});
    role.meet();
    for (int64_t t = x.T - 1; t >= 0; t--) {
      Matrix& G = h[t % 2];
      if (!after) {
        product(G.row(first) + 2 * n, G.ld, role.rows(), W_hc, p0, p1, [&](int64_t i, int64_t p, const float* result) {
          const int64_t b = first + i, at = t * B + b;
          for (int v = 0; v < WIDE; v++) {
            const int64_t j = p * Plain::P + v * W, count = n - j;
            if (count <= 0) continue;
            vec G_rh = load(result + v * W), r = load(x.gates + at * 3 * n + j, count);
            vec G_r = G_rh * load(x.h + at * n + j, count) * r * (1.0f - r);
            store(G.row(b) + j, G_r, count);
            store(x.grad_drive + at * 3 * n + j, G_r, count);
            store(carried.row(b) + j, load(carried.row(b) + j) + r * G_rh);
          }
        });
        role.meet();
      }
      product(
          G.row(first), G.ld, role.rows(), W_h, p0, p1,
          [&](int64_t i, int64_t p, const float* result) {
            const int64_t b = first + i;
            for (int v = 0; v < WIDE; v++) {
              const int64_t j = p * Plain::P + v * W;
              if (j >= n) continue;
              vec G_h = load(result + v * W) + load(carried.row(b) + j);
              if (t > 0) step_back(t - 1, b, j, G_h);
              else store(x.grad_h0 + b * n + j, G_h, n - j);
            }
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            if (t == 0) return;
            const int64_t at = ((t - 1) * B + first) * n, j = p * Plain::P;
            ahead(x.gates + 3 * at, x.grad_drive + 3 * at, 0, 3, i0, i1, j, Plain::P);
            fetch<READ>(x.h + at, n, i0, i1, j, Plain::P);
            if (x.grad_features) fetch<READ>(x.grad_features + at, n, i0, i1, j, Plain::P);
            if (after) fetch<READ>(x.q + at, n, i0, i1, j, Plain::P), fetch<WRITE>(x.grad_q + at, n, i0, i1, j, Plain::P);
          });
      role.meet();
    }
  }
};

CELL(gru, GRU, GRUScan)
