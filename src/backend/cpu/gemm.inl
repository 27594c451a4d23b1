// Part of training_kernels.inl: products of matrices, in register tiles over packed panels (gemm_kernels.h says
// what); those by instructions for bf16 are in gemm_bf16.inl.
//
// A panel of b is [inner][kCols]: one row of vectors per inner index, whatever the layout of b was. a is read element
// by element, with two strides; a panel of a, [inner][kRows], is one such layout. kInner is chosen so that a panel of
// b stays in the first-level cache while it meets kBlockRows rows of a, which stay in the second.

#include "backend/cpu/gemm_pack.inl"

namespace gemm {

/// One register tile: c = (zero ? 0 : c) + a b. kPacked: a is a panel. cols <= kVecs * kLanes are stored.
template <int kTile, int kVecs, bool kPacked>
__attribute__((noinline)) void tile(const float* a, int64_t a_row, int64_t a_inner, const float* b, int64_t inner,
                                    float* c, int64_t ldc, const int32_t* c_index, int64_t cols, bool zero) {
  constexpr int64_t kL = Vec::kLanes;
  const int64_t rest = cols - (kVecs - 1) * kL;  // lanes of the last vector
  const auto row = [&](int i) { return c + (c_index == nullptr ? i : c_index[i]) * ldc; };
  Vec sum[kTile][kVecs];
  QNEXT_UNROLL
  for (int i = 0; i < kTile; ++i) {
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) sum[i][n] = Vec::zero();
  }
  if (!zero) {
    QNEXT_UNROLL
    for (int i = 0; i < kTile; ++i) {
      const float* from = row(i);
      QNEXT_UNROLL
      for (int n = 0; n < kVecs - 1; ++n) sum[i][n] = Vec::load(from + n * kL);
      sum[i][kVecs - 1] = load_lanes(from + (kVecs - 1) * kL, rest);
    }
  }
  for (int64_t l = 0; l < inner; ++l) {
    Vec line[kVecs];
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) line[n] = Vec::load(b + n * kL);
    QNEXT_UNROLL
    for (int i = 0; i < kTile; ++i) {
      const Vec factor = Vec::set(kPacked ? a[i] : a[i * a_row]);
      QNEXT_UNROLL
      for (int n = 0; n < kVecs; ++n) sum[i][n] = Vec::fma(factor, line[n], sum[i][n]);
    }
    a += kPacked ? kRows : a_inner;
    b += kCols;
  }
  QNEXT_UNROLL
  for (int i = 0; i < kTile; ++i) {
    float* to = row(i);
    QNEXT_UNROLL
    for (int n = 0; n < kVecs - 1; ++n) sum[i][n].store(to + n * kL);
    store_lanes(sum[i][kVecs - 1], to + (kVecs - 1) * kL, rest);
  }
}

using Tile = void (*)(const float*, int64_t, int64_t, const float*, int64_t, float*, int64_t, const int32_t*, int64_t,
                      bool);
template <bool kPacked, int kVecs, int kTile = kRows>
inline Tile tile_of(int64_t rows) {
  if constexpr (kTile > 1) {
    if (rows < kTile) return tile_of<kPacked, kVecs, kTile - 1>(rows);
  }
  return tile<kTile, kVecs, kPacked>;
}
template <bool kPacked, int kVecs = kColVecs>
inline Tile tile_of(int64_t rows, int64_t cols) {
  if constexpr (kVecs > 1) {
    if (cols <= (kVecs - 1) * Vec::kLanes) return tile_of<kPacked, kVecs - 1>(rows, cols);
  }
  return tile_of<kPacked, kVecs>(rows);
}

/// How a lies: element (i, l) at i * row + l * inner from its first, or in panels.
struct Left {
  const float* data;
  int64_t row, inner;
  int64_t tile;  ///< from a tile of rows to the next
  bool packed;
};
inline Left strided(const float* data, int64_t row, int64_t inner) { return {data, row, inner, kRows * row, false}; }
inline Left panels(const float* data, int64_t inner) { return {data, 1, kRows, kRows * inner, true}; }
/// Where c is: columns of a panel at the same place of each row, panels `panel` apart.
struct Out {
  float* data;
  int64_t ld, panel;
  const int32_t* index;
};

/// Asks for rows [from, to) of a that lie far apart: lines too short for the machine to foresee.
inline void fetch_rows(const Left& a, int64_t from, int64_t to, int64_t inner) {
  for (int64_t r = from; r < to; ++r) {
    for (int64_t l = 0; l < inner; l += 16) __builtin_prefetch(a.data + r * a.row + l);
  }
}

/// c = (zero ? 0 : c) + a b for m rows and n columns; panels of b b_panel floats apart.
inline void block(const Left& a, const float* b, int64_t b_panel, int64_t m, int64_t n, int64_t inner, const Out& c,
                  bool zero) {
  const bool fetch = !a.packed && a.inner == 1;
  for (int64_t j = 0; j < n; j += kCols) {
    const int64_t cols = n - j < kCols ? n - j : kCols, p = j / kCols;
    if constexpr (kColVecs == 2) {
      if (!a.packed && cols <= Vec::kLanes) {  // a lone vector: twice the rows, to have as many chains
        for (int64_t i = 0; i < m; i += 2 * kRows) {
          const int64_t rows = m - i < 2 * kRows ? m - i : 2 * kRows;
          const Tile body = tile_of<false, 1, 2 * kRows>(rows);
          if (fetch && j == 0) fetch_rows(a, i + rows, i + rows + 2 * kRows < m ? i + rows + 2 * kRows : m, inner);
          body(a.data + i * a.row, a.row, a.inner, b + p * b_panel, inner,
               c.data + p * c.panel + (c.index == nullptr ? i * c.ld : 0), c.ld,
               c.index == nullptr ? nullptr : c.index + i, cols, zero);
        }
        continue;
      }
    }
    const Tile full = a.packed ? tile_of<true>(kRows, cols) : tile_of<false>(kRows, cols);
    for (int64_t i = 0; i < m; i += kRows) {
      const int64_t rows = m - i < kRows ? m - i : kRows;
      const Tile body = rows == kRows ? full : a.packed ? tile_of<true>(rows, cols) : tile_of<false>(rows, cols);
      float* to = c.data + p * c.panel + (c.index == nullptr ? i * c.ld : 0);
      if (fetch && j == 0) fetch_rows(a, i + rows, i + rows + kRows < m ? i + rows + kRows : m, inner);
      // The next tile's chains wait for what they continue from.
      for (int64_t r = i + kRows; !zero && r < (i + 2 * kRows < m ? i + 2 * kRows : m); ++r) {
        __builtin_prefetch(c.data + p * c.panel + (c.index == nullptr ? r : c.index[r]) * c.ld, 1);
        __builtin_prefetch(c.data + p * c.panel + (c.index == nullptr ? r : c.index[r]) * c.ld + cols - 1, 1);
      }
      body(a.data + i / kRows * a.tile, a.row, a.inner, b + p * b_panel, inner, to, c.ld,
           c.index == nullptr ? nullptr : c.index + i, cols, zero);
    }
  }
}

/// The same in steps of kInner, for panels of b of any length.
inline void long_block(const Left& a, const float* b, int64_t b_panel, int64_t m, int64_t n, int64_t inner,
                       const Out& c, bool zero) {
  if (inner == 0 && zero) return block(a, b, b_panel, m, n, 0, c, true);
  for (int64_t l = 0; l < inner; l += kInner) {
    Left part = a;
    part.data += l * a.inner;
    block(part, b + l * kCols, b_panel, m, n, inner - l < kInner ? inner - l : kInner, c, zero && l == 0);
  }
}

}  // namespace gemm

#include "backend/cpu/gemm_bf16.inl"

namespace gemm {

template <typename Element>
constexpr int64_t floats_of(int64_t elements) {
  constexpr int64_t kLine = 64;  // bytes
  return (elements * static_cast<int64_t>(sizeof(Element)) + kLine - 1) / kLine * (kLine / static_cast<int64_t>(sizeof(float)));
}

template <typename Panels>
inline constexpr int64_t kScratchA = floats_of<typename Panels::Element>(Panels::row_elements(Panels::kBlockRows, Panels::kInnerBlock));
template <typename Panels>
inline constexpr int64_t kScratchB = floats_of<typename Panels::Element>(Panels::col_elements(Panels::kBlockCols, Panels::kInnerBlock));

template <typename Panels>
void multiply(const GemmJob& job, int64_t row_begin, int64_t row_end, int64_t col_begin, int64_t col_end, float* scratch) {
  using Element = typename Panels::Element;
  auto* const a = reinterpret_cast<Element*>(scratch);
  auto* const b = reinterpret_cast<Element*>(scratch + kScratchA<Panels>);
  float* const temp = scratch + kScratchA<Panels> + kScratchB<Panels>;
  for (int64_t j = col_begin; j < col_end; j += Panels::kBlockCols) {
    const int64_t cols = col_end - j < Panels::kBlockCols ? col_end - j : Panels::kBlockCols;
    bool zero = !job.accumulate;
    for (const GemmTerm& term : job.terms) {
      for (int64_t l = 0; l < term.inner; l += Panels::kInnerBlock) {
        const int64_t inner = term.inner - l < Panels::kInnerBlock ? term.inner - l : Panels::kInnerBlock;
        Panels::pack_cols(term.b, j, cols, l, inner, b, temp);
        for (int64_t i = row_begin; i < row_end; i += Panels::kBlockRows) {
          const int64_t rows = row_end - i < Panels::kBlockRows ? row_end - i : Panels::kBlockRows;
          Panels::pack_rows(term.a, i, rows, l, inner, a, temp);
          float* c = job.c + j + (job.c_index == nullptr ? i * job.ldc : 0);
          Panels::block(a, inner, b, inner, rows, cols, inner,
                        {c, job.ldc, kCols, job.c_index == nullptr ? nullptr : job.c_index + i}, zero);
        }
        zero = false;
      }
    }
    if (!zero) continue;  // something was summed, or nothing is to be
    for (int64_t i = row_begin; i < row_end; ++i) {
      float* c = job.c + (job.c_index == nullptr ? i : job.c_index[i]) * job.ldc;
      for (int64_t n = j; n < j + cols; ++n) c[n] = 0.0f;
    }
  }
}

}  // namespace gemm

#include "backend/cpu/gemm_experts.inl"
#include "backend/cpu/gemm_experts_packed.inl"
#include "backend/cpu/gemm_pointwise.inl"

namespace gemm {

template <typename Panels>
inline constexpr ProductKernels kProducts{.tile_rows = Panels::kTaskRows,
                                          .tile_cols = Panels::kTaskCols,
                                          .scratch_floats = kScratchA<Panels> + kScratchB<Panels> + Panels::kTemp,
                                          .multiply = multiply<Panels>,
                                          .expert_entries = kPackedEntries,
                                          .expert_scratch = packed_expert_scratch<Panels>,
                                          .expert = packed_expert<Panels>,
                                          .expert_backward = packed_expert_backward<Panels>};

constexpr ProductKernels f32_products() {
  ProductKernels k = kProducts<FloatPanels<false>>;
  k.expert_entries = kExpertEntries;
  k.expert_scratch = expert_scratch;
  k.expert = expert;
  k.expert_backward = expert_backward;
  return k;
}

}  // namespace gemm

inline constexpr GemmKernels kGemm{.f32 = gemm::f32_products(),
                                   .bf16 = gemm::kProducts<gemm::FloatPanels<true>>,
                                   .bf16_emulated_avx512 = gemm::kProducts<gemm::TilePanels<gemm::PairUnit<gemm::EmulatedLanes>>>,
                                   .bf16_emulated_amx = gemm::kProducts<gemm::TilePanels<gemm::TileUnit<gemm::EmulatedTiles>>>,
                                   .expand_row = gemm::expand_row,
                                   .add = gemm::add,
                                   .scale_add = gemm::scale_add,
                                   .scale = gemm::scale,
                                   .silu_multiply = gemm::silu_multiply,
                                   .silu_multiply_backward = gemm::silu_multiply_backward,
                                   .maximum = gemm::maximum,
                                   .exp_sum = gemm::exp_sum,
                                   .sum_of_squares = gemm::sum_of_squares,
                                   .adamw = gemm::adamw};
