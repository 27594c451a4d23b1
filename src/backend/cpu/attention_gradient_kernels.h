#pragma once
#include <cstdint>

#include "backend/backend.h"

namespace qnext {

/// Up to 64 query rows of one head and a block of 64 keys that the last of the rows, at least, sees. Strides in floats.
struct AttentionGradientCell {
  int64_t head_dim, rows;
  int64_t visible;  ///< keys of the block that the first row sees, at least 1 and possibly more than 64; each row sees one more
  float scale;
  const float* q;  ///< [rows, A]
  int64_t q_stride;
  const float* d_o;          ///< [rows, A] without gaps: the gradient of the output before its gate
  const float* log_sum_exp;  ///< [rows], lse_stride apart
  int64_t lse_stride;
  const float* row_dots;  ///< [rows] output . its gradient
  const float* keys;      ///< [A, 64]
  const float *key_rows, *value_columns;  ///< AttentionGradientKernels::transpose_block
  float* d_q;  ///< [rows, A] +=, or = where first_keys
  int64_t d_q_stride;
  bool first_keys;
  int64_t key_begin, key_end;  ///< keys of the block that have gradients
  float *d_k, *d_v;  ///< [key_end - key_begin, A] +=, or = where first_rows
  int64_t d_k_stride, d_v_stride;
  bool first_rows;
};
/// Floats of scratch that AttentionGradientKernels::cell needs.
inline constexpr int64_t kAttentionGradientScratch = 2 * kBlockTokens * kBlockTokens;

struct AttentionGradientKernels {
  /// d_o = d_out * sigmoid(gate), d_gate = d_out * out * (1 - sigmoid(gate)); returns d_out . out.
  float (*output_gate)(const float* d_out, const float* out, const float* gate, int64_t n, float* d_o, float* d_gate);
  /// Of a block's first `count` keys [A, 64] and values [64, A]: the keys as rows [64, A], the values as columns [A, 64].
  /// What is not there becomes zero.
  void (*transpose_block)(const float* keys, const float* values, int64_t head_dim, int64_t count, float* key_rows,
                          float* value_columns);
  void (*cell)(const AttentionGradientCell& cell, float* scratch);
};

}  // namespace qnext
