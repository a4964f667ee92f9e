// Memory of one scan beside its results.
#pragma once
#include <cstdint>
#include <vector>

#include "vec.h"

// Distance between rows: whole registers, and no power of two, which would put all rows into one cache set.
static inline int64_t padded(int64_t n) {
  int64_t width = (n + 15) / 16 * 16;
  return width % 256 == 0 ? width + 16 : width;
}

// rows x n floats, zero at first, its rows `ld` apart.
class Matrix {
 public:
  int64_t ld;

  Matrix(int64_t rows, int64_t n) : ld(padded(n)), memory(static_cast<size_t>(rows * ld + 16)) {
    auto address = reinterpret_cast<uintptr_t>(memory.data());
    start = memory.data() + (64 - address % 64) % 64 / 4;
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  float* row(int64_t i) { return start + i * ld; }

 private:
  std::vector<float> memory;
  float* start;
};

enum Use { READ, WRITE };

// Some rows and columns of a dense matrix into the cache, ahead of their use; without effect where p is null.
template <Use use>
static inline void fetch(const float* p, int64_t ld, int64_t first, int64_t last, int64_t column, int64_t count) {
  for (int64_t i = first; p && i < last; i++)
    for (int64_t c = 0; c < count; c += 16) {
      __builtin_prefetch(p + i * ld + column + c, use == WRITE, 3);
      asm volatile("");  // else the compiler finds the whole function without effect, and leaves it out
    }
}
