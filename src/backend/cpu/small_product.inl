// Part of kernels.inl and training_kernels.inl: the small matrix product of chunks and blocks, in register tiles.

/// Query rows and vectors of a register tile.
inline constexpr int kQueryTile = Vec::kLanes == 16 ? 8 : Vec::kLanes == 8 ? 6 : 4;
inline constexpr int kRestTile = Vec::kLanes == 16 ? 4 : 2;  // for the rows that are left over
inline constexpr int kTileVecs = Vec::kLanes == 1 ? 4 : 2;

/// Calls body(first row, constant number of rows) over `rows` rows in register tiles.
template <typename Body>
inline void for_query_tiles(int64_t rows, Body&& body) {
  int64_t r = 0;
  for (; r + kQueryTile <= rows; r += kQueryTile) body(r, std::integral_constant<int, kQueryTile>{});
  for (; r + kRestTile <= rows; r += kRestTile) body(r, std::integral_constant<int, kRestTile>{});
  for (; r < rows; ++r) body(r, std::integral_constant<int, 1>{});
}

/// out = scale_i * out (or 0 when scale is null) + sum over m < inner of
/// a[i * a_row + m * a_inner] * b[m], for kTile rows i. One chain of multiply-adds per element: no tile changes its bits.
template <int kTile, int kVecs, bool kFull>
inline void accumulate_tile(float* out, int64_t ldout, const float* scale, const float* a, int64_t a_row, int64_t a_inner,
                            const float* b, int64_t ldb, int64_t inner, int64_t lanes) {
  const auto load = [&](const float* p) { return kFull ? Vec::load(p) : Vec::partial_load(p, lanes); };
  Vec sum[kTile][kVecs];
  QNEXT_UNROLL
  for (int i = 0; i < kTile; ++i) {
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) {
      sum[i][n] = scale == nullptr ? Vec::zero() : load(out + i * ldout + n * Vec::kLanes) * Vec::set(scale[i]);
    }
  }
  for (int64_t m = 0; m < inner; ++m) {
    Vec row[kVecs];
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) row[n] = load(b + m * ldb + n * Vec::kLanes);
    QNEXT_UNROLL
    for (int i = 0; i < kTile; ++i) {
      const Vec factor = Vec::set(a[i * a_row + m * a_inner]);
      QNEXT_UNROLL
      for (int n = 0; n < kVecs; ++n) sum[i][n] = Vec::fma(factor, row[n], sum[i][n]);
    }
  }
  QNEXT_UNROLL
  for (int i = 0; i < kTile; ++i) {
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) {
      if constexpr (kFull) {
        sum[i][n].store(out + i * ldout + n * Vec::kLanes);
      } else {
        sum[i][n].partial_store(out + i * ldout + n * Vec::kLanes, lanes);
      }
    }
  }
}

/// `rows` rows and `cols` columns of the above; scale as there, one per row. Column panels outside: a panel of b stays in the
/// first-level cache for all rows.
inline void accumulate(float* out, int64_t ldout, const float* scale, const float* a, int64_t a_row, int64_t a_inner,
                       const float* b, int64_t ldb, int64_t rows, int64_t inner, int64_t cols) {
  constexpr int64_t kL = Vec::kLanes;
  const auto panel = [&]<int kVecs, bool kFull>(int64_t c, std::integral_constant<int, kVecs>,
                                                std::bool_constant<kFull>) {
    for_query_tiles(rows, [&](int64_t i, auto tile) {
      accumulate_tile<decltype(tile)::value, kVecs, kFull>(out + i * ldout + c, ldout, scale == nullptr ? nullptr : scale + i,
                                                           a + i * a_row, a_row, a_inner, b + c, ldb, inner, cols - c);
    });
  };
  int64_t c = 0;
  for (; c + kTileVecs * kL <= cols; c += kTileVecs * kL) {
    panel(c, std::integral_constant<int, kTileVecs>{}, std::true_type{});
  }
  for (; c + kL <= cols; c += kL) panel(c, std::integral_constant<int, 1>{}, std::true_type{});
  if (c < cols) panel(c, std::integral_constant<int, 1>{}, std::false_type{});
}
