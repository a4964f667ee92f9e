// What the kernels take from the GPU itself, in inline PTX: no header is needed. Whatever stands in for this file may
// run the kernels elsewhere.


typedef unsigned short Half;  // the bits of a bfloat16 or of a half
typedef uint4 Quad;

#define NOT_A_NUMBER __int_as_float(0x7fffffff)

extern __shared__ Quad shared_memory[];

inline int thread_index() { return threadIdx.x; }
inline int block_index() { return blockIdx.x; }
inline void block_barrier() { __syncthreads(); }
inline void warp_barrier() { __syncwarp(); }
inline float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
inline unsigned char* shared() { return reinterpret_cast<unsigned char*>(shared_memory); }

// What the compiler cannot know: a loop that it sees is short, it unrolls whatever it is told, and takes seconds over
// it.
inline int unknown(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Past the first cache, which does not see what other multiprocessors write.
inline Quad load_exchanged(const Quad* from) {
  Quad x;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(from));
  return x;
}
inline float load_exchanged(const float* from) {
  float x;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(from));
  return x;
}

// What this block wrote before is seen by whoever sees the count.
inline void count_up(unsigned* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
inline unsigned count_of(const unsigned* counter) {
  unsigned x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(counter) : "memory");
  return x;
}
// The flag lies in the host's memory.
inline void raise_flag(int* flag) { asm volatile("st.relaxed.sys.global.u32 [%0], 1;" ::"l"(flag) : "memory"); }
inline long long nanoseconds() {
  long long x;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(x));
  return x;
}

inline Half to_bf16(float x) {
  Half bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
inline Half to_fp16(float x) {
  Half bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
inline float to_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}

#define MMA(name, shape, type)                                                                                        \
  inline void name(float (&d)[4], const Quad& a, unsigned b0, unsigned b1) {                                          \
    asm("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
        "{%0, %1, %2, %3};"                                                                                           \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                              \
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));                                                  \
  }
MMA(mma_bf16, "m16n8k16", "bf16")
MMA(mma_fp16, "m16n8k16", "f16")
MMA(mma_tf32, "m16n8k8", "tf32")
