#pragma once
#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"

namespace qnext {

/// Floats between the rows of a working matrix of n columns: an odd number of cache lines, because rows that are a
/// power of two apart fall into the same few sets of the first-level cache.
inline int64_t delta_row(int64_t n) { return ((n + 15) / 16 | 1) * 16; }

/// What the backward pass keeps of one chunk of rows: the first two pairs serve all value heads of a key head, the
/// rest one head.
struct DeltaGradientChunk {
  int64_t key_row, value_row, square_row;  ///< floats between rows
  float *q, *k;                            ///< [rows, K] the rows, packed, k straight after the last row of q
  float *kk, *qk;                          ///< [64, 64] k_i.k_j and q_i.k_j for j <= i
  float* state;                            ///< [K, V] before the first row
  float* residual;  ///< [64, V] r_i = v_i - (decayed state)ᵀ k_i: beta_i r_i is what is written
  DeltaGradientChunk(float* memory, int64_t rows, int64_t key_dim, int64_t value_dim)
      : key_row(delta_row(key_dim)),
        value_row(delta_row(value_dim)),
        square_row(delta_row(kBlockTokens)),
        q(memory),
        k(q + rows * key_row),
        kk(q + 2 * kBlockTokens * key_row),
        qk(kk + kBlockTokens * square_row),
        state(qk + kBlockTokens * square_row),
        residual(state + key_dim * value_row) {}
  static int64_t floats(int64_t key_dim, int64_t value_dim) {
    return 2 * kBlockTokens * (delta_row(key_dim) + delta_row(kBlockTokens)) +
           (key_dim + kBlockTokens) * delta_row(value_dim);
  }
};

/// One value head's rows of a chunk.
struct DeltaGradientHead {
  Rows v, beta, log_decay, d_out;  ///< [rows, V], [rows, 1]
  Rows d_q, d_k, d_v, d_beta, d_log_decay;
  bool add;          ///< d_q and d_k are added to
  bool has_state;    ///< chunk.state is not zero
  float* next;       ///< forward: [K, V] the state after the last row, or null
  float* d_state;    ///< backward: [K, V] (padded rows) of the state after the last row; becomes that of chunk.state
  bool has_d_state;  ///< d_state is not zero
  bool has_earlier;  ///< the segment has earlier rows: d_state is wanted
  int64_t key_dim, value_dim;
};
/// Floats of scratch for delta_products, delta_forward and delta_backward.
inline int64_t delta_gradient_scratch_floats(int64_t key_dim, int64_t value_dim) {
  const int64_t key_row = delta_row(key_dim), value_row = delta_row(value_dim), square_row = delta_row(kBlockTokens);
  return kBlockTokens * (5 * square_row + 7 * value_row + 2 * key_row) + value_dim * (square_row + key_row) +
         key_dim * square_row + 5 * kBlockTokens + key_row;
}

/// Channels [begin, end) of a convolution over all segments.
struct ConvGradient {
  std::span<const ConvSegment> segments;
  Rows x, d_out, d_x;  ///< all channels
  const float* taps;
  int64_t kernel;
  std::span<const UnitNorm> norms;  ///< of which [begin, end) cuts no head
  int64_t begin, end;
  float* d_taps;  ///< [channels, kernel], or null
};
inline constexpr int64_t kConvStrip = 16;  ///< rows that stay in cache from the input to its gradient
inline int64_t conv_gradient_scratch_floats(int64_t channels) {
  return channels * (4 * kConvStrip + 5 * kMaxConvKernel);
}

struct DeltaGradientKernels {
  void (*conv_backward)(const ConvGradient& conv, float* scratch);
  /// Fills q, k, kk, qk. q, k: [rows, K].
  void (*delta_products)(Rows q, Rows k, const DeltaGradientChunk& chunk, float* scratch);
  /// Fills residual and head.next from state.
  void (*delta_forward)(const DeltaGradientHead& head, const DeltaGradientChunk& chunk, float* scratch);
  void (*delta_backward)(const DeltaGradientHead& head, const DeltaGradientChunk& chunk, float* scratch);
  /// One head of n. d_gain (or null) is added to. scratch: n floats. d_x may be x or d_out, d_z may be z.
  void (*gated_rms_norm_backward)(const float* x, const float* z, const float* gain, float eps, const float* d_out,
                                  float* d_x, float* d_z, float* d_gain, float* scratch, int64_t n);
};

}  // namespace qnext
