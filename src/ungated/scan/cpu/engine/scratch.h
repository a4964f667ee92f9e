// Memory of one scan beside its results.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>

#include "vec.h"

// Distance between rows: whole registers, and no power of two, which would put all rows into one cache set.
static inline int64_t padded(int64_t n) {
  int64_t width = (n + 15) / 16 * 16;
  return width % 256 == 0 ? width + 16 : width;
}

enum Contents { ZERO, ANY };

// rows x n floats, its rows `ld` apart.
class Matrix {
 public:
  int64_t ld;

  Matrix(int64_t rows, int64_t n, Contents contents = ZERO)
      : ld(padded(n)), memory(new float[static_cast<size_t>(rows * ld + 16)]) {
    if (contents == ZERO) memset(memory.get(), 0, static_cast<size_t>(rows * ld + 16) * 4);
    auto address = reinterpret_cast<uintptr_t>(memory.get());
    start = memory.get() + (64 - address % 64) % 64 / 4;
  }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;
  float* row(int64_t i) { return start + i * ld; }

 private:
  std::unique_ptr<float[]> memory;
  float* start;
};

enum Use { READ, WRITE };

// Some rows and columns of a dense matrix into the cache, ahead of their use; without effect where p is null.
template <Use use>
static inline void fetch(const float* p, int64_t ld, int64_t first, int64_t last, int64_t column, int64_t count) {
  for (int64_t i = first; p && i < last; i++) {
    const float* begin = p + i * ld + column;
    const auto line = reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(begin) & ~uintptr_t{63});
    for (const char* at = line; at < reinterpret_cast<const char*>(begin + count); at += 64) {
      __builtin_prefetch(at, use == WRITE, 3);
      asm volatile("");  // else the compiler finds the whole function without effect, and leaves it out
    }
  }
}
