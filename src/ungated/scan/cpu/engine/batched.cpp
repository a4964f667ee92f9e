// Gradients of weights: left' right, summed over all rows (time and batch) of two tall matrices.
//
// Threads divide the wider side or, where the results are few, the rows: then each has results of its own, which are
// added at the end. Each goes through its rows in blocks: of the right side a group of panels is packed to stay in the
// second-level cache, of the left side one sliver to stay in the first, and the results gather in `out`.
#include "entry.h"
#include "product.h"
#include "scratch.h"
#include "sparse.h"
#include "team.h"

// Columns of one side: n of them (0: there are none) in rows `ld` apart.
struct Columns {
  const float* data;
  int64_t n, ld;

  template <int64_t width>
  int64_t pieces() const { return (n + width - 1) / width; }
};

struct Batched {
  int64_t rows, add;  // whether to add to what is in `out` and `sums`
  Columns left[2], right[2];  // side by side
  int64_t rectify;            // whether left[0] is taken as max(left[0], 0)
  int64_t sparse;             // whether much of left[0] times the mask is then zero; left[1].n is 0
  const float* mask;          // (mask_rows, left[0].n), again and again: times left[0]; or null
  int64_t mask_rows;
  const float* scale;  // (rows) times right, or null
  float* out[4];       // (left n, right n): out[2 * i + j] of left[i] and right[j]
  float* sums[2];      // (right n) the sum of the right side's rows, unscaled; or null
};

class BatchedProduct {
 public:
  BatchedProduct(const Batched& x, int threads)
      : x(x),
        packed(threads * GROUP, P * ROWS, ANY),
        slivers(threads, (x.sparse ? TILE_ROWS : SLIVER) * ROWS, ANY),
        sums(threads, panels() * P),
        by_rows(x.rows >= 4 * ROWS * threads && results() * threads <= FEW),
        own(by_rows ? threads - 1 : 0, results(), ANY) {
  }

  // What thread `id` of `count` does.
  void operator()(int id, int count) {
    Range left{0, x.left[0].pieces<HEIGHT>() + x.left[1].pieces<HEIGHT>()}, right{0, panels()}, all{0, x.rows};
    if (by_rows) all.divide(id, count);
    // Each thread packs all of the side that is not divided.
    else (right.last * P >= left.last * HEIGHT ? right : left).divide(id, count);
    const Part part = part_of(id, all.first);
    const bool sums_here = left.first == 0 && left.last > 0;  // of all threads that pack a panel, one adds up its rows
    const int64_t c0 = left.first * HEIGHT, c1 = least(left.last * HEIGHT, x.left[0].n);
    for (int64_t row = all.first; row < all.last; row += ROWS)
      for (int64_t group = right.first; group < right.last; group += GROUP) {
        const int64_t rows = least(ROWS, all.last - row), end = least(group + GROUP, right.last);
        for (int64_t p = group; p < end; p++)
          pack_right(p, row, rows, packed.row(id * GROUP + p - group), sums_here ? sums.row(id) + p * P : nullptr);
        if (x.sparse)
          for (int64_t c = c0; c < c1; c += TILE_ROWS)
            multiply_sparse(part, c, least(c + TILE_ROWS, c1), group, end, row, rows);
        else
          for (int64_t piece = left.first; piece < left.last; piece++) multiply(part, piece, group, end, row, rows);
      }
  }

  // When all `count` threads are done.
  void finish(int count) {
    for (int64_t p = 0; p < panels(); p++) {
      const Place to = place<P>(x.right, p);
      for (int v = 0; x.sums[to.side] && v < WIDE; v++) {
        float* sum = x.sums[to.side] + to.column + v * W;
        vec total = x.add ? load(sum, to.count - v * W) : vec{};
        for (int id = 0; id < count; id++) total += load(sums.row(id) + p * P + v * W);
        store(sum, total, to.count - v * W);
      }
    }
    for (int id = 1; by_rows && id < count; id++) {
      const Part part = part_of(id, 0);
      for (int i = 0; i < 4; i++)
        for (int64_t k = 0; k < results(i); k++) x.out[i][k] += part.out[i][k];
    }
  }

 private:
  static constexpr int P = WIDE * W, HEIGHT = most_rows(WIDE), SLIVER = (HEIGHT + W - 1) / W * W;
  static constexpr int64_t ROWS = 256, GROUP = 512 / P;
  static constexpr int64_t FEW = 1 << 18;  // results of all threads, if each has its own
  struct Range {
    int64_t first, last;
    void divide(int id, int count) {
      const int64_t total = last;
      first = share(total, count, id), last = share(total, count, id + 1);
    }
  };
  struct Place {
    int side;
    int64_t column, count;  // in that side, and how many of the piece's columns there are
  };
  // What a thread works for: where its results go, and whether they are added to what is there.
  struct Part {
    int id;
    float* out[4];
    int64_t first_row;
    bool add;
  };
  const Batched& x;
  Matrix packed, slivers, sums;   // of each thread
  const bool by_rows;             // whether threads divide the rows
  Matrix own;                     // then, of each thread but the first: its results

  int64_t results(int i) const { return x.left[i / 2].n * x.right[i % 2].n; }
  int64_t results() const { return results(0) + results(1) + results(2) + results(3); }
  Part part_of(int id, int64_t first_row) {
    if (!by_rows || id == 0) return {id, {x.out[0], x.out[1], x.out[2], x.out[3]}, first_row, x.add != 0};
    float *a = own.row(id - 1), *b = a + results(0), *c = b + results(1);
    return {id, {a, b, c, c + results(2)}, first_row, false};
  }
  int registers(const Place& right) const { return right.count <= W && !x.sparse ? 1 : WIDE; }
  int64_t panels() const { return x.right[0].pieces<P>() + x.right[1].pieces<P>(); }
  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  template <int64_t width>
  static Place place(const Columns* sides, int64_t piece) {
    const int64_t first = sides[0].template pieces<width>();
    const int side = piece >= first;
    const int64_t column = (side ? piece - first : piece) * width;
    return {side, column, least(width, sides[side].n - column)};
  }

  void pack_right(int64_t p, int64_t row, int64_t rows, float* out, float* sums) const {
    const Place from = place<P>(x.right, p);
    const Columns& side = x.right[from.side];
    const float* in = side.data + row * side.ld + from.column;
    vec sum[WIDE] = {};
    for (int64_t k = 0; k < rows; k++, in += side.ld, out += registers(from) * W) {
      const float scale = x.scale ? x.scale[row + k] : 1.0f;
      for (int v = 0; v < registers(from); v++) {
        vec value = load(in + v * W, from.count - v * W);
        sum[v] += value;
        store(out + v * W, value * scale);
      }
    }
    for (int v = 0; sums && v < WIDE; v++) store(sums + v * W, load(sums + v * W) + sum[v]);
  }

  // A register of the left side, `count` of its floats.
  vec left_entries(int side, int64_t row, int64_t column, int64_t count) const {
    vec value = load(x.left[side].data + row * x.left[side].ld + column, count);
    if (side == 0 && x.rectify) value = relu(value);
    if (side == 0 && x.mask) value *= load(x.mask + row % x.mask_rows * x.left[0].n + column, count);
    return value;
  }

  void pack_left(const Place& from, int64_t row, int64_t rows, float* out) const {
    for (int64_t k = 0; k < rows; k++, out += SLIVER)
      for (int64_t c = 0; c < SLIVER; c += W)
        store(out + c, left_entries(from.side, row + k, from.column + c, from.count - c));
  }

  // Some rows of a sliver to come into the cache: of each the last line, since the one before has the rest of it.
  void fetch_sliver(int64_t piece, int64_t first, int64_t last) const {
    if (piece >= x.left[0].pieces<HEIGHT>() + x.left[1].pieces<HEIGHT>()) return;
    const Place next = place<HEIGHT>(x.left, piece);
    const Columns& side = x.left[next.side];
    fetch<READ>(side.data, side.ld, first, last, next.column + next.count - 1, 1);
  }

  float* out_of(const Part& part, int side, int64_t column, const Place& right) const {
    return part.out[2 * side + right.side] + column * x.right[right.side].n + right.column;
  }

  void fetch_out(const Part& part, int side, int64_t column, int64_t count, const Place& right) const {
    fetch<WRITE>(out_of(part, side, column, right), x.right[right.side].n, 0, count, 0, right.count);
  }

  // Columns [c0, c1) of the left side, at most TILE_ROWS, with the panels [group, end).
  void multiply_sparse(const Part& part, int64_t c0, int64_t c1, int64_t group, int64_t end, int64_t row,
                       int64_t rows) {
    constexpr int SLICE = 16;  // columns that stand side by side
    // Their accumulators for all columns, the other side and one broadcast fill the registers.
    constexpr int PANELS = most_rows(WIDE) > 6 ? 2 : 1;
    const int64_t blocks = (rows + BLOCK - 1) / BLOCK, count = c1 - c0;
    Places<TOGETHER> places[TILE_ROWS / TOGETHER][(ROWS + BLOCK - 1) / BLOCK];
    auto slice = [&](int64_t c, int64_t k) {
      return slivers.row(part.id) + (c / SLICE * ROWS + k) * SLICE + c % SLICE;
    };
    for (int64_t block = 0; block < blocks; block++) {
      alignas(64) float columns[TILE_ROWS][BLOCK];
      const int64_t k0 = block * BLOCK, length = least(BLOCK, rows - k0);
      for (int64_t k = 0; k < length; k += W)
        for (int64_t c = 0; c < count; c += W) {
          vec square[W];
          for (int64_t i = 0; i < W; i++) {
            square[i] = k + i < length ? left_entries(0, row + k0 + k + i, c0 + c, count - c) : vec{};
            if (k + i < length) store(slice(c, k0 + k + i), square[i]);
          }
          transpose(square);
          for (int64_t i = 0; i < W; i++) store(columns[c + i] + k, square[i]);
        }
      for (int64_t c = 0; c < count; c += TOGETHER)
        places[c / TOGETHER][block].sort(length, [&](int i, int64_t k) { return load(columns[c + i] + k); });
    }
    alignas(64) float tile[PANELS * TILE_ROWS * P];
    for (int64_t p = group, q; p < end; p = q) {
      q = p + panels_from(p, end, PANELS);
      SparseKernel<TOGETHER>* kernel = sparse_kernel_for<TOGETHER, PANELS, SLICE>(q - p);
      for (int64_t block = 0; block < blocks; block++) {
        const int64_t turn = (p - group) * blocks + (q - p) * block, turns = (end - group) * blocks;
        fetch<READ>(x.left[0].data, x.left[0].ld, row + share(rows, turns, turn), row + share(rows, turns, turn + q - p), c1,
                    least(TILE_ROWS, x.left[0].n - c1));
        for (int64_t c = 0; c < count; c += TOGETHER) {
          for (int64_t j = p; block + 1 == blocks && j < q; j++)
            fetch_out(part, 0, c0 + c, least(TOGETHER, count - c), place<P>(x.right, j));
          kernel(places[c / TOGETHER][block], slice(c, block * BLOCK), 0,
                 packed.row(part.id * GROUP + p - group) + block * BLOCK * P, packed.ld, tile + c * P, block > 0, nullptr,
                 0);
        }
      }
      for (int64_t j = p; j < q; j++) add_to_out(part, 0, c0, count, j, row, tile + (j - p) * TILE_ROWS * P, WIDE);
    }
  }

  // `count` rows of results for one panel, each of so many registers.
  void add_to_out(const Part& part, int side, int64_t column, int64_t count, int64_t p, int64_t row, const float* tile,
                  int registers) const {
    const Place right = place<P>(x.right, p);
    const int64_t ld = x.right[right.side].n;
    float* out = out_of(part, side, column, right);
    for (int64_t i = 0; i < count; i++)
      for (int v = 0; v < registers && v * W < right.count; v++) {
        vec before = part.add || row > part.first_row ? load(out + i * ld + v * W, right.count - v * W) : vec{};
        store(out + i * ld + v * W, before + load(tile + (i * registers + v) * W), right.count - v * W);
      }
  }

  void multiply(const Part& part, int64_t piece, int64_t group, int64_t end, int64_t row, int64_t rows) {
    alignas(64) float tile[HEIGHT * P];
    float* sliver = slivers.row(part.id);
    const Place left = place<HEIGHT>(x.left, piece);
    pack_left(left, row, rows, sliver);
    const int height = static_cast<int>(left.count);
    Kernel *wide = kernel_for<WIDE, HEIGHT, SLIVER>(height), *narrow = kernel_for<1, HEIGHT, SLIVER>(height);
    for (int64_t p = group; p < end; p++) {
      fetch_sliver(piece + 1, row + (p - group) * rows / (end - group), row + (p - group + 1) * rows / (end - group));
      const Place right = place<P>(x.right, p);
      fetch_out(part, left.side, left.column, left.count, right);
      const int64_t next = p + 1 < end ? p + 1 : group;
      const int registers = this->registers(right);
      (registers == 1 ? narrow : wide)(sliver, 0, packed.row(part.id * GROUP + p - group), static_cast<int>(rows), tile,
                                       false, packed.row(part.id * GROUP + next - group), W);
      add_to_out(part, left.side, left.column, left.count, p, row, tile, registers);
    }
  }
};

EXPORT int64_t batched_size() { return sizeof(Batched); }
EXPORT int batched_run(const Batched* x, int threads, const OpenMP* omp) {
  return guarded([&] {
    BatchedProduct product(*x, threads);
    int ran = 1;
    parallel(threads, *omp, [&](int id, int count) {
      NoDenormals flush;
      product(id, count);
      if (id == 0) ran = count;
    });
    product.finish(ran);
  });
}
