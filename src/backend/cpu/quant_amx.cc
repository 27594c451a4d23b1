// Many tokens against weights of block types on the AMX int8 tiles, bit for bit what the other instruction sets compute
// (quant_kernels.h). Two things make that possible:
//
// - A K type's integer weight v = scale * w needs 13 bits. It goes in as two bytes, v = 64 high + low, so the tile sums
//   64 H + L of a block of 256 columns are exact integers: as fast as bf16 tiles, without their rounding. (One product
//   with one scale per row would be twice as fast and would round the weights again; one per sub-block of 32 columns
//   leaves the tiles idle most of the time.)
// - The float steps run per block in column order, as everywhere.
//
// Weights are the A operand (tile row = weight row, so a row's bytes stay in order); tokens are the B operand, packed once
// for each block of columns. C has a weight row per tile row and a token per column, so a token's scales are one vector.
#if !defined(__clang__)
// g++ 12 warns of the deliberately undefined vectors inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backend/cpu/quant_kernels.h"
#include "base/error.h"
#include "tensor/blocks.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2")
#endif

namespace qnext {
namespace {
#include "backend/cpu/quant_common.inl"
#include "backend/cpu/quant_unpack_avx512.inl"

constexpr int64_t kTile = 16;        // rows of a tile, and columns of C
constexpr int64_t kTileBytes = 1024;

/// The register file: 8 tiles of 16 rows of 64 bytes. C += A B over groups of 4 signed bytes:
/// c[m][n] += sum over k, i of a[m][4 k + i] * b[k][4 n + i], k < columns of A / 4.
struct HardwareTiles {
  /// `columns`: bytes of a row of A (tiles 4 and 5), a multiple of 4, at most 64.
  explicit HardwareTiles(int columns) {
    alignas(64) uint8_t config[64] = {1};  // palette 1
    for (int t = 0; t < 8; ++t) {
      config[16 + 2 * t] = static_cast<uint8_t>(t == 4 || t == 5 ? columns : 64);
      config[48 + t] = static_cast<uint8_t>(t >= 6 ? columns / 4 : kTile);
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));  // the intrinsic of g++ 12 can lose the stores above
  }
  ~HardwareTiles() { __asm__ volatile("tilerelease"); }
  template <int kT>
  void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kT));
  }
  template <int kT>
  void load(const void* p, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kT) : "memory");
  }
  template <int kT>
  void store(void* p) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(int64_t{64}), "i"(kT) : "memory");
  }
  template <int kC, int kA, int kB>
  void dot() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};

/// The same in plain C++, so that the kernel is tested on every machine.
struct EmulatedTiles {
  int columns;
  alignas(64) int8_t tile[8][kTile][64];
  explicit EmulatedTiles(int a_columns) : columns(a_columns) { std::memset(tile, 0x55, sizeof tile); }
  int rows(int t) const { return t >= 6 ? columns / 4 : static_cast<int>(kTile); }
  int bytes(int t) const { return t == 4 || t == 5 ? columns : 64; }
  template <int kT>
  void zero() {
    std::memset(tile[kT], 0, kTileBytes);
  }
  template <int kT>
  void load(const void* p, int64_t stride) {
    for (int r = 0; r < rows(kT); ++r) {
      std::memcpy(tile[kT][r], static_cast<const std::byte*>(p) + r * stride, static_cast<size_t>(bytes(kT)));
    }
  }
  template <int kT>
  void store(void* p) {
    std::memcpy(p, tile[kT], kTileBytes);
  }
  template <int kC, int kA, int kB>
  void dot() {
    int32_t c[kTile][kTile];
    std::memcpy(c, tile[kC], kTileBytes);
    for (int m = 0; m < kTile; ++m) {
      for (int k = 0; k < columns; ++k) {
        for (int n = 0; n < kTile; ++n) c[m][n] += tile[kA][m][k] * tile[kB][k / 4][4 * n + k % 4];
      }
    }
    std::memcpy(tile[kC], c, kTileBytes);
  }
};

/// The rows of one block column of weights as A operands. K types: 4 steps of 64 columns, high and low bytes; others: 8 blocks
/// of 32 columns, low alone.
struct alignas(64) WeightTiles {
  int8_t low[kTileBytes * 4], high[kTileBytes * 4];
  float d[8][kTile], dmin[8][kTile];  ///< [0] alone for the K types
  int32_t min[8][kTile];              ///< K types: pairs of int16, of two sub-blocks of 16 columns
};

/// What a group of 16 tokens brings to one block column.
struct alignas(64) TokenTiles {
  int8_t b[kTileBytes * 4];     ///< B operands: [64 groups of 4 columns][16 tokens][4]
  float scale[8][kTile];        ///< [0] alone for the K types
  int32_t sums[8][kTile];       ///< K types: pairs of int16
  float scaled_sums[8][kTile];  ///< other types
};

/// 64 bytes w + offset times scales per 16 columns -> bytes of 64 high + low.
inline void split(__m512i bytes, __m512i offset, __m256i scales, int j, int8_t* high, int8_t* low) {
  // Scale 4 j + c / 16 in 16-bit lane c.
  const __m512i index = _mm512_add_epi16(_mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(1), 1),
                                         _mm512_set1_epi16(static_cast<short>(4 * j)));
  const __m512i all = _mm512_castsi256_si512(scales);
  __m256i h[2], l[2];
  for (int half = 0; half < 2; ++half) {
    const __m256i q = half == 0 ? _mm512_castsi512_si256(bytes) : _mm512_extracti64x4_epi64(bytes, 1);
    const __m512i w = _mm512_sub_epi16(_mm512_cvtepu8_epi16(q), offset);
    const __m512i scale = _mm512_permutexvar_epi16(_mm512_add_epi16(index, _mm512_set1_epi16(static_cast<short>(2 * half))), all);
    const __m512i v = _mm512_mullo_epi16(w, scale);
    h[half] = _mm512_cvtepi16_epi8(_mm512_srai_epi16(v, 6));
    l[half] = _mm512_cvtepi16_epi8(_mm512_and_si512(v, _mm512_set1_epi16(63)));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high), h[0]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(high + 32), h[1]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(low), l[0]);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(low + 32), l[1]);
}

inline float half_at(const std::byte* p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(load16(p)))); }

/// Row m of the tiles from one row's columns [256 unit, ...); of the 32-element types, `blocks` blocks.
template <DType kType>
inline void expand_row(const std::byte* row, int64_t unit, int64_t blocks, int64_t m, WeightTiles& out) {
  const __m512i offset = _mm512_set1_epi16(weight_offset(kType));
  int8_t* low = out.low + m * 256;
  if constexpr (is_k_type(kType)) {
    const std::byte* block = row + unit * bytes_per_block(kType);
    KBytes bytes;
    unpack<kType>(block, bytes);
    const KScales k = k_scales<kType>(block);
    for (int j = 0; j < 4; ++j) split(bytes.q[j], offset, k.scales, j, out.high + m * 256 + 64 * j, low + 64 * j);
    out.d[0][m] = half_at(block + d_offset(kType));
    if constexpr (has_minima(kType)) {
      out.dmin[0][m] = half_at(block + d_offset(kType) + 2);
      alignas(32) int32_t pairs[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), k.minima);
      for (int j = 0; j < 8; ++j) out.min[j][m] = pairs[j];
    }
  } else {
    const std::byte* first = row + unit * 8 * bytes_per_block(kType);
    for (int64_t j = 0; j < blocks; ++j) {
      const std::byte* block = first + j * bytes_per_block(kType);
      const __m256i q = _mm512_castsi512_si256(unpack_pair<kType>(block, block));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(low + 32 * j),
                          _mm256_sub_epi8(q, _mm256_set1_epi8(static_cast<char>(weight_offset(kType)))));
      out.d[j][m] = kType == DType::kMXFP4 ? mxfp4_scale(static_cast<uint8_t>(*block)) : half_at(block);
      if constexpr (has_minima(kType)) out.dmin[j][m] = -half_at(block + 2);
    }
  }
}

/// 16 x 16 elements of 32 bits, rows to columns.
inline void transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xDD);
    const __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xDD);
    r[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xDD);
    r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xDD);
  }
}

/// Block column `unit` of up to 16 tokens; missing ones are zero.
void pack_tokens(const QuantRows& x, const int32_t* index, int64_t first, int64_t count, int64_t unit, TokenTiles& out) {
  static const QuantUnit kZero = {};
  const QuantUnit* u[kTile];
  for (int64_t n = 0; n < kTile; ++n) {
    const int64_t row = index == nullptr ? first + n : n < count ? index[first + n] : 0;
    u[n] = n < count ? x.units + unit * x.rows + row : &kZero;
  }
  for (int64_t step = 0; step < 4; ++step) {
    __m512i r[kTile];
    for (int64_t n = 0; n < kTile; ++n) r[n] = _mm512_loadu_si512(u[n]->q + 64 * step);
    transpose(r);
    for (int64_t k = 0; k < kTile; ++k) _mm512_store_si512(out.b + (step * kTile + k) * 64, r[k]);
  }
  for (int64_t n = 0; n < kTile; ++n) {
    for (int64_t j = 0; j < 8; ++j) {
      out.scale[j][n] = u[n]->scale[j];
      out.scaled_sums[j][n] = u[n]->scaled_sums[j];
      std::memcpy(&out.sums[j][n], u[n]->sums + 2 * j, sizeof(int32_t));
    }
  }
}

/// y += the products of 16 weight rows with kGroups groups of 16 tokens over one block column. sums: [kGroups][16 rows][16 tokens].
template <DType kType, int kGroups, typename Tiles>
inline void multiply(Tiles& tiles, const WeightTiles& w, int64_t blocks, const TokenTiles* tokens, float* const* sums) {
  alignas(64) int32_t c[4][kTile][kTile];
  if constexpr (is_k_type(kType)) {
    tiles.template zero<0>();
    tiles.template zero<1>();
    if constexpr (kGroups == 2) {
      tiles.template zero<2>();
      tiles.template zero<3>();
    }
    for (int step = 0; step < 4; ++step) {
      tiles.template load<4>(w.high + step * 64, 256);
      tiles.template load<5>(w.low + step * 64, 256);
      tiles.template load<6>(tokens[0].b + step * kTileBytes, 64);
      tiles.template dot<0, 4, 6>();
      tiles.template dot<1, 5, 6>();
      if constexpr (kGroups == 2) {
        tiles.template load<7>(tokens[1].b + step * kTileBytes, 64);
        tiles.template dot<2, 4, 7>();
        tiles.template dot<3, 5, 7>();
      }
    }
    tiles.template store<0>(c[0]);
    tiles.template store<1>(c[1]);
    if constexpr (kGroups == 2) {
      tiles.template store<2>(c[2]);
      tiles.template store<3>(c[3]);
    }
    for (int g = 0; g < kGroups; ++g) {
      const __m512 scale = _mm512_load_ps(tokens[g].scale[0]);
      for (int64_t m = 0; m < kTile; ++m) {
        const __m512i high = _mm512_load_si512(c[2 * g][m]), low = _mm512_load_si512(c[2 * g + 1][m]);
        const __m512 sum1 = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 6), low));
        float* y = sums[g] + m * kTile;
        __m512 acc = _mm512_fmadd_ps(sum1, _mm512_mul_ps(_mm512_set1_ps(w.d[0][m]), scale), _mm512_load_ps(y));
        if constexpr (has_minima(kType)) {
          __m512i sum2 = _mm512_setzero_si512();
          for (int j = 0; j < 8; ++j) {
            sum2 = _mm512_dpwssd_epi32(sum2, _mm512_set1_epi32(w.min[j][m]), _mm512_load_si512(tokens[g].sums[j]));
          }
          acc = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(sum2), _mm512_mul_ps(_mm512_set1_ps(w.dmin[0][m]), scale), acc);
        }
        _mm512_store_ps(y, acc);
      }
    }
  } else {
    for (int64_t j = 0; j < blocks; ++j) {  // of 32 columns each
      tiles.template zero<0>();
      tiles.template load<4>(w.low + j * 32, 256);
      tiles.template load<6>(tokens[0].b + j * kTileBytes / 2, 64);
      tiles.template dot<0, 4, 6>();
      if constexpr (kGroups == 2) {
        tiles.template zero<1>();
        tiles.template load<7>(tokens[1].b + j * kTileBytes / 2, 64);
        tiles.template dot<1, 4, 7>();
      }
      tiles.template store<0>(c[0]);
      if constexpr (kGroups == 2) tiles.template store<1>(c[1]);
      for (int g = 0; g < kGroups; ++g) {
        const __m512 scale = _mm512_load_ps(tokens[g].scale[j]), scaled = _mm512_load_ps(tokens[g].scaled_sums[j]);
        for (int64_t m = 0; m < kTile; ++m) {
          float* y = sums[g] + m * kTile;
          __m512 acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(c[g][m])),
                                       _mm512_mul_ps(_mm512_set1_ps(w.d[j][m]), scale), _mm512_load_ps(y));
          if constexpr (has_minima(kType)) acc = _mm512_fnmadd_ps(_mm512_set1_ps(w.dmin[j][m]), scaled, acc);
          _mm512_store_ps(y, acc);
        }
      }
    }
  }
}

/// All tokens of the call against rows [begin, end). Block columns outermost: a group of 16 weight rows is expanded once per
/// column (8 KB, stays in L1) and meets all tokens; the sums of the call stay in scratch.
template <DType kType, typename Tiles>
void matmul_as(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin, int64_t end, float* y,
               int64_t ldy, const int32_t* y_index, std::byte* scratch) {
  const int64_t groups = (tokens + kTile - 1) / kTile, row_groups = (end - begin + kTile - 1) / kTile;
  auto* packed = reinterpret_cast<TokenTiles*>(scratch);
  auto* sums = reinterpret_cast<float*>(packed + groups);  // [row group][token group][16][16]
  std::memset(sums, 0, static_cast<size_t>(row_groups * groups * kTileBytes));
  WeightTiles weights;
  Tiles tiles(is_k_type(kType) ? 64 : 32);
  for (int64_t unit = 0; unit < x.unit_count(); ++unit) {
    const int64_t blocks = std::min<int64_t>(8, (x.cols - unit * kUnitCols) / 32);
    for (int64_t g = 0; g < groups; ++g) {
      pack_tokens(x, x_index, g * kTile, std::min(kTile, tokens - g * kTile), unit, packed[g]);
    }
    for (int64_t rg = 0; rg < row_groups; ++rg) {
      for (int64_t m = 0; m < kTile; ++m) {  // rows past the end repeat the last one
        expand_row<kType>(w.row(std::min(begin + rg * kTile + m, end - 1)), unit, blocks, m, weights);
      }
      float* row_sums = sums + rg * groups * kTile * kTile;
      int64_t g = 0;
      for (; g + 2 <= groups; g += 2) {
        float* const two[] = {row_sums + g * kTile * kTile, row_sums + (g + 1) * kTile * kTile};
        multiply<kType, 2>(tiles, weights, blocks, packed + g, two);
      }
      if (g < groups) {
        float* const one[] = {row_sums + g * kTile * kTile};
        multiply<kType, 1>(tiles, weights, blocks, packed + g, one);
      }
    }
  }
  for (int64_t rg = 0; rg < row_groups; ++rg) {
    const int64_t first = begin + rg * kTile;
    const auto rows = static_cast<__mmask16>((1u << std::min(kTile, end - first)) - 1);
    for (int64_t g = 0; g < groups; ++g) {
      __m512i r[kTile];
      const float* tile = sums + (rg * groups + g) * kTile * kTile;
      for (int64_t m = 0; m < kTile; ++m) r[m] = _mm512_castps_si512(_mm512_load_ps(tile + m * kTile));
      transpose(r);
      for (int64_t n = 0; n < std::min(kTile, tokens - g * kTile); ++n) {
        const int64_t t = g * kTile + n;
        _mm512_mask_storeu_ps(y + (y_index == nullptr ? t : y_index[t]) * ldy + first, rows, _mm512_castsi512_ps(r[n]));
      }
    }
  }
}

template <typename Tiles>
void matmul(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin, int64_t end, float* y,
            int64_t ldy, const int32_t* y_index, std::byte* scratch) {
  // A tile operation costs the same for one token as for sixteen; below that the vector kernels are faster.
  if (tokens < kAmxTokens) return quant_kernels_avx512().matmul(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
  const auto run = [&]<DType kType>(std::integral_constant<DType, kType>) {
    matmul_as<kType, Tiles>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
  };
  switch (w.dtype) {
    case DType::kQ8_0: return run(std::integral_constant<DType, DType::kQ8_0>{});
    case DType::kQ4_0: return run(std::integral_constant<DType, DType::kQ4_0>{});
    case DType::kQ4_1: return run(std::integral_constant<DType, DType::kQ4_1>{});
    case DType::kQ5_0: return run(std::integral_constant<DType, DType::kQ5_0>{});
    case DType::kQ5_1: return run(std::integral_constant<DType, DType::kQ5_1>{});
    case DType::kIQ4_NL: return run(std::integral_constant<DType, DType::kIQ4_NL>{});
    case DType::kMXFP4: return run(std::integral_constant<DType, DType::kMXFP4>{});
    case DType::kQ2_K: return run(std::integral_constant<DType, DType::kQ2_K>{});
    case DType::kQ3_K: return run(std::integral_constant<DType, DType::kQ3_K>{});
    case DType::kQ4_K: return run(std::integral_constant<DType, DType::kQ4_K>{});
    case DType::kQ5_K: return run(std::integral_constant<DType, DType::kQ5_K>{});
    case DType::kQ6_K: return run(std::integral_constant<DType, DType::kQ6_K>{});
    case DType::kIQ4_XS: return run(std::integral_constant<DType, DType::kIQ4_XS>{});
    default: return;  // plain types have their own kernels
  }
}

void round_row(const float* x, int64_t cols, int64_t group, QuantUnit* units, int64_t stride) {
  quant_kernels_avx512().round_row(x, cols, group, units, stride);
}

/// Packing the tokens is paid once per task: many rows share it.
constexpr int64_t kTaskRows = 128;
static_assert(sizeof(TokenTiles) <= 512 * kTile);  // quant_scratch_bytes() counts on it

constexpr QuantKernels kTable{Isa::kAmx, round_row, matmul<HardwareTiles>, kTaskRows};
constexpr QuantKernels kEmulatedTable{Isa::kAmx, round_row, matmul<EmulatedTiles>, kTaskRows};

}  // namespace
}  // namespace qnext

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace qnext {
const QuantKernels& quant_kernels_amx() { return kTable; }
const QuantKernels& quant_kernels_amx_emulated() { return kEmulatedTable; }
}  // namespace qnext
