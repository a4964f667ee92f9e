// What Python calls: plain pointers in; 0 out, or 1 where there was no memory or no thread to be had.
#pragma once
#include <new>
#include <system_error>

#include "team.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

template <class Work>
static int guarded(Work work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  } catch (const std::system_error&) {
    return 1;
  }
}

// Defines, for a cell: the size of its arguments, so that a caller of another version is refused; the floats that its
// packed weights take; the scan itself.
#define CELL(name, Arguments, Scan)                                                                              \
  EXPORT int64_t name##_size() { return sizeof(Arguments); }                                                     \
  EXPORT int64_t name##_weights(const Arguments* x) { return Scan::size(*x); }                                   \
  EXPORT int name##_scan(const Arguments* x, int backward, int threads, int packed, const OpenMP* omp) {         \
    return guarded([&] {                                                                                         \
      Scan scan(*x, backward, threads);                                                                          \
      run(scan, threads, x->B, Scan::size(*x) * 4, packed, *omp);                                                \
    });                                                                                                          \
  }
