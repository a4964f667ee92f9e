// Threads that run one scan together. Rows of the batch are independent, so threads first divide the rows; threads
// that share rows divide the columns of every product and meet at a barrier after it.
#pragma once
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

// OpenMP's entry points as found in the process by the caller, so that torch's own idle threads are used and not
// others beside them; null where there are none.
struct OpenMP {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
  int (*thread)();
  int (*threads)();
};

static inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class alignas(64) Barrier {
 public:
  int members = 1;

  void wait() {
    if (members == 1) return;
    unsigned now = generation.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
      arrived.store(0, std::memory_order_relaxed);
      generation.store(now + 1, std::memory_order_release);
      return;
    }
    // A short spin is the fast case; after it the core is given to whoever keeps the others from arriving.
    for (int spins = 0; generation.load(std::memory_order_acquire) == now; spins++)
      if (spins < 400) relax();
      else sched_yield();
  }

 private:
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<unsigned> generation{0};
};

static inline int64_t share(int64_t total, int64_t parts, int64_t part) { return total * part / parts; }

// What one thread does: rows [first, last), and of every product's panels its slab out of `slabs`.
struct Role {
  int64_t first, last;
  int slab, slabs;
  Barrier* barrier;

  int64_t rows() const { return last - first; }
  // This thread's share of a number of panels, or of units: few panels are divided evenly only if their rows are too.
  int64_t begin(int64_t total) const { return share(total, slabs, slab); }
  int64_t end(int64_t total) const { return share(total, slabs, slab + 1); }
  void meet() const { barrier->wait(); }
};

constexpr int64_t SMALL = 1 << 20;  // bytes of weights that stay in each core's own cache

// Row groups for `threads`: as many as leave enough rows to each, since every group reads all weights at every step;
// small weights stay in each core's own cache, and then few rows are enough.
static inline int row_groups(int threads, int64_t batch, int64_t weight_bytes) {
  int64_t enough = weight_bytes <= SMALL ? 4 : 32;
  for (int groups = threads; groups > 1; groups--)
    if (threads % groups == 0 && batch >= groups * enough) return groups;
  return 1;
}

// Numbers below 1e-38 count as zero while this lives: a state that decays towards zero, as the RRU's does at its
// initialisation, would otherwise slow every product down several times.
class NoDenormals {
 public:
  NoDenormals() : before(get()) { set(before | FLUSH); }
  ~NoDenormals() { set(before); }
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;

 private:
#if defined(__x86_64__)
  typedef unsigned Register;
  static constexpr Register FLUSH = 0x8040;
  static Register get() { return __builtin_ia32_stmxcsr(); }
  static void set(Register value) { __builtin_ia32_ldmxcsr(value); }
#elif defined(__aarch64__)
  typedef uint64_t Register;
  static constexpr Register FLUSH = 1u << 24;
  static Register get() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set(Register value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
  typedef unsigned Register;
  static constexpr Register FLUSH = 0;
  static Register get() { return 0; }
  static void set(Register) {}
#endif
  Register before;
};

// Runs work(id, count) on `threads` threads at once; count is `threads`, or 1 where no more could be had.
template <class Work>
static void parallel(int threads, const OpenMP& openmp, Work work) {
  if (threads == 1) return work(0, 1);
  if (openmp.parallel) {
    struct Call {
      Work& work;
      const OpenMP& openmp;
      int threads;
    } call{work, openmp, threads};
    auto enter = [](void* p) {
      Call& call = *static_cast<Call*>(p);
      int id = call.openmp.thread();
      if (call.openmp.threads() == call.threads) call.work(id, call.threads);
      else if (id == 0) call.work(0, 1);  // a nested region or a limit
    };
    return openmp.parallel(enter, &call, static_cast<unsigned>(threads), 0);
  }
  std::vector<std::thread> others;
  for (int id = 1; id < threads; id++) others.emplace_back([&work, id, threads] { work(id, threads); });
  work(0, threads);
  for (auto& other : others) other.join();
}

// Every thread of a team packs its share of the weights, then plays its role in the scan.
template <class Scan>
static void run(Scan& scan, int threads, int64_t batch, int64_t weight_bytes, bool packed, const OpenMP& openmp) {
  if (!packed) parallel(threads, openmp, [&](int id, int count) { scan.pack(id, count); });
  int groups = row_groups(threads, batch, weight_bytes);
  std::vector<Barrier> barriers(groups);
  for (auto& barrier : barriers) barrier.members = threads / groups;
  parallel(threads, openmp, [&](int id, int count) {
    NoDenormals flush;
    Barrier none;
    if (count == 1) return scan(Role{0, batch, 0, 1, &none});
    int slabs = threads / groups, group = id / slabs;
    scan(Role{share(batch, groups, group), share(batch, groups, group + 1), id % slabs, slabs, &barriers[group]});
  });
}
