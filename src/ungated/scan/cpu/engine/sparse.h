// Rows of which many entries are zero, as ReLU and dropout leave them, times packed weights: what a zero would multiply
// is not read. The entries that are not zero lie one after another, block by block, so that one block's weights of some
// panels stay in the first-level cache while all rows use them.
#pragma once
#include <algorithm>
#include <vector>

#include "product.h"
#include "scratch.h"

// Writes what is not zero of x, and its place counted from `first`, one after another; returns how many there were. Up
// to W floats and places are written.
static inline int compress(vec x, int first, float* values, int32_t* places) {
#if defined(__AVX512F__)
  const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const uint16_t found = __builtin_ia32_cmpps512_mask(x, vec{}, 4, 0xffff, 4);  // not equal, or NaN
  const ints where = (ints)__builtin_ia32_compresssi512_mask(lane + first, ints{}, found);
  store(values, __builtin_ia32_compresssf512_mask(x, vec{}, found));
  memcpy(places, &where, sizeof where);
  return __builtin_popcount(found);
#else
  int count = 0;
  for (int i = 0; i < W; i++) {
    values[count] = x[i], places[count] = first + i;
    count += x[i] != 0.0f;
  }
  return count;
#endif
}

// rows x n, in blocks as wide as a panel.
class SparseRows {
 public:
  static constexpr int64_t BLOCK = WIDE * W;
  struct Entries {
    const float* values;
    const int32_t* places;
    int count;
  };
  const int64_t blocks;

  SparseRows(int64_t rows, int64_t n)
      : blocks((n + BLOCK - 1) / BLOCK),
        values(rows * blocks * BLOCK),
        places(rows * blocks * BLOCK),
        counts(rows * blocks) {}

  // The register at `column`; those of a block come one after another, and are zero beyond n.
  void put(int64_t row, int64_t column, vec x) {
    const int64_t at = row * blocks + column / BLOCK;
    const int before = column % BLOCK ? counts[at] : 0;
    float* value = values.data() + at * BLOCK + before;
    counts[at] = before + compress(x, static_cast<int>(column), value, places.data() + at * BLOCK + before);
  }
  // A whole block: `count` floats that are `step` apart.
  void put_column(int64_t row, int64_t block, const float* from, int64_t step, int64_t count) {
    const int64_t at = row * blocks + block;
    float* value = values.data() + at * BLOCK;
    int32_t* place = places.data() + at * BLOCK;
    int found = 0;
    for (int i = 0; i < count; i++, from += step) {
      uint32_t bits;
      memcpy(&bits, from, 4);
      memcpy(value + found, &bits, 4);
      place[found] = static_cast<int>(block * BLOCK) + i;
      found += bits << 1 != 0;
    }
    counts[at] = found;
  }
  Entries entries(int64_t row, int64_t block) const {
    const int64_t at = row * blocks + block;
    return {values.data() + at * BLOCK, places.data() + at * BLOCK, counts[at]};
  }

 private:
  std::vector<float> values;
  std::vector<int32_t> places;
  std::vector<int> counts;
};

// Panels that a row is multiplied with at once: their accumulators and one broadcast fill the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int PANELS = 8;
#else
constexpr int PANELS = 6;
#endif

// c (+)= one block of a row times some panels, `panel` floats apart; their results are TILE_ROWS rows apart.
typedef void SparseKernel(const SparseRows::Entries& a, const float* weights, int64_t panel, float* c, bool add);

template <int NP>
static void sparse_kernel(const SparseRows::Entries& a, const float* __restrict weights, int64_t panel,
                          float* __restrict c, bool add) {
  constexpr int P = WIDE * W, CHAINS = NP == 1 ? 2 : 1;  // two accumulators would wait for each other
  vec acc[CHAINS][NP][WIDE];
#pragma GCC unroll 64
  for (int u = 0; u < CHAINS; u++)
#pragma GCC unroll 64
    for (int q = 0; q < NP; q++)
#pragma GCC unroll 64
      for (int v = 0; v < WIDE; v++) acc[u][q][v] = u == 0 && add ? load(c + q * TILE_ROWS * P + v * W) : vec{};
  auto multiply = [&](int u, int i) {
    const vec x = all(a.values[i]);
    const float* row = weights + static_cast<int64_t>(a.places[i]) * P;
#pragma GCC unroll 64
    for (int q = 0; q < NP; q++)
#pragma GCC unroll 64
      for (int v = 0; v < WIDE; v++) acc[u][q][v] += x * load(row + q * panel + v * W);
  };
  int i = 0;
  for (; i + CHAINS <= a.count; i += CHAINS)
#pragma GCC unroll 64
    for (int u = 0; u < CHAINS; u++) multiply(u, i + u);
  for (; i < a.count; i++) multiply(0, i);
#pragma GCC unroll 64
  for (int q = 0; q < NP; q++)
#pragma GCC unroll 64
    for (int v = 0; v < WIDE; v++) {
      if (CHAINS > 1) acc[0][q][v] += acc[CHAINS - 1][q][v];
      store(c + q * TILE_ROWS * P + v * W, acc[0][q][v]);
    }
}

template <int NP = PANELS>
static SparseKernel* sparse_kernel_for(int64_t panels) {
  if constexpr (NP == 0) return nullptr;
  else return panels == NP ? &sparse_kernel<NP> : sparse_kernel_for<NP - 1>(panels);
}

// As product_of_units, of rows [first_row, first_row + rows) of a and weights without a narrow panel.
template <class After>
static void product_of_units(const SparseRows& a, int64_t first_row, int64_t rows, const Weights<WIDE>& weights,
                             int64_t first, int64_t last, After after) {
  constexpr int64_t P = WIDE * W;
  alignas(64) float tile[PANELS * TILE_ROWS * P];
  // Rows differ by one in the first and in the last of their panels.
  auto begin = [&](int64_t i) { return first / rows + (i < first % rows); };
  auto end = [&](int64_t i) { return last / rows + (i < last % rows); };
  const int64_t p0 = begin(rows - 1), p1 = end(0), groups = (p1 - p0 + PANELS - 1) / PANELS;
  for (int64_t group = 0; group < groups; group++) {
    const int64_t q0 = p0 + (p1 - p0) * group / groups, q1 = p0 + (p1 - p0) * (group + 1) / groups;
    for (int64_t row = 0; row < rows; row += TILE_ROWS) {
      const int64_t stop = std::min(row + TILE_ROWS, rows);
      for (int64_t block = 0; block < a.blocks; block++)
        for (int64_t i = row; i < stop; i++) {
          const int64_t p = std::max(q0, begin(i)), panels = std::min(q1, end(i)) - p;
          float* c = tile + ((p - q0) * TILE_ROWS + i - row) * P;
          if (panels > 0)
            sparse_kernel_for(panels)(a.entries(first_row + i, block), weights.panel(p), weights.K * P, c, block > 0);
        }
      for (int64_t p = q0; p < q1; p++)
        for (int64_t i = row; i < stop; i++)
          if (begin(i) <= p && p < end(i)) after(i, p, tile + ((p - q0) * TILE_ROWS + i - row) * P);
    }
  }
}

// Rows of either kind, as they are handed from one product to the next.
class Rows {
 public:
  const bool sparse;

  Rows(int64_t rows, int64_t n, bool sparse)
      : sparse(sparse), entries(sparse ? rows : 0, n), dense(sparse ? 0 : rows, n) {}

  // The register at `column`; those of a row come one after another, and are zero beyond n.
  void put(int64_t row, int64_t column, vec x) {
    if (sparse) entries.put(row, column, x);
    else store(dense.row(row) + column, x);
  }

  float* dense_row(int64_t row) { return dense.row(row); }
  int64_t dense_ld() const { return dense.ld; }

  // The place of what will be put there, some rows from `row` on, into the cache.
  void fetch(int64_t row, int64_t first, int64_t last, int64_t column, int64_t count) {
    if (!sparse) ::fetch<WRITE>(dense.row(row), dense.ld, first, last, column, count);
  }

  template <class After, class Before = Nothing>
  void product_of_units(int64_t first_row, int64_t rows, const Weights<WIDE>& weights, int64_t first, int64_t last,
                        After after, Before before = Before{}) {
    if (sparse) ::product_of_units(entries, first_row, rows, weights, first, last, after);
    else ::product_of_units(dense.row(first_row), dense.ld, rows, weights, first, last, after, before);
  }

 private:
  SparseRows entries;
  Matrix dense;
};
