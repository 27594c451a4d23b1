#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "tensor/matrix.h"

namespace qnext {

/// Memory of a backend, 64-byte aligned and zeroed. Owns it; moves only.
class Buffer {
 public:
  using Release = void (*)(std::byte* data, int64_t bytes);
  Buffer() = default;
  Buffer(std::byte* data, int64_t bytes, Release release) : data_(data), bytes_(bytes), release_(release) {}
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)), release_(other.release_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) release_(data_, bytes_);
  }
  std::byte* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  Release release_ = nullptr;
};

/// Activations: `rows` rows of `cols` floats, `stride` floats apart. A view.
struct Rows {
  float* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;

  float* row(int64_t r) const { return data + r * stride; }
  Rows first(int64_t count) const { return {data, count, cols, stride}; }
  Rows columns(int64_t begin, int64_t count) const { return {data + begin, rows, count, stride}; }
};

/// Hands out Rows of one Buffer. Twice: once without a buffer to learn the size, once for real.
class Arena {
 public:
  Arena() = default;
  explicit Arena(Buffer buffer) : buffer_(std::move(buffer)) {}
  Rows rows(int64_t rows, int64_t cols);
  int64_t used() const { return used_; }
  /// Hands out again what was handed out since used() was `used`: for things that are never needed at the same time.
  void rewind(int64_t used) { used_ = used; }
  /// The most that was in use.
  int64_t bytes() const { return most_; }

 private:
  Buffer buffer_;
  int64_t used_ = 0, most_ = 0;
};

/// What happens to intermediate results that only a backward pass will read.
enum class Keep : uint8_t { kNothing, kForBackward };

/// SwiGLU: down(silu(gate x) * up x). A dense layer, the shared expert, and each routed expert.
struct MlpWeights {
  Matrix gate, up;  ///< [F, D]
  Matrix down;      ///< [D, F]
  bool has_low_rank() const { return gate.low_rank != nullptr || up.low_rank != nullptr || down.low_rank != nullptr; }
};

/// How activations meet weights of block types (is_block_type): rounded to int8, 32 or 256 columns to a scale, or as they are,
/// with the weights expanded to f32 (slow; the yardstick for the former). Other weights always meet f32.
enum class ActivationPrecision : uint8_t { kInt8, kF32 };

/// Tokens of a KV block. Attention walks keys block by block from position 0, DeltaNet in chunks of the same size, both
/// anchored at absolute positions, so that a row's sums do not depend on how a prompt was cut.
inline constexpr int64_t kBlockTokens = 64;

/// How keys and values of one attention layer lie in a block: keys [Hkv][A][64] (tokens fastest, so that scores of 16
/// keys are one vector), then values [Hkv][64][A].
struct KvLayout {
  /// F32, BF16, or Q8_0, which here means int8 with one f32 scale per token and head: after the values come the scales of the
  /// keys [Hkv][64] and those of the values [Hkv][64].
  DType dtype = DType::kF32;
  int64_t heads = 0, head_dim = 0;
  int64_t head_bytes() const { return head_dim * kBlockTokens * (dtype == DType::kQ8_0 ? 1 : dtype_size(dtype)); }
  int64_t scale_bytes() const { return dtype == DType::kQ8_0 ? kBlockTokens * static_cast<int64_t>(sizeof(float)) : 0; }
  int64_t bytes() const { return 2 * heads * (head_bytes() + scale_bytes()); }
  int64_t key_offset(int64_t head) const { return head * head_bytes(); }
  int64_t value_offset(int64_t head) const { return (heads + head) * head_bytes(); }
  int64_t key_scale_offset(int64_t head) const { return 2 * heads * head_bytes() + head * scale_bytes(); }
  int64_t value_scale_offset(int64_t head) const { return 2 * heads * head_bytes() + (heads + head) * scale_bytes(); }
};

/// Keys and values of one layer of one sequence. Token t is in blocks[t / 64] + layer_offset.
struct KvView {
  std::byte* const* blocks = nullptr;
  int64_t layer_offset = 0;
};

/// The rows of one sequence in a ragged batch: rows [row, row + rows) are its tokens at positions position, ...
struct ConvSegment {
  int64_t row = 0, rows = 0;
  float* state = nullptr;  ///< [kernel - 1, channels], the inputs before the first row, oldest first; updated
};
/// Channels [begin, end) are heads that are brought to unit length (sum of squares + 1e-6), then times scale.
struct UnitNorm {
  int64_t begin = 0, end = 0, head_dim = 0;
  float scale = 1.0f;
};
struct DeltaSegment {
  int64_t row = 0, rows = 0, position = 0;
  float* state = nullptr;  ///< [Hv, K, V]; updated
};
struct AttentionSegment {
  int64_t row = 0, rows = 0, position = 0;
  KvView kv;
};

struct DeltaShape {
  int64_t key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
};

/// The operations of the model, coarse enough that a call costs microseconds. Every sum over features or positions is
/// taken in an order that depends on the row alone: never on the other rows, the number of threads, or the cut. (One
/// exception: the delta rule takes a lone row recurrently, so its bits may depend on cuts inside a block of 64.)
/// One thread calls a backend. Shapes: T rows of the batch.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;  ///< for people: "cpu avx512, 2 threads"
  virtual Buffer allocate(int64_t bytes) = 0;

  /// out[t] = table[tokens[t]].
  virtual void embed(const Matrix& table, std::span<const int32_t> tokens, Rows out) = 0;
  /// One matrix product of several that share their input: y = x Wᵀ.
  struct Linear {
    const Matrix* weight;
    Rows y;
    bool exact = false;  ///< something discrete is decided by y: a backend that rounds operands leaves these as they are
  };
  virtual void linear(Rows x, std::span<const Linear> products) = 0;
  void linear(Rows x, const Matrix& weight, Rows y) {
    const Linear product{&weight, y};
    linear(x, {&product, 1});
  }
  /// out = x + y. out may be x.
  virtual void add(Rows x, Rows y, Rows out) = 0;
  /// out = rows of x by index.
  virtual void gather(Rows x, std::span<const int32_t> rows, Rows out) = 0;
  /// Zero-centred RMSNorm over each row: x / sqrt(mean(x²) + eps) * (1 + gain).
  virtual void rms_norm(Rows x, Vector gain, double eps, Rows out) = 0;
  /// False when a value is NaN or infinite.
  virtual bool all_finite(Rows x) = 0;

  /// Depth-wise causal convolution over each segment, then SiLU, then the heads of `norms` (at most one head dim) to unit
  /// length. taps [channels, kernel], the last tap meets the current row. out may be x.
  virtual void causal_conv1d_silu(std::span<const ConvSegment> segments, Rows x, Vector taps, int64_t kernel,
                                  std::span<const UnitNorm> norms, Rows out) = 0;
  /// beta = sigmoid(b); log_decay = -exp(a_log) * softplus(a + dt_bias), per value head.
  virtual void delta_gates(Rows b, Rows a, Vector a_log, Vector dt_bias, Rows beta, Rows log_decay) = 0;
  /// Each head of each row to unit length (sum of squares + 1e-6), times scale. In place.
  virtual void l2_norm(Rows x, int64_t head_dim, float scale) = 0;
  /// The gated delta rule: for each segment and value head, S <- exp(g) S, u = beta (v - Sᵀk), S <- S + k uᵀ,
  /// out = Sᵀq. Single rows recurrently, longer segments in chunks of 64. q, k [T, Hk*K] normalised, v, out [T, Hv*V].
  virtual void gated_delta_rule(std::span<const DeltaSegment> segments, const DeltaShape& shape, Rows q, Rows k, Rows v,
                                Rows beta, Rows log_decay, Rows out) = 0;
  /// Per head: x / sqrt(mean(x²) + eps) * gain * silu(z). out may be x.
  virtual void gated_rms_norm(Rows x, Rows z, Vector gain, double eps, Rows out) = 0;

  /// Zero-centred RMSNorm over each head, then rotary embedding of its first rope dims (cos, sin [T, dims / 2], half-split
  /// pairs). out may be x.
  virtual void head_norm_rope(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin, Rows out) = 0;
  /// Appends the rows' keys and values [T, Hkv*A] to their sequences' blocks.
  virtual void kv_append(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows k, Rows v) = 0;
  /// Causal softmax(q kᵀ / sqrt(A)) v over everything appended so far; query head n reads KV head n / (H / Hkv); then
  /// times sigmoid(gate). q, gate, out [T, H*A]. log_sum_exp [T, H], of the scaled scores, is kept for the backward pass
  /// unless it is empty.
  virtual void gated_attention(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate,
                               Rows out, Rows log_sum_exp) = 0;

  /// The k largest logits of each row (ties: lowest expert), softmax over all experts restricted to them, renormalised
  /// to sum 1 when asked. experts, weights [T, k], descending.
  virtual void route(Rows logits, int64_t k, bool normalise, int32_t* experts, float* weights) = 0;
  /// y = sum over a row's k experts of weight * expert(x). hidden [T*k, F] and expert_out [T*k, D] are working space.
  virtual void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                       const float* weights, Rows hidden, Rows expert_out, Rows y) = 0;
  /// y = down(silu(gate x) * up x). hidden [T, F] is working space.
  virtual void mlp(Rows x, const MlpWeights& weights, Rows hidden, Rows y) = 0;
  /// y += sigmoid(gate [T, 1]) * x.
  virtual void add_gated(Rows y, Rows x, Rows gate) = 0;
};

}  // namespace qnext
