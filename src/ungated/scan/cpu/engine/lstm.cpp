// The LSTM along time; notation as in cells/lstm.py and scan/lstm_torch.py: T steps, B rows, n units; the gates i, j, f,
// o of a unit lie side by side in a panel. One product and one barrier a step, forwards and backwards: what a step's
// gradient needs elementwise is done where the product before it ends.
#include "entry.h"
#include "product.h"
#include "scratch.h"
#include "team.h"

struct LSTM {
  int64_t T, B, n;
  double forget_bias;
  const float *drive, *h0, *c0, *mask;
  int64_t mask_step;       // floats from one step's mask to the next; 0: one mask for all
  const int64_t* lengths;  // (B), or null
  const float* W_h;        // (n,4n)
  float* weights;          // room for LSTMScan::size floats
  float *features, *h, *c;  // (T,B,n); (T + 1,B,n), or with kept = 0 the last only (B,n)
  int64_t kept;
  float* gates;  // (T,B,4n) i, j, f, o after their sigmoid or tanh, for the way back; null without one
  // backward only; the first three may be null
  const float *grad_features, *grad_h, *grad_c;
  float *grad_drive, *grad_h0, *grad_c0;
};

class LSTMScan {
 public:
  LSTMScan(const LSTM& x, bool backward, int)
      : x(x), backward(backward), h{{x.B, backward ? 4 * x.n : x.n}, {x.B, backward ? 4 * x.n : x.n}}, c(x.B, x.n),
        carried(backward ? x.B : 0, x.n) {}

  static int64_t size(const LSTM& x) {
    const int64_t forward = Gates::size(x.n, x.n), back = Plain::size(4 * x.n, x.n);
    return forward > back ? forward : back;
  }

  void pack(int id, int count) {
    if (backward) {
      const Plain w{x.weights, 4 * x.n, x.n};
      w.pack({{x.W_h}, 4 * x.n, true, nullptr, nullptr}, 0, w.K, share(w.panels(), count, id),
             share(w.panels(), count, id + 1));
    } else {
      const Gates w{x.weights, x.n, x.n};
      w.pack({{x.W_h, x.W_h + x.n, x.W_h + 2 * x.n, x.W_h + 3 * x.n}, 4 * x.n, false, nullptr, nullptr}, 0, w.K,
             share(w.panels(), count, id), share(w.panels(), count, id + 1));
    }
  }

  void operator()(const Role& role) { backward ? backwards(role) : forwards(role); }

 private:
  using Gates = Weights<4, 4>;
  using Plain = Weights<WIDE>;
  const LSTM& x;
  bool backward;
  Matrix h[2];     // what the product of this step and of the next one takes: h, backwards the gradients of the gates
  Matrix c;        // backwards its gradient
  Matrix carried;  // backwards: what of the gradient of h passes an ended row by

  bool ended(int64_t t, int64_t b) const { return x.lengths && x.lengths[b] <= t; }
  vec mask(int64_t t, int64_t b, int64_t j) const {
    return x.mask ? load(x.mask + t * x.mask_step + b * x.n + j, x.n - j) : all(1.0f);
  }

  void forwards(const Role& role) {
    const int64_t B = x.B, n = x.n, first = role.first;
    const Gates W_h{x.weights, n, n};
    const float forget_bias = static_cast<float>(x.forget_bias);
    if (role.slab == 0)
      for (int64_t b = first; b < role.last; b++)
        for (int64_t j = 0; j < n; j += W) {
          store(h[0].row(b) + j, load(x.h0 + b * n + j, n - j));
          store(c.row(b) + j, load(x.c0 + b * n + j, n - j));
          if (!x.kept) continue;
          store(x.h + b * n + j, load(x.h0 + b * n + j, n - j), n - j);
          store(x.c + b * n + j, load(x.c0 + b * n + j, n - j), n - j);
        }
    role.meet();
    for (int64_t t = 0; t < x.T; t++) {
      const float* drive = x.drive + (t * B + first) * 4 * n;
      float* gates = x.gates ? x.gates + (t * B + first) * 4 * n : nullptr;
      Matrix &now = h[t % 2], &next = h[(t + 1) % 2];
      const bool out = x.kept || t + 1 == x.T;
      const int64_t out_at = x.kept ? (t + 1) * B * n : 0;
      product(
          now.row(first), now.ld, role.rows(), W_h, role.begin(W_h.panels()), role.end(W_h.panels()),
          [&](int64_t i, int64_t p, const float* result) {
            const int64_t b = first + i, j = p * W, count = n - j;
            vec z[4];
            for (int q = 0; q < 4; q++) z[q] = load(result + q * W) + load(drive + i * 4 * n + q * n + j, count);
            z[0] = sigmoid(z[0]);
            z[1] = tanh(z[1]);
            z[2] = sigmoid(z[2] + forget_bias);
            z[3] = sigmoid(z[3]);
            if (gates)
              for (int q = 0; q < 4; q++) store(gates + i * 4 * n + q * n + j, z[q], count);
            vec c_now = load(c.row(b) + j), c_next = c_now * z[2] + z[0] * (z[1] * mask(t, b, j));
            vec h_next = tanh(c_next) * z[3];
            store(x.features + (t * B + b) * n + j, h_next, count);
            if (ended(t, b)) h_next = load(now.row(b) + j), c_next = c_now;
            store(next.row(b) + j, h_next);
            store(c.row(b) + j, c_next);
            if (!out) return;
            store(x.h + out_at + b * n + j, h_next, count);
            store(x.c + out_at + b * n + j, c_next, count);
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            for (int q = 0; q < 4; q++) {
              fetch<READ>(drive, 4 * n, i0, i1, q * n + p * W, W);
              fetch<WRITE>(gates, 4 * n, i0, i1, q * n + p * W, W);
            }
            fetch<WRITE>(x.features + (t * B + first) * n, n, i0, i1, p * W, W);
            if (!out) return;
            fetch<WRITE>(x.h + out_at + first * n, n, i0, i1, p * W, W);
            fetch<WRITE>(x.c + out_at + first * n, n, i0, i1, p * W, W);
          });
      role.meet();
    }
  }

  // From the gradient of h after step t, without that of the features, on to those of the gates.
  void step_back(int64_t t, int64_t b, int64_t j, vec G_h) {
    const int64_t n = x.n, count = n - j, at = t * x.B + b;
    const bool over = ended(t, b);
    const float* gates = x.gates + at * 4 * n + j;
    vec G_c = load(c.row(b) + j), passed = over ? G_c : vec{};
    store(carried.row(b) + j, over ? G_h : vec{});
    if (over) G_h = vec{}, G_c = vec{};
    if (x.grad_features) G_h += load(x.grad_features + at * n + j, count);
    vec in = load(gates, count), candidate = load(gates + n, count), forget = load(gates + 2 * n, count);
    vec out = load(gates + 3 * n, count), c_now = load(x.c + at * n + j, count), m = mask(t, b, j);
    vec squashed = tanh(c_now * forget + in * (candidate * m));
    G_c += G_h * out * (1.0f - squashed * squashed);
    vec G[4] = {G_c * candidate * m * in * (1.0f - in), G_c * in * m * (1.0f - candidate * candidate),
                G_c * c_now * forget * (1.0f - forget), G_h * squashed * out * (1.0f - out)};
    for (int q = 0; q < 4; q++) {
      // The next unit's registers, or another gate's, begin where this one's n end.
      store(h[t % 2].row(b) + q * n + j, G[q], count);
      store(x.grad_drive + at * 4 * n + q * n + j, G[q], count);
    }
    store(c.row(b) + j, G_c * forget + passed);
  }

  void backwards(const Role& role) {
    const int64_t B = x.B, n = x.n, first = role.first;
    const Plain W_h{x.weights, 4 * n, n};
    const int64_t p0 = role.begin(W_h.panels()), p1 = role.end(W_h.panels());
    for (int64_t b = first; b < role.last; b++)
      for (int64_t j = p0 * Plain::P; j < n && j < p1 * Plain::P; j += W) {
        store(c.row(b) + j, x.grad_c ? load(x.grad_c + b * n + j, n - j) : vec{});
        step_back(x.T - 1, b, j, x.grad_h ? load(x.grad_h + b * n + j, n - j) : vec{});
      }
    role.meet();
    for (int64_t t = x.T - 1; t >= 0; t--) {
      Matrix& G = h[t % 2];
      product(
          G.row(first), G.ld, role.rows(), W_h, p0, p1,
          [&](int64_t i, int64_t p, const float* result) {
            const int64_t b = first + i;
            for (int v = 0; v < WIDE; v++) {
              const int64_t j = p * Plain::P + v * W;
              if (j >= n) continue;
              vec G_h = load(result + v * W) + load(carried.row(b) + j);
              if (t > 0) {
                step_back(t - 1, b, j, G_h);
                continue;
              }
              store(x.grad_h0 + b * n + j, G_h, n - j);
              store(x.grad_c0 + b * n + j, load(c.row(b) + j), n - j);
            }
          },
          [&](int64_t i0, int64_t i1, int64_t p) {
            if (t == 0) return;
            const int64_t at = ((t - 1) * B + first) * n;
            fetch<READ>(x.c + at, n, i0, i1, p * Plain::P, Plain::P);
            if (x.grad_features) fetch<READ>(x.grad_features + at, n, i0, i1, p * Plain::P, Plain::P);
            for (int q = 0; q < 4; q++) {
              fetch<READ>(x.gates + at * 4, 4 * n, i0, i1, q * n + p * Plain::P, Plain::P);
              fetch<WRITE>(x.grad_drive + at * 4, 4 * n, i0, i1, q * n + p * Plain::P, Plain::P);
            }
          });
      role.meet();
    }
  }
};

CELL(lstm, LSTM, LSTMScan)
