// A number for each row of which every block of the team has a part: a sum over all units. Parts travel with the
// activations of a phase, and the next phase adds them, so that they cost no meeting of their own.


inline float warp_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

inline float* row_parts(const Team& m) { return reinterpret_cast<float*>(m.exchange + ROW_PARTS_AT); }  // (ROWS, CTAS)
inline float& row_term(const Team& m, int row, int own) {
  return reinterpret_cast<float*>(m.local + ROW_TERMS_AT)[row * ROW_TERMS + own];
}
inline float& row_value(const Team& m, int row) { return reinterpret_cast<float*>(m.local + ROW_VALUES_AT)[row]; }

// This block's parts of the sums, from the terms of its units of P.
template <class P>
inline void hand_on_row_parts(const Team& m) {
  const int left = P::N - m.rank * P::UNITS, units = left < P::UNITS ? left : P::UNITS;
  block_barrier();
#pragma unroll 1
  for (int row = m.warp; row < m.rows; row += WARPS) {
    float part = 0.0f;
    for (int own = m.lane; own < units; own += 32) part += row_term(m, row, own);
    part = warp_sum(part);
    if (m.lane == 0) row_parts(m)[row * CTAS + m.rank] = part;
  }
}

struct RowSums {
  static constexpr int COUNT = (ROWS + WARPS - 1) / WARPS;
  float part[COUNT];

  void load(const Team& m) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int row = m.warp + i * WARPS;
      part[i] = 0.0f;
      if (row < m.rows)
        for (int c = m.lane; c < CTAS; c += 32) {
          const float* from = row_parts(m) + row * CTAS + c;
          part[i] += CTAS == 1 ? *from : load_exchanged(from);
        }
    }
  }

  // row_value(row) = of(sum, row)
  template <class Of>
  void add(const Team& m, Of of) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int row = m.warp + i * WARPS;
      const float sum = warp_sum(part[i]);
      if (m.lane == 0 && row < m.rows) row_value(m, row) = of(sum, row);
    }
  }
};
