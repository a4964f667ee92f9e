// One SIMD register of floats, in the compilers' own vector types: the same source serves AVX-512, AVX2, SSE and NEON.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vec __attribute__((vector_size(W * 4)));
typedef float unaligned_vec __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(W * 4)));

static inline vec load(const float* p) { return *reinterpret_cast<const unaligned_vec*>(p); }
static inline void store(float* p, vec x) { *reinterpret_cast<unaligned_vec*>(p) = x; }
static inline vec all(float x) { return x - vec{}; }  // x + 0 would be an addition, for the sake of -0

// The last register of a row may have fewer than W floats; what is missing reads as zero and is not written.
#if defined(__AVX512F__)
static inline uint16_t lanes(int64_t count) { return static_cast<uint16_t>(count > 0 ? 0xffffu >> (16 - count) : 0); }
static inline vec load_some(const float* p, int64_t count) {
  return __builtin_ia32_loadups512_mask(p, vec{}, lanes(count));
}
static inline void store_some(float* p, vec x, int64_t count) { __builtin_ia32_storeups512_mask(p, x, lanes(count)); }
#else
static inline vec load_some(const float* p, int64_t count) {
  vec x{};
  for (int i = 0; i < W - 1; i++)
    if (i < count) x[i] = p[i];
  return x;
}
static inline void store_some(float* p, vec x, int64_t count) {
  for (int i = 0; i < W - 1; i++)
    if (i < count) p[i] = x[i];
}
#endif
static inline vec load(const float* p, int64_t count) { return count >= W ? load(p) : load_some(p, count); }
static inline void store(float* p, vec x, int64_t count) { count >= W ? store(p, x) : store_some(p, x, count); }

// What stands at these places of the 2 W floats of a and b.
template <int... places>
static inline vec pick(vec a, vec b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, places...);
#else
  return __builtin_shuffle(a, b, ints{places...});
#endif
}

// The W x W floats of W registers, by log2 W rounds that each interleave the first half of them with the second.
template <int... lane>
static inline void transpose(vec (&x)[W], std::integer_sequence<int, lane...>) {
#pragma GCC unroll 4
  for (int round = 1; round < W; round *= 2) {
    vec next[W];
#pragma GCC unroll 16
    for (int i = 0; i < W / 2; i++) {
      next[2 * i] = pick<(lane / 2 + lane % 2 * W)...>(x[i], x[i + W / 2]);
      next[2 * i + 1] = pick<((W + lane) / 2 + lane % 2 * W)...>(x[i], x[i + W / 2]);
    }
    memcpy(x, next, sizeof next);
  }
}
static inline void transpose(vec (&x)[W]) { transpose(x, std::make_integer_sequence<int, W>{}); }

static inline vec relu(vec x) { return x > 0.0f ? x : (x != x ? x : vec{}); }
static inline vec where_positive(vec x, vec value) { return x > 0.0f ? value : vec{}; }

static inline float sum(vec x) {
  float lanes[W];
  memcpy(lanes, &x, sizeof lanes);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

// exp within two units in the last place: 2^k * 2^f with |f| <= 1/2, the second by its Taylor series.
static inline vec exp(vec x) {
  x = x < -87.0f ? all(-87.0f) : x;
  x = x > 88.0f ? all(88.0f) : x;
  const float rounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  vec shifted = x * 1.44269504088896341f + rounder;
  vec k = shifted - rounder;
  vec f = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  vec p = all(1.9875691500e-4f);
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  ints bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4b400000 + 127) << 23;
  vec scale;
  memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

static inline vec sigmoid(vec x) { return 1.0f / (1.0f + exp(-x)); }

static inline vec tanh(vec x) {
  vec square = x * x;
  vec p = all(-5.70498872745e-3f);
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  vec small = p * square * x + x;
  vec large = 1.0f - 2.0f / (exp(x + x) + 1.0f);
  return square < 0.390625f ? small : large;
}
