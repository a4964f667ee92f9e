// Products of what has many zeros, as ReLU and dropout leave them, with packed weights: what a zero would multiply is
// skipped.
//
// Rows of the batch are multiplied one by one: then the order in which a row's terms are added depends on nothing but the
// row. Columns, in the gradients of weights, are multiplied four at a time. At a place, each of the four is zero or not:
// a case out of 16. The places of a block are sorted by their case, and each case has an inner loop of its own, which
// reads the other side once for all columns that are not zero there; to read it for every one takes longer than to
// multiply. Where nothing is zero that is a dense product, and not much slower than one.
#pragma once
#include <algorithm>
#include <vector>

#include "product.h"
#include "scratch.h"

constexpr int TOGETHER = 4;    // columns
constexpr int64_t BLOCK = 96;  // places

// Writes the places, counted from `first`, where x is not zero (or is NaN); returns how many there were. Up to W are
// written.
static inline int nonzero(vec x, int first, uint8_t* places) {
#if defined(__AVX512F__)
  typedef uint8_t bytes __attribute__((vector_size(W)));
  const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const uint16_t found = __builtin_ia32_cmpps512_mask(x, vec{}, 4, 0xffff, 4);  // not equal, or NaN
  const bytes where =
      __builtin_convertvector((ints)__builtin_ia32_compresssi512_mask(lane + first, ints{}, found), bytes);
  memcpy(places, &where, sizeof where);
  return __builtin_popcount(found);
#else
  int count = 0;
  for (int i = 0; i < W; i++) {
    places[count] = static_cast<uint8_t>(first + i);
    count += x[i] != 0.0f;
  }
  return count;
#endif
}

// The places of a block where not all of `N` vectors are zero, sorted by their case: a bit for each vector, set where it
// is not zero.
template <int N>
struct Places {
  static constexpr int CASES = 1 << N;
  uint8_t place[BLOCK + 16], count[CASES];

  // entries(i, k): the register of vector i at place k; zero from `length` on.
  template <class Entries>
  void sort(int64_t length, Entries entries) {
    memset(count, 0, sizeof count);
    if constexpr (N == 1) {
      int found = 0;
      for (int64_t k = 0; k < length; k += W) found += nonzero(entries(0, k), static_cast<int>(k), place + found);
      count[1] = static_cast<uint8_t>(found);
      return;
    }
    uint8_t found[CASES][BLOCK + 16];
    for (int64_t k = 0; k < length; k += W) {
      ints which{};
      for (int i = 0; i < N; i++) which |= (entries(i, k) != 0.0f) & (1 << i);
      int32_t cases[W];
      memcpy(cases, &which, sizeof cases);
      for (int lane = 0; lane < W; lane++) {
        const int32_t now = cases[lane];
        found[now][count[now]++] = static_cast<uint8_t>(k + lane);
      }
    }
    int to = 0;
    for (int now = 1; now < CASES; to += count[now++])
      for (int at = 0; at < BLOCK && at < count[now]; at += 16) memcpy(place + to + at, found[now] + at, 16);
  }
};

// The part of c (+)= a b from the case CASE on; entry (i, k) of a as for a dense kernel.
template <int N, int NP, int UPRIGHT, int CASE = 1>
static inline __attribute__((always_inline)) void multiply_cases(vec (&acc)[N][NP][WIDE], const Places<N>& places,
                                                                 const uint8_t* place, const float* a, int64_t lda,
                                                                 const float* weights, int64_t panel) {
  if constexpr (CASE < Places<N>::CASES) {
    for (int left = places.count[CASE]; left > 0; left--) {
      const int64_t k = *place++;
      vec w[NP][WIDE];
#pragma GCC unroll 64
      for (int q = 0; q < NP; q++)
#pragma GCC unroll 64
        for (int v = 0; v < WIDE; v++) w[q][v] = load(weights + q * panel + k * WIDE * W + v * W);
#pragma GCC unroll 64
      for (int i = 0; i < N; i++)
        if (CASE >> i & 1) {
          const vec x = all(UPRIGHT ? a[k * UPRIGHT + i] : a[i * lda + k]);
#pragma GCC unroll 64
          for (int q = 0; q < NP; q++)
#pragma GCC unroll 64
            for (int v = 0; v < WIDE; v++) acc[i][q][v] += x * w[q][v];
        }
    }
    multiply_cases<N, NP, UPRIGHT, CASE + 1>(acc, places, place, a, lda, weights, panel);
  }
}

// c (+)= one block of N vectors times NP panels, `panel` floats apart, whose results are TILE_ROWS vectors apart. Of each
// panel `lines` registers are fetched, from `next` on.
template <int N>
using SparseKernel = void(const Places<N>& places, const float* a, int64_t lda, const float* weights, int64_t panel,
                          float* c, bool add, const float* next, int lines);

template <int N, int NP, int UPRIGHT>
static void sparse_kernel(const Places<N>& places, const float* __restrict a, int64_t lda, const float* __restrict weights,
                          int64_t panel, float* __restrict c, bool add, const float* next, int lines) {
  constexpr int P = WIDE * W;
  for (int q = 0; q < NP; q++)
    for (int line = 0; line < lines; line++) __builtin_prefetch(next + q * panel + line * W, 0, 2);
  vec acc[N][NP][WIDE];
  auto at = [c](int i, int q, int v) { return c + (q * TILE_ROWS + i) * P + v * W; };
#pragma GCC unroll 64
  for (int i = 0; i < N; i++)
#pragma GCC unroll 64
    for (int q = 0; q < NP; q++)
#pragma GCC unroll 64
      for (int v = 0; v < WIDE; v++) acc[i][q][v] = add ? load(at(i, q, v)) : vec{};
  multiply_cases<N, NP, UPRIGHT>(acc, places, places.place, a, lda, weights, panel);
#pragma GCC unroll 64
  for (int i = 0; i < N; i++)
#pragma GCC unroll 64
    for (int q = 0; q < NP; q++)
#pragma GCC unroll 64
      for (int v = 0; v < WIDE; v++) store(at(i, q, v), acc[i][q][v]);
}

template <int N, int MOST, int UPRIGHT = 0>
static SparseKernel<N>* sparse_kernel_for(int64_t panels) {
  if constexpr (MOST == 0) return nullptr;
  else return panels == MOST ? &sparse_kernel<N, MOST, UPRIGHT> : sparse_kernel_for<N, MOST - 1, UPRIGHT>(panels);
}

// How many of the panels from p on to take at once, at most so many: all times about equally many.
static inline int64_t panels_from(int64_t p, int64_t last, int64_t most) {
  return (last - p) / ((last - p + most - 1) / most);
}

// As `product` over all panels, for weights without a narrow one. The rows of a are whole registers; `places` is memory
// to be used again.
template <class After>
static void sparse_product(const float* a, int64_t lda, int64_t rows, const Weights<WIDE>& weights,
                           std::vector<Places<1>>& places, After after) {
  constexpr int64_t P = WIDE * W, MOST = 4;  // panels at once; two of 64-byte registers fill the first-level cache
  const int64_t blocks = (weights.K + BLOCK - 1) / BLOCK;
  places.resize(static_cast<size_t>(rows * blocks));
  for (int64_t row = 0; row < rows; row++)
    for (int64_t block = 0; block < blocks; block++)
      places[row * blocks + block].sort(std::min(BLOCK, weights.K - block * BLOCK), [&](int, int64_t k) {
        return load(a + row * lda + block * BLOCK + k);
      });
  alignas(64) float tile[MOST * TILE_ROWS * P];
  for (int64_t p = 0, count; p < weights.panels(); p += count) {
    count = panels_from(p, weights.panels(), rows == 1 || W < 16 ? MOST : 2);
    SparseKernel<1>* kernel = sparse_kernel_for<1, MOST>(count);
    for (int64_t first = 0; first < rows; first += TILE_ROWS) {
      const int64_t stop = std::min<int64_t>(first + TILE_ROWS, rows);
      // All rows share the work of fetching the next block. One row alone skips too much of it.
      const int lines = rows == 1 ? 0 : static_cast<int>((BLOCK * WIDE + stop - first - 1) / (stop - first));
      for (int64_t block = 0; block < blocks; block++) {
        const float* now = weights.panel(p) + (weights.first_row + block * BLOCK) * P;
        for (int64_t row = first; row < stop; row++)
          kernel(places[row * blocks + block], a + row * lda + block * BLOCK, lda, now, weights.all_rows * P,
                 tile + (row - first) * P, block > 0, now + BLOCK * P + (row - first) * lines * W, lines);
      }
      for (int64_t q = p; q < p + count; q++)
        for (int64_t i = first; i < stop; i++) after(i, q, tile + ((q - p) * TILE_ROWS + i - first) * P);
    }
  }
}
