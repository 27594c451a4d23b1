#pragma once
#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/unroll.h"
#include "base/cpu.h"

namespace qnext {

/// Weight rows that one matmul task takes; they are expanded to f32 once and used for all tokens.
inline constexpr int64_t kPanelRows = 32;
/// Keys over which attention runs one online softmax; the partial results of spans are merged in order.
inline constexpr int64_t kSpanKeys = 2048;

/// Longest causal convolution.
inline constexpr int64_t kMaxConvKernel = 16;
/// Query rows of one KV head that one attention task takes: (token, head of the group) pairs; more when the
/// group alone has more.
inline constexpr int64_t kAttentionRows = 128;
/// Floats of scratch that attention_span needs.
inline int64_t attention_scratch_floats(int64_t rows, int64_t head_dim) {
  return 8 * kBlockTokens + (rows + 2 * kBlockTokens) * head_dim;
}

/// Running softmax of some query rows: o[r] = sum of exp(s - m[r]) v, l[r] = sum of exp(s - m[r]).
struct SoftmaxState {
  float* m;  ///< [R]
  float* l;  ///< [R]
  float* o;  ///< [R, A]
};

/// One head's rows of a segment for the delta rule. Strides in floats.
struct DeltaHead {
  const float *q, *k;  ///< [n, K]
  int64_t qk_stride;
  const float* v;  ///< [n, V]
  float* out;      ///< [n, V]
  int64_t v_stride, out_stride;
  const float *beta, *log_decay;  ///< [n], gate_stride apart
  int64_t gate_stride;
  int64_t key_dim, value_dim;
  float* state;  ///< [K, V]
};
/// What all value heads of a key head share of a chunk.
struct DeltaProducts {
  float *q, *k;    ///< [64, K] the rows, packed
  float* keys;     ///< [K, 64] the keys, tokens fastest; columns of missing rows are 0
  float *kk, *qk;  ///< [64, 64] k_i.k_j and q_i.k_j for j <= i; what lies after the diagonal is unspecified
  DeltaProducts(float* memory, int64_t key_dim)
      : q(memory), k(q + kBlockTokens * key_dim), keys(k + kBlockTokens * key_dim), kk(keys + kBlockTokens * key_dim),
        qk(kk + kBlockTokens * kBlockTokens) {}
  static int64_t floats(int64_t key_dim) { return kBlockTokens * (3 * key_dim + 2 * kBlockTokens); }
};
/// Floats of scratch that gated_delta_chunk needs.
inline int64_t delta_scratch_floats(int64_t key_dim, int64_t value_dim) {
  return kBlockTokens * (2 * kBlockTokens + 2 * value_dim + key_dim + 4);
}

/// The inner loops, one table per instruction set. None allocates or starts threads. All tables compute the same sums,
/// in orders that differ only by the width of a vector.
struct Kernels {
  Isa isa;
  /// y[y_index[i]][r] = x[x_index[i]] . w[r] for i in [0, tokens), r in [begin, end); a null index is the identity.
  /// scratch: kPanelRows * w.cols floats. end - begin <= kPanelRows.
  void (*matmul)(const float* x, int64_t ldx, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin,
                 int64_t end, float* y, int64_t ldy, const int32_t* y_index, float* scratch);
  void (*expand_row)(const Matrix& w, int64_t row, float* out);
  void (*add)(const float* x, const float* y, float* out, int64_t n);
  void (*scale_add)(float* y, const float* x, float scale, int64_t n);  ///< y += scale * x
  bool (*all_finite)(const float* x, int64_t n);
  void (*exp)(float* x, int64_t n);  ///< x = e^x
  /// x * gain' / sqrt(mean(x²) + eps), gain' = gain + gain_offset.
  void (*rms_norm)(const float* x, const float* gain, float gain_offset, float eps, float* out, int64_t n);
  void (*gated_rms_norm)(const float* x, const float* z, const float* gain, float eps, float* out, int64_t n);
  void (*l2_norm)(float* x, float scale, int64_t n);
  void (*silu_multiply)(float* gate, const float* up, int64_t n);             ///< gate = silu(gate) * up
  void (*sigmoid_multiply)(float* x, const float* gate, int64_t n);           ///< x *= sigmoid(gate)
  void (*rope)(float* x, const float* cos, const float* sin, int64_t pairs);  ///< pairs (j, j + pairs)
  /// Rows of one segment, channels [begin, end), which cut no head of `norms`. out may be x.
  void (*causal_conv1d_silu)(const ConvSegment& segment, const float* x, int64_t ldx, const float* taps, int64_t kernel,
                             int64_t channels, int64_t begin, int64_t end, std::span<const UnitNorm> norms, float* out,
                             int64_t ldout);
  void (*gated_delta_step)(const DeltaHead& head);  ///< one row
  /// 1 < rows <= kBlockTokens. products: DeltaProducts::floats(K), filled from the q and k of any of its value heads.
  void (*gated_delta_products)(const DeltaHead& head, int64_t rows, float* products);
  void (*gated_delta_chunk)(const DeltaHead& head, int64_t rows, const float* products, float* scratch);
  /// Keys [key_begin, key_end) of one KV head for R query rows; row r sees keys <= position[r]. Starts from the given
  /// state. scratch: attention_scratch_floats(R, A).
  void (*attention_span)(const float* const* q, const int64_t* position, int64_t rows, const KvView& kv,
                         const KvLayout& layout, int64_t kv_head, int64_t key_begin, int64_t key_end, float scale,
                         SoftmaxState state, float* scratch);
};

const Kernels& kernels_scalar();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_for(Isa isa);

/// Stores one token's key and value (of one KV head) into its block.
void kv_store(const KvLayout& layout, std::byte* block, int64_t slot, int64_t head, const float* k, const float* v);

}  // namespace qnext
