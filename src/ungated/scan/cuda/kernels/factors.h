// The factors of a product in the order in which threads read them, for each of the four types they may have.
//
// Weights come in tiles of 16 columns, rows of a batch in eights, and both in blocks along the sum: 32 terms in two
// bytes each or 16 in four. A block of a tile is 1024 bytes, a block of eight rows 512, whatever the type; a warp reads
// them in 16 bytes a thread. Where two or four bytes stand is what the matrix instruction asks of each thread.


enum Mode { BF16, FP16, TF32, FP32 };  // FP32: no matrix instruction, but plain multiplications and additions

constexpr int TERMS = MODE == BF16 || MODE == FP16 ? 32 : 16;  // of a block
constexpr int WEIGHTS = 64, ROWS_OF_8 = 32;                    // Quads of a block

inline void put(unsigned char* at, float value) {
  if (MODE == BF16) *reinterpret_cast<Half*>(at) = to_bf16(value);
  else if (MODE == FP16) *reinterpret_cast<Half*>(at) = to_fp16(value);
  else if (MODE == TF32) *reinterpret_cast<float*>(at) = to_tf32(value);
  else *reinterpret_cast<float*>(at) = value;
}

// The byte of weight `column` of a tile in term k of its block.
inline int weight_at(int column, int k) {
  if (MODE == FP32) return (k / 4 * 16 + column) * 16 + k % 4 * 4;
  const int upper = column / 8, lane = column % 8 * 4;
  if (MODE == TF32) return (k / 8 * 32 + lane + k % 4) * 16 + (upper + k % 8 / 4 * 2) * 4;
  return (k / 16 * 32 + lane + k % 8 / 2) * 16 + (upper + k % 16 / 8 * 2) * 4 + k % 2 * 2;
}

// The byte of one of eight rows in term k of their block.
inline int row_at(int row, int k) {
  if (MODE == FP32) return row * 64 + k * 4;
  if (MODE == TF32) return (row * 4 + k % 4) * 16 + (k / 8 * 2 + k % 8 / 4) * 4;
  return (row * 4 + k % 8 / 2) * 16 + (k / 16 * 2 + k % 16 / 8) * 4 + k % 2 * 2;
}

// sum += a block of weights times a block of NT times eight rows: thread (g, q) = (lane / 4, lane % 4) has the
// results of columns g and g + 8 for the rows 2q and 2q + 1. stage: room of the warp's own, for FP32.
template <int NT>
inline void multiply_block(float (&sum)[NT][4], const Quad* weights, const Quad (&rows)[NT], int lane, float* stage) {
  if (MODE == FP32) {
    const float4* w = reinterpret_cast<const float4*>(weights);
    const int g = lane / 4, q = lane % 4;
#pragma unroll
    for (int j = 0; j < NT; j++) {
      const float4* upper = reinterpret_cast<const float4*>(stage + (j * 8 + 2 * q) * 20);
      const float4* lower = reinterpret_cast<const float4*>(stage + (j * 8 + 2 * q + 1) * 20);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float4 a = w[k * 16 + g], b = w[k * 16 + g + 8], x = upper[k], y = lower[k];
        sum[j][0] += a.x * x.x + a.y * x.y + a.z * x.z + a.w * x.w;
        sum[j][1] += a.x * y.x + a.y * y.y + a.z * y.z + a.w * y.w;
        sum[j][2] += b.x * x.x + b.y * x.y + b.z * x.z + b.w * x.w;
        sum[j][3] += b.x * y.x + b.y * y.y + b.z * y.z + b.w * y.w;
      }
    }
    return;
  }
  const Quad first = weights[lane], second = weights[32 + lane];
#pragma unroll
  for (int j = 0; j < NT; j++) {
    if (MODE == BF16) {
      mma_bf16(sum[j], first, rows[j].x, rows[j].y);
      mma_bf16(sum[j], second, rows[j].z, rows[j].w);
    } else if (MODE == FP16) {
      mma_fp16(sum[j], first, rows[j].x, rows[j].y);
      mma_fp16(sum[j], second, rows[j].z, rows[j].w);
    } else {
      mma_tf32(sum[j], first, rows[j].x, rows[j].y);
      mma_tf32(sum[j], second, rows[j].z, rows[j].w);
    }
  }
}

// FP32 only: what the threads have loaded goes where all of the warp can read it, 20 floats a row.
template <int NT>
inline void stage_block(const Quad (&rows)[NT], int lane, float* stage) {
  warp_barrier();
#pragma unroll
  for (int j = 0; j < NT; j++) *reinterpret_cast<Quad*>(stage + (j * 8 + lane / 4) * 20 + lane % 4 * 4) = rows[j];
  warp_barrier();
}
