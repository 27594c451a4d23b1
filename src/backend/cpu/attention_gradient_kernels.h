#pragma once
#include <cstdint>

#include "backend/backend.h"

namespace qnext {

/// Up to 64 query rows of one head and a block of 64 keys that the first of the rows, at least, sees in part. Strides in
/// floats. Operands that are read row after row lie in panels: columns [p * panel, (p + 1) * panel) of all rows, row after row,
/// then the next panel; the columns that fill the last panel up are zero.
struct AttentionGradientCell {
  int64_t head_dim, rows;
  int64_t visible;  ///< keys of the block that the first row sees, at least 1 and possibly more than 64; each row sees one more
  float scale;
  const float *q, *d_o;      ///< panels of [rows, A]; d_o: the gradient of the output before its gate
  const float* log_sum_exp;  ///< [rows], lse_stride apart
  int64_t lse_stride;
  const float* row_dots;   ///< [rows] output . its gradient
  const float* key_block;  ///< AttentionGradientKernels::pack_keys
  float* d_q;              ///< panels of [rows, A] +=, or = where first_keys
  bool first_keys;
  int64_t key_begin, key_end;  ///< keys of the block that have gradients
  float *d_k, *d_v;            ///< [key_end - key_begin, A] +=, or = where first_rows
  int64_t d_k_stride, d_v_stride;
  bool first_rows;
};
/// Floats of scratch that AttentionGradientKernels::cell needs.
inline constexpr int64_t kAttentionGradientScratch = 2 * kBlockTokens * kBlockTokens;

struct AttentionGradientKernels {
  int64_t panel;  ///< columns; divides 64
  int64_t padded(int64_t cols) const { return (cols + panel - 1) / panel * panel; }
  int64_t key_block_floats(int64_t head_dim) const { return kBlockTokens * (2 * head_dim + padded(head_dim)); }

  /// d_o = d_out * sigmoid(gate), d_gate = d_out * out * (1 - sigmoid(gate)); returns d_out . out.
  float (*output_gate)(const float* d_out, const float* out, const float* gate, int64_t n, float* d_o, float* d_gate);
  /// x [rows, cols], stride apart, in panels: rows * padded(cols) floats.
  void (*pack_rows)(const float* x, int64_t stride, int64_t rows, int64_t cols, float* out);
  void (*unpack_rows)(const float* panels, int64_t rows, int64_t cols, float* out, int64_t stride);
  /// Of a block's first `count` keys [A, 64] and values [64, A], panels of the keys as they are, of the keys as rows [64, A],
  /// and of the values as columns [A, 64]. What is not there is zero in the latter two.
  void (*pack_keys)(const float* keys, const float* values, int64_t head_dim, int64_t count, float* out);
  void (*cell)(const AttentionGradientCell& cell, float* scratch);
};

}  // namespace qnext
