// rows x K times K x N, with the K x N weights packed once and multiplied many times.
//
// Packed weights are panels of NV registers' width; a panel's K rows lie one after another, so that the innermost loop
// reads weights as one stream. Gates of one unit can be brought side by side in a panel, and so meet in the epilogue. The
// last panel is one register wide where its columns fit: a small network would else multiply many zeros.
#pragma once
#include "vec.h"

// Rows of the widest tile: rows * NV accumulators, NV weights and one broadcast fill the registers. One register alone is
// seldom used: fewer kernels compile faster.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int most_rows(int NV) { return NV == 1 ? 7 : NV == 2 ? 14 : NV == 3 ? 8 : 6; }
#else
constexpr int most_rows(int NV) { return NV == 1 ? 5 : NV == 2 ? 6 : NV == 3 ? 4 : 3; }
#endif

constexpr int WIDE = 2;         // registers of a panel where gates do not say otherwise
constexpr int TILE_ROWS = 64;   // rows whose results stay in the first-level cache until the epilogue
constexpr int K_BLOCK = 160;    // rows of a panel that stay there while all rows of the tile use them

// c (+)= a b for one block of rows; with every row of b, the line at `next` is fetched and `next` moves on by `step`.
// Not for a single row of a: then the processor fetches best by itself.
// Entry (i, k) of a is at a[i * lda + k], or, with UPRIGHT, at a[k * UPRIGHT + i].
typedef void Kernel(const float* a, int64_t lda, const float* b, int K, float* c, bool add, const float* next, int step);

template <int NV, int MR, int UPRIGHT>
static void kernel(const float* __restrict a, int64_t lda, const float* __restrict b, int K, float* __restrict c, bool add,
                   const float* next, int step) {
  constexpr int P = NV * W;
  constexpr int CHAINS = NV * MR >= 8 ? 1 : NV * MR >= 4 ? 2 : 4;  // few accumulators would wait for each other
  vec acc[CHAINS][MR][NV];
#pragma GCC unroll 64
  for (int u = 0; u < CHAINS; u++)
#pragma GCC unroll 64
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 64
      for (int v = 0; v < NV; v++) acc[u][i][v] = u == 0 && add ? load(c + i * P + v * W) : vec{};
  auto entry = [a, lda](int i, int k) { return UPRIGHT ? a[k * UPRIGHT + i] : a[i * lda + k]; };
  int k = 0;
  for (; k + CHAINS <= K; k += CHAINS)
#pragma GCC unroll 64
    for (int u = 0; u < CHAINS; u++) {
      const float* row = b + (k + u) * P;
      vec w[NV];
#pragma GCC unroll 64
      for (int v = 0; v < NV; v++) w[v] = load(row + v * W);
      if (MR > 1) __builtin_prefetch(next, 0, 2), next += step;
#pragma GCC unroll 64
      for (int i = 0; i < MR; i++) {
        vec x = all(entry(i, k + u));
#pragma GCC unroll 64
        for (int v = 0; v < NV; v++) acc[u][i][v] += x * w[v];
      }
    }
  for (; k < K; k++)
#pragma GCC unroll 64
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 64
      for (int v = 0; v < NV; v++) acc[0][i][v] += entry(i, k) * load(b + k * P + v * W);
#pragma GCC unroll 64
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 64
    for (int v = 0; v < NV; v++) {
#pragma GCC unroll 64
      for (int u = 1; u < CHAINS; u++) acc[0][i][v] += acc[u][i][v];
      store(c + i * P + v * W, acc[0][i][v]);
    }
}

template <int NV, int MR, int UPRIGHT = 0>
static Kernel* kernel_for(int rows) {
  if constexpr (MR == 0) return nullptr;
  else return rows == MR ? &kernel<NV, MR, UPRIGHT> : kernel_for<NV, MR - 1, UPRIGHT>(rows);
}

// Where packed weights come from. Column `c` of gate `q` at row `k` is source[q][k * ld + c], or [c * ld + k] with
// `transposed`. A product over several stacked matrices packs each at its own first row.
struct Source {
  const float* gate[4];
  int64_t ld;
  bool transposed;
  const float* column_scale;  // may be null
  const float* row_scale;     // may be null
};

// Weights K x (gates * units): panel p holds, gate after gate, the units [p * width, p * width + width).
template <int NV, int GATES = 1>
struct Weights {
  static constexpr int P = NV * W, width = P / GATES;
  float* data;
  int64_t K, units;
  bool all_wide = false;
  int64_t first_row = 0, all_rows = K;  // K rows from this one on, of so many

  static int64_t panels_of(int64_t units) { return (units + width - 1) / width; }
  static int64_t size(int64_t K, int64_t units) { return panels_of(units) * K * P; }
  int64_t panels() const { return panels_of(units); }
  float* panel(int64_t p) const { return data + p * all_rows * P; }
  Weights rows(int64_t first, int64_t last) const { return {data, last - first, units, all_wide, first, all_rows}; }
  bool narrow(int64_t p) const { return NV > 1 && GATES == 1 && !all_wide && units - p * P <= W; }

  void pack(const Source& source, int64_t first_row, int64_t rows, int64_t p0, int64_t p1) const {
    for (int64_t p = p0; p < p1; p++)
      for (int q = 0; q < GATES; q++) {
        const int64_t wide = narrow(p) ? W : P, filled = narrow(p) ? W : width;
        const int64_t column = p * width, count = units - column < width ? units - column : width;
        const float* in = source.gate[q];
        auto put = [&](int64_t k, int64_t c, vec x) {
          if (source.row_scale) x *= source.row_scale[k];
          if (source.column_scale) x *= load(source.column_scale + column + c, count - c);
          store(panel(p) + (first_row + k) * wide + q * width + c, x);
        };
        if (!source.transposed) {
          for (int64_t k = 0; k < rows; k++)
            for (int64_t c = 0; c < filled; c += W) put(k, c, load(in + k * source.ld + column + c, count - c));
        } else {
          for (int64_t k = 0; k < rows; k += W)
            for (int64_t c = 0; c < filled; c += W) {
              vec square[W];
              for (int64_t i = 0; i < W; i++)
                square[i] = c + i < count ? load(in + (column + c + i) * source.ld + k, rows - k) : vec{};
              transpose(square);
              for (int64_t i = 0; i < W && k + i < rows; i++) put(k + i, c, square[i]);
            }
        }
      }
  }
};

// Rows of one register, one after another, as rows of NV registers; the others are zero.
template <int NV>
static void widen(float* tile, int64_t rows) {
  for (int64_t i = rows - 1; i >= 0; i--)
    for (int v = 0; v < NV; v++) store(tile + (i * NV + v) * W, v == 0 ? load(tile + i * W) : vec{});
}

template <int NV>
static int64_t blocks_of(int64_t rows) { return (rows + most_rows(NV) - 1) / most_rows(NV); }

struct Nothing {
  void operator()(int64_t, int64_t, int64_t) const {}
};

// For every row and panel, as far as its unit panel * rows + row lies in [first, last): after(row, panel, results of
// that row and panel), the gates side by side. before(first row, last row, panel) comes ahead of the work on some rows:
// the place to fetch what `after` needs. A single row comes without it.
template <int NV, int GATES, class After, class Before = Nothing>
static void product_of_units(const float* a, int64_t lda, int64_t rows, const Weights<NV, GATES>& weights,
                             int64_t first, int64_t last, After after, Before before = Before{}) {
  constexpr int P = NV * W;
  alignas(64) float tile[TILE_ROWS * P];
  for (int64_t unit = first; unit < last;) {
    const int64_t p = unit / rows, r0 = unit % rows, most = rows - r0 < last - unit ? rows - r0 : last - unit;
    const int64_t count = most < TILE_ROWS ? most : TILE_ROWS;
    const bool narrow = weights.narrow(p);
    const int64_t wide = narrow ? W : P, blocks = narrow ? blocks_of<1>(count) : blocks_of<NV>(count);
    for (int64_t k = 0; k < weights.K; k += K_BLOCK) {
      int length = static_cast<int>(weights.K - k < K_BLOCK ? weights.K - k : K_BLOCK);
      const float* now = weights.panel(p) + (weights.first_row + k) * wide;
      // The blocks of rows share the work of fetching what comes after these weights: at one line a step, evenly.
      const float* next = now + length * wide;
      const int step = W * (blocks < NV ? NV / static_cast<int>(blocks) : 1);
      for (int64_t block = 0, row = 0; block < blocks; block++) {
        const int64_t height = (count - row) / (blocks - block);  // equal heights: no thin rest
        if (k == 0 && height > 1) before(r0 + row, r0 + row + height, p);
        const int rows_now = static_cast<int>(height);
        Kernel* kernel = narrow ? kernel_for<1, most_rows(1)>(rows_now) : kernel_for<NV, most_rows(NV)>(rows_now);
        kernel(a + (r0 + row) * lda + k, lda, now, length, tile + row * wide, k > 0, next, step);
        next += length * wide / blocks;
        row += height;
      }
    }
    if (narrow) widen<NV>(tile, count);
    for (int64_t i = 0; i < count; i++) after(r0 + i, p, tile + i * P);
    unit += count;
  }
}

// The same for all rows and the panels in [p0, p1).
template <int NV, int GATES, class After, class Before = Nothing>
static void product(const float* a, int64_t lda, int64_t rows, const Weights<NV, GATES>& weights, int64_t p0,
                    int64_t p1, After after, Before before = Before{}) {
  product_of_units(a, lda, rows, weights, p0 * rows, p1 * rows, after, before);
}
