// Stands in for kernels/device.h on a machine without a GPU: every thread of a grid is a fiber of one processor, and
// the matrix instructions are computed from what the lanes of a warp bring. Warps run in an order drawn anew for
// every visit, up to their next barrier, and now and then a warp or a block stands still for a while, so that a missing
// barrier shows as a wrong result; a grid that cannot go on ends with an error.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

struct alignas(16) Quad {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
typedef unsigned short Half;

#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define NOT_A_NUMBER __builtin_nanf("")

enum { WARP = 32, STACK = 1 << 16, VISITS_STILL = 32 };

struct Barrier {
  int came = 0, generation = 0;
};
struct Lane {
  Quad a;
  unsigned b0, b1;
  float value;
};
struct Warp {
  Barrier barrier;
  Lane lanes[WARP];
};
struct Block {
  Barrier barrier;
  unsigned char* shared;
};
struct Fiber {
  ucontext_t context;
  int thread, block, awaited;
  Barrier* barrier;  // that it waits at, past `awaited`
  bool polls, done;
};

static Fiber *fibers, *now;
static Warp* warps;
static Block* blocks;
static ucontext_t scheduler;
static int threads_of_block, polled;
static int64_t clock_ns;
static unsigned state;

static unsigned draw(unsigned below) {
  state = state * 1664525u + 1013904223u;
  return (state >> 8) % below;
}
static void give_way() { swapcontext(&now->context, &scheduler); }
static void meet(Barrier& b, int count) {
  const int generation = b.generation;
  if (++b.came == count) {
    b.came = 0, b.generation++;
    return;
  }
  now->barrier = &b, now->awaited = generation;
  while (b.generation == generation) give_way();
  now->barrier = nullptr;
}

static Warp& warp() { return warps[now->block * (threads_of_block / WARP) + now->thread / WARP]; }
static int thread_index() { return now->thread; }
static int block_index() { return now->block; }
static void block_barrier() { meet(blocks[now->block].barrier, threads_of_block); }
static void warp_barrier() { meet(warp().barrier, WARP); }
static unsigned char* shared() { return blocks[now->block].shared; }

static float shuffle_xor(float x, int mask) {
  Warp& w = warp();
  const int lane = now->thread % WARP;
  w.lanes[lane].value = x;
  warp_barrier();
  x = w.lanes[lane ^ mask].value;
  warp_barrier();
  return x;
}

static int unknown(int x) { return x; }
static Quad load_exchanged(const Quad* from) { return *from; }
static float load_exchanged(const float* from) { return *from; }
static void count_up(unsigned* counter) { ++*counter; }
static unsigned count_of(const unsigned* counter) {
  now->polls = true;
  give_way();
  now->polls = false;
  return *counter;
}
static void raise_flag(int* flag) { *flag = 1; }
static long long nanoseconds() { return clock_ns += 1000000; }

static unsigned bits_of(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return bits;
}
static float of_bits(unsigned bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
static Half to_bf16(float x) {
  const unsigned bits = bits_of(x);
  if (x != x) return 0x7fff;
  return static_cast<Half>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static float of_bf16(unsigned bits) { return of_bits(bits << 16); }
static float of_fp16(unsigned bits) {
  const int exponent = bits >> 10 & 31;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f, fraction = static_cast<float>(bits & 1023);
  if (exponent == 31) return fraction ? NOT_A_NUMBER : sign * INFINITY;
  return sign * (exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24));
}
static Half to_fp16(float x) {
  if (x != x) return 0x7fff;
  const Half sign = signbit(x) ? 0x8000 : 0;
  const float size = fabsf(x);
  if (size == 0.0f) return sign;
  if (size >= 65520.0f) return sign | 0x7c00;
  int exponent;
  frexpf(size, &exponent);
  const int step = exponent - 11 < -24 ? -24 : exponent - 11;       // of the last bit
  const int units = static_cast<int>(nearbyintf(ldexpf(size, -step)));  // to even, as the default is
  return static_cast<Half>(sign + (step == -24 ? units : ((step + 24) << 10) + units));
}
static float to_tf32(float x) { return x != x ? x : of_bits((bits_of(x) + 0x1000) & ~0x1fffu); }

static float half_of(const Quad& q, int i, bool bf16) {  // the i-th of eight
  const unsigned word = (&q.x)[i / 2], bits = i % 2 ? word >> 16 : word & 0xffff;
  return bf16 ? of_bf16(bits) : of_fp16(bits);
}

// Lane (g, q) = (lane / 4, lane % 4) brings a: rows g, g + 8 by terms, b: terms by column g, as PTX's tables have them.
template <class A, class B>
static void mma(float (&d)[4], const Quad& a, unsigned b0, unsigned b1, int terms, A of_a, B of_b) {
  Warp& w = warp();
  const int lane = now->thread % WARP, g = lane / 4, q = lane % 4;
  w.lanes[lane].a = a, w.lanes[lane].b0 = b0, w.lanes[lane].b1 = b1;
  warp_barrier();
  for (int i = 0; i < 4; i++) {
    double sum = d[i];
    for (int k = 0; k < terms; k++) sum += static_cast<double>(of_a(w, g + i / 2 * 8, k)) * of_b(w, k, 2 * q + i % 2);
    d[i] = static_cast<float>(sum);
  }
  warp_barrier();
}
static void mma_half(float (&d)[4], const Quad& a, unsigned b0, unsigned b1, bool bf16) {
  mma(
      d, a, b0, b1, 16,
      [=](Warp& w, int row, int k) {
        return half_of(w.lanes[row % 8 * 4 + k % 8 / 2].a, (row / 8 + k / 8 * 2) * 2 + k % 2, bf16);
      },
      [=](Warp& w, int k, int column) {
        const Lane& from = w.lanes[column * 4 + k % 8 / 2];
        return half_of(Quad{k / 8 ? from.b1 : from.b0, 0, 0, 0}, k % 2, bf16);
      });
}
static void mma_bf16(float (&d)[4], const Quad& a, unsigned b0, unsigned b1) { mma_half(d, a, b0, b1, true); }
static void mma_fp16(float (&d)[4], const Quad& a, unsigned b0, unsigned b1) { mma_half(d, a, b0, b1, false); }
static void mma_tf32(float (&d)[4], const Quad& a, unsigned b0, unsigned b1) {
  mma(
      d, a, b0, b1, 8,
      [](Warp& w, int row, int k) { return of_bits((&w.lanes[row % 8 * 4 + k % 4].a.x)[row / 8 + k / 4 * 2]); },
      [](Warp& w, int k, int column) {
        const Lane& from = w.lanes[column * 4 + k % 4];
        return of_bits(k / 4 ? from.b1 : from.b0);
      });
}

struct Arguments;
extern "C" void scan(const Arguments x);
static void start();

static bool can_go_on(const Fiber& f) { return !f.done && (!f.barrier || f.barrier->generation != f.awaited); }

// 0: the grid came to its end; 1: no memory; 2: it could not go on.
template <class X>
static int run_grid(int count, int threads, int shared_bytes, unsigned seed) {
  const int all = count * threads, warps_of_block = threads / WARP;
  state = seed, threads_of_block = threads, clock_ns = 0;
  fibers = static_cast<Fiber*>(calloc(all, sizeof(Fiber)));
  warps = static_cast<Warp*>(calloc(all / WARP, sizeof(Warp)));
  blocks = static_cast<Block*>(calloc(count, sizeof(Block)));
  char* stacks = static_cast<char*>(malloc(static_cast<size_t>(all) * STACK));
  unsigned char* memory = static_cast<unsigned char*>(aligned_alloc(128, static_cast<size_t>(count) * shared_bytes));
  if (!fibers || !warps || !blocks || !stacks || !memory) return 1;
  memset(memory, 0xff, static_cast<size_t>(count) * shared_bytes);  // not a number, in every type
  for (int b = 0; b < count; b++) blocks[b].shared = memory + static_cast<size_t>(b) * shared_bytes;
  for (int i = 0; i < all; i++) {
    Fiber& f = fibers[i];
    f.thread = i % threads, f.block = i / threads;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = stacks + static_cast<size_t>(i) * STACK;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = &scheduler;
    makecontext(&f.context, start, 0);
  }
  int left = all, result = 0, still = -1;  // the warp, or after all of them the block, that stands still
  while (left && !result) {
    bool any = false;
    for (int visit = 0; visit < count * warps_of_block; visit++) {
      const int w = draw(count * warps_of_block);
      if (draw(VISITS_STILL) == 0) still = draw(count * (warps_of_block + 1));
      if (w == still || w / warps_of_block + count * warps_of_block == still) continue;
      bool seen[WARP] = {};  // polls once a visit
      for (bool more = true; more;) {
        more = false;
        for (int i = 0, from = draw(WARP); i < WARP; i++) {
          const int lane = (from + i) % WARP;
          Fiber& f = fibers[w * WARP + lane];
          if (!can_go_on(f) || (f.polls && seen[lane])) continue;
          seen[lane] = seen[lane] || f.polls;
          now = &f, any = more = true;
          swapcontext(&scheduler, &f.context);
          left -= f.done;
        }
      }
    }
    if (!any) {  // none of those drawn: see whether there is one at all
      result = 2, still = -1;
      for (int i = 0; i < all; i++)
        if (can_go_on(fibers[i])) result = 0;
    }
  }
  free(fibers), free(warps), free(blocks), free(stacks), free(memory);
  return result;
}
