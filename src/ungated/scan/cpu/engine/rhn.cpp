// The RHN along time; notation as in cells/rhn.py and scan/rhn_torch.py: T steps of `depth` micro-steps, B rows, n units;
// h and t of a unit lie side by side in a panel. One product and one barrier a micro-step, forwards and backwards: what a
// micro-step's gradient needs elementwise is done where the product before it ends.
#include "entry.h"
#include "product.h"
#include "scratch.h"
#include "team.h"

struct RHN {
  int64_t T, B, n, depth;
  const float *drive, *s0, *mask;      // (T,B,2n), (B,n), z_h
  int64_t mask_step;                   // floats from one step's mask to the next; 0: one mask for all
  const int64_t* lengths;              // (B), or null
  const float *const *R, *const *b;    // 2 depth each: those of H, then those of T
  float* weights;                      // room for RHNScan::size floats
  float *features, *s;                 // (T,B,n); (T + 1,B,n), or with kept = 0 the last only (B,n)
  int64_t kept;
  float *gates, *inner;  // (depth,T,B,2n) h, t; (depth - 1,T,B,n) s after each micro-step: null without a way back
  // backward only; the first two may be null
  const float *grad_features, *grad_s;
  float *grad_z, *grad_s0;  // (depth,T,B,2n) by what tanh and sigmoid take
};

class RHNScan {
 public:
  RHNScan(const RHN& x, bool backward, int)
      : x(x), backward(backward), entering{{x.B, backward ? 2 * x.n : x.n}, {x.B, backward ? 2 * x.n : x.n}}, s(x.B, x.n),
        outer(x.B, x.n) {}

  static int64_t size(const RHN& x) {
    const int64_t forward = Gates::size(x.n, x.n), back = Plain::size(2 * x.n, x.n);
    return x.depth * (forward > back ? forward : back);
  }

  void pack(int id, int count) {
    for (int64_t l = 0; l < x.depth; l++)
      if (backward) {
        const Plain w = back(l);
        for (int64_t q = 0; q < 2; q++)
          w.pack({{x.R[q * x.depth + l]}, x.n, true, nullptr, nullptr}, q * x.n, x.n, share(w.panels(), count, id),
                 share(w.panels(), count, id + 1));
      } else {
        const Gates w = gates(l);
        w.pack({{x.R[l], x.R[x.depth + l]}, x.n, false, nullptr, nullptr}, 0, x.n, share(w.panels(), count, id),
               share(w.panels(), count, id + 1));
      }
  }

  void operator()(const Role& role) { backward ? backwards(role) : forwards(role); }

 private:
  using Gates = Weights<2, 2>;
  using Plain = Weights<WIDE>;
  const RHN& x;
  bool backward;
  Matrix entering[2];  // what the product of this micro-step and of the next one takes
  Matrix s;            // backwards what of its gradient goes around the product
  Matrix outer;        // s before the time step; backwards what of its gradient passes an ended row by

  Gates gates(int64_t l) const { return {x.weights + l * Gates::size(x.n, x.n), x.n, x.n}; }
  Plain back(int64_t l) const { return {x.weights + l * Plain::size(2 * x.n, x.n), 2 * x.n, x.n}; }
  bool ended(int64_t t, int64_t b) const { return x.lengths && x.lengths[b] <= t; }
  vec masked(int64_t t, int64_t b, int64_t j, vec value) const {
    return x.mask ? value * load(x.mask + t * x.mask_step + b * x.n + j, x.n - j) : value;
  }

  // The state that micro-step l took, on the way back, at row `at` of all steps' rows.
  const float* state_before(int64_t l, int64_t at) const {
    return l == 0 ? x.s + at * x.n : x.inner + ((l - 1) * x.T * x.B + at) * x.n;
  }

  void forwards(const Role& role) {
    const int64_t T = x.T, B = x.B, n = x.n, first = role.first;
    const int64_t p0 = role.begin(gates(0).panels()), p1 = role.end(gates(0).panels());
    for (int64_t b = first; b < role.last; b++)
      for (int64_t j = p0 * W; j < n && j < p1 * W; j += W) {
        vec start = load(x.s0 + b * n + j, n - j);
        store(s.row(b) + j, start);
        store(entering[0].row(b) + j, masked(0, b, j, start));
        if (x.kept) store(x.s + b * n + j, start, n - j);
      }
    role.meet();
    for (int64_t t = 0, turn = 0; t < T; t++)
      for (int64_t l = 0; l < x.depth; l++, turn++) {
        const float* drive = l == 0 ? x.drive + (t * B + first) * 2 * n : nullptr;
        float* kept = x.gates ? x.gates + ((l * T + t) * B + first) * 2 * n : nullptr;
        const float *b_H = x.b[l], *b_T = x.b[x.depth + l];
        const bool last = l + 1 == x.depth;
        Matrix &now = entering[turn % 2], &next = entering[(turn + 1) % 2];
        product(
            now.row(first), now.ld, role.rows(), gates(l), p0, p1,
            [&](int64_t i, int64_t p, const float* result) {
              const int64_t b = first + i, j = p * W, count = n - j, at = t * B + b;
              vec h = load(result) + load(b_H + j, count), gate = load(result + W) + load(b_T + j, count);
              if (drive) h += load(drive + i * 2 * n + j, count), gate += load(drive + i * 2 * n + n + j, count);
              h = tanh(h), gate = sigmoid(gate);
              if (kept) store(kept + i * 2 * n + j, h, count), store(kept + i * 2 * n + n + j, gate, count);
              vec before = load(s.row(b) + j), after = h * gate + before * (1.0f - gate);
              if (l == 0) store(outer.row(b) + j, before);
              if (last) {
                store(x.features + at * n + j, after, count);
                if (ended(t, b)) after = load(outer.row(b) + j);
                if (x.kept) store(x.s + (at + B) * n + j, after, count);
                else if (t + 1 == T) store(x.s + b * n + j, after, count);
              } else if (x.inner) {
                store(x.inner + (l * T * B + at) * n + j, after, count);
              }
              store(s.row(b) + j, after);
              const int64_t t_next = last && t + 1 < T ? t + 1 : t;
              store(next.row(b) + j, masked(t_next, b, j, after));
            },
            [&](int64_t i0, int64_t i1, int64_t p) {
              for (int64_t j = p * W; j < 2 * n; j += n) {
                fetch<READ>(drive, 2 * n, i0, i1, j, W);
                fetch<WRITE>(kept, 2 * n, i0, i1, j, W);
              }
              const int64_t at = t * B + first;
              if (last) fetch<WRITE>(x.features + at * n, n, i0, i1, p * W, W);
              if (last && x.kept) fetch<WRITE>(x.s + (at + B) * n, n, i0, i1, p * W, W);
              if (!last && x.inner) fetch<WRITE>(x.inner + (l * T * B + at) * n, n, i0, i1, p * W, W);
              fetch<WRITE>(next.row(first), next.ld, i0, i1, p * W, W);
            });
        role.meet();
      }
  }

  // From the gradient of s after micro-step l on to those of what its tanh and sigmoid take.
  void step_back(int64_t t, int64_t l, Matrix& out, int64_t b, int64_t j, vec G) {
    const int64_t n = x.n, count = n - j, at = t * x.B + b, here = (l * x.T * x.B + at) * 2 * n + j;
    if (l + 1 == x.depth) {
      store(outer.row(b) + j, ended(t, b) ? G : vec{});
      if (ended(t, b)) G = vec{};
      if (x.grad_features) G += load(x.grad_features + at * n + j, count);
    }
    vec h = load(x.gates + here, count), gate = load(x.gates + here + n, count);
    vec G_h = G * gate * (1.0f - h * h), G_t = G * (h - load(state_before(l, at) + j, count)) * gate * (1.0f - gate);
    store(s.row(b) + j, G * (1.0f - gate));
    store(out.row(b) + j, G_h, count), store(out.row(b) + n + j, G_t, count);
    store(x.grad_z + here, G_h, count), store(x.grad_z + here + n, G_t, count);
  }

  // What `step_back` will read and write, for rows [i0, i1) after `first` and some columns.
  void fetch_back(int64_t t, int64_t l, Matrix& out, int64_t first, int64_t i0, int64_t i1, int64_t column,
                  int64_t count) {
    const int64_t n = x.n, at = t * x.B + first, here = (l * x.T * x.B + at) * 2 * n;
    fetch<READ>(state_before(l, at), n, i0, i1, column, count);
    if (l + 1 == x.depth && x.grad_features) fetch<READ>(x.grad_features + at * n, n, i0, i1, column, count);
    for (int64_t j = column; j < 2 * n; j += n) {
      fetch<READ>(x.gates + here, 2 * n, i0, i1, j, count);
      fetch<WRITE>(x.grad_z + here, 2 * n, i0, i1, j, count);
      fetch<WRITE>(out.row(first), out.ld, i0, i1, j, count);
    }
  }

  void backwards(const Role& role) {
    const int64_t n = x.n, first = role.first;
    const int64_t p0 = role.begin(back(0).panels()), p1 = role.end(back(0).panels());
    const int64_t units = back(0).panels() * role.rows(), u0 = role.begin(units), u1 = role.end(units);
    for (int64_t b = first; b < role.last; b++)
      for (int64_t j = p0 * Plain::P; j < n && j < p1 * Plain::P; j += W)
        step_back(x.T - 1, x.depth - 1, entering[0], b, j, x.grad_s ? load(x.grad_s + b * n + j, n - j) : vec{});
    role.meet();
    for (int64_t t = x.T - 1, turn = 0; t >= 0; t--)
      for (int64_t l = x.depth - 1; l >= 0; l--, turn++) {
        Matrix &now = entering[turn % 2], &next = entering[(turn + 1) % 2];
        auto take = [&](int64_t i, int64_t p, const float* result) {
          const int64_t b = first + i;
          for (int v = 0; v < WIDE; v++) {
            const int64_t j = p * Plain::P + v * W;
            if (j >= n) continue;
            vec G = masked(t, b, j, load(result + v * W)) + load(s.row(b) + j);
            if (l == 0) G += load(outer.row(b) + j);
            if (l > 0) step_back(t, l - 1, next, b, j, G);
            else if (t > 0) step_back(t - 1, x.depth - 1, next, b, j, G);
            else store(x.grad_s0 + b * n + j, G, n - j);
          }
        };
        auto ahead = [&](int64_t i0, int64_t i1, int64_t p) {
          if (l > 0) fetch_back(t, l - 1, next, first, i0, i1, p * Plain::P, Plain::P);
          else if (t > 0) fetch_back(t - 1, x.depth - 1, next, first, i0, i1, p * Plain::P, Plain::P);
        };
        product_of_units(now.row(first), now.ld, role.rows(), back(l), u0, u1, take, ahead);
        role.meet();
      }
  }
};

CELL(rhn, RHN, RHNScan)
