#pragma once
// Products of activations with weights of block types (tensor/blocks.h), in integers: activations are rounded to
// int8, every sum inside a block is exact, and the float steps of one (row, token) are the same few in every kernel:
//
//   256-element types, per block:  y = fma(sum1, d * s, y);  with minima  y = fma(-sum2, dmin * s, y)
//     sum1 = sum over sub-blocks of scale * (sum of w q),  sum2 = sum over sub-blocks of min * (sum of q)
//   32-element types, per block:   y = fma(sum1, d * s, y);  with minima  y = fma(m, s * (sum of q), y)
//
// (w a signed integer weight, q an activation, s its scale.) So results are bitwise the same for every instruction
// set, every number of tokens, and every way the work is cut.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/unroll.h"
#include "base/cpu.h"
#include "tensor/matrix.h"

namespace qnext {

inline constexpr int64_t kUnitCols = 256;

/// 256 columns of a row of activations, x ~ scale * q, |q| <= 127. A scale serves 256 columns (for the 256-element
/// types) or 32 (for the others). Columns past the end of the row are 0. A scale is NaN where an activation is not
/// finite.
struct alignas(64) QuantUnit {
  uint8_t offset[256];   ///< q + 128
  float scale[8];        ///< of the 256 columns: scale[0] alone
  float scaled_sums[8];  ///< scale * sum of q, per 32 columns; only of the form with 8 scales
  int16_t sums[16];      ///< of q over 16 columns
  int16_t sums32[8];     ///< of q over 32 columns
  alignas(64) int8_t q[256];
};

/// Rounded activations, a view: units of all rows for columns [0, 256), then for [256, 512), ...
struct QuantRows {
  QuantUnit* units = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t unit_count() const { return (cols + kUnitCols - 1) / kUnitCols; }
};

/// Columns that share a scale when they meet weights of this type: 32 or 256.
inline int64_t scale_group(DType dtype) { return block_elements(dtype); }

/// Tokens that one call of QuantKernels::matmul takes.
inline constexpr int64_t kQuantTokens = 512;
/// Rows of weights that are expanded together.
inline constexpr int64_t kExpandRows = 32;
/// Where the sums begin in the scratch of the kernels that expand 32 rows by 256 columns.
inline constexpr int64_t kExpandedBytes = 32 << 10;
/// Bytes of 64-byte aligned scratch that QuantKernels::matmul needs for that many tokens and rows: expanded weights, packed
/// tokens, sums (each dimension rounded up to tiles of 16).
inline constexpr int64_t quant_scratch_bytes(int64_t tokens, int64_t rows) {
  constexpr int64_t kPackedBytes = 512;
  return kExpandedBytes + (tokens + 15) * (kPackedBytes + 4 * (std::max(rows, kExpandRows) + 15));
}

/// Few tokens meet rows r, r + quarter, r + 2 quarter, r + 3 quarter of [begin, end) together: four streams of memory.
inline constexpr int64_t few_quarter(int64_t begin, int64_t end) { return (end - begin + 3) / 4; }
/// How far ahead of its use, in its stream, a line of weights is asked for.
inline constexpr int64_t kAhead = 1536;
/// Asks for the beginnings of these streams, which nothing else would ask for in time. Changes nothing.
inline void prefetch_few(const Matrix& w, int64_t begin, int64_t end) {
  const int64_t quarter = few_quarter(begin, end), bytes = std::min(kAhead, quarter * w.row_bytes());
  for (int64_t r = begin; r < end; r += quarter) {
    const std::byte* row = w.row(r);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i);
  }
}

/// 16 rows times 256 columns of weights, expanded: a lane of a vector is a row.
struct alignas(64) Panel {
  int8_t w[64][64];             ///< [4 columns][row * 4 + column]
  int32_t scale[16][16];        ///< [sub-block][row], of K types
  int32_t init[8][16];          ///< -128 * sum of scale * w: of the 256 columns, or (32-element types) of every 32
  int32_t minima[8][16];        ///< two of 16 bits: of 16 columns and the next 16, or of 32 and the next 32
  float d[8][16], dmin[8][16];  ///< as init; dmin is m of the 32-element types
};

/// One table per instruction set.
struct QuantKernels {
  Isa isa;
  /// Rounds one row: unit u of it to units[u * stride]. group is 32 or 256, and divides cols.
  void (*round_row)(const float* x, int64_t cols, int64_t group, QuantUnit* units, int64_t stride);
  /// y[y_index[i]][r] = x[x_index[i]] . w[r] for i in [0, tokens), r in [begin, end); a null index is the identity. x
  /// was rounded with scale_group(w.dtype). tokens <= kQuantTokens.
  void (*matmul)(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin,
                 int64_t end, float* y, int64_t ldy, const int32_t* y_index, std::byte* scratch);
  int64_t task_rows = kExpandRows;  ///< rows of weights that one task with many tokens takes
};

const QuantKernels& quant_kernels_scalar();
const QuantKernels& quant_kernels_avx2();
const QuantKernels& quant_kernels_avx512();  ///< needs has_avx512_vnni()
/// Tiles from kAmxTokens tokens on, below that AVX-512. Needs AMX int8.
const QuantKernels& quant_kernels_amx();
/// The same on tiles in plain C++, for tests on machines with AVX-512 VNNI alone.
const QuantKernels& quant_kernels_amx_emulated();
inline constexpr int64_t kAmxTokens = 12;
/// Those of `isa`; of AVX2 on an AVX-512 machine without VNNI.
const QuantKernels& quant_kernels_for(Isa isa);

// What the kernels must know of a type at compile time.
constexpr bool is_k_type(DType t) { return t >= DType::kQ2_K; }
/// The vector unpackers yield unsigned bytes: integer weight + this.
constexpr int weight_offset(DType t) {
  switch (t) {
    case DType::kQ8_0:
    case DType::kIQ4_NL:
    case DType::kIQ4_XS:
      return 128;
    case DType::kQ4_0:
      return 8;
    case DType::kQ5_0:
      return 16;
    case DType::kMXFP4:
      return 16;
    case DType::kQ3_K:
      return 4;
    case DType::kQ6_K:
      return 32;
    default:
      return 0;
  }
}
/// Weights have minima: x = scale * w - min (or + m).
constexpr bool has_minima(DType t) {
  return t == DType::kQ4_1 || t == DType::kQ5_1 || t == DType::kQ2_K || t == DType::kQ4_K || t == DType::kQ5_K;
}
/// Columns that share an integer scale inside a block of 256.
constexpr int sub_block(DType t) { return t == DType::kQ2_K || t == DType::kQ3_K || t == DType::kQ6_K ? 16 : 32; }
constexpr int64_t bytes_per_block(DType t) {
  switch (t) {
    case DType::kQ8_0:
      return 34;
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      return 18;
    case DType::kQ4_1:
      return 20;
    case DType::kQ5_0:
      return 22;
    case DType::kQ5_1:
      return 24;
    case DType::kMXFP4:
      return 17;
    case DType::kQ2_K:
      return 84;
    case DType::kQ3_K:
      return 110;
    case DType::kQ4_K:
      return 144;
    case DType::kQ5_K:
      return 176;
    case DType::kQ6_K:
      return 210;
    case DType::kIQ4_XS:
      return 136;
    default:
      return 0;
  }
}

}  // namespace qnext
