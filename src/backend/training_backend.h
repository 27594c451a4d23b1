#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "backend/forwarding_backend.h"

namespace qnext {

/// What a trainer needs of a backend: the operations of Backend, with products made for many rows, and for each operation
/// that bends or has gradients its backward twin, in the order of backend.h.
///
/// d_y is the gradient of the loss with respect to y. Gradients of parameters are float arrays in the parameter's own order
/// (matrices row-major, without gaps); they are added to, and null where the parameter is frozen. Gradients of activations are
/// overwritten, except where "+=" says that they are added to. Every argument that is not a gradient is what the forward
/// operation took or gave. Sums over rows are taken in an order that depends on the number of rows alone: the same bits for
/// any number of threads. The backward operations want parameters in f32 unless they are frozen.
///
/// linear, mlp, experts and their twins take W + scale * b a for a matrix W with a low-rank addition (LowRank); a and b have
/// gradients of their own, so W may be frozen and of any type.
class TrainingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  using ForwardingBackend::linear;

  /// x = 0.
  virtual void clear(Rows x) = 0;

  // ---- embedding, products, norms
  /// d_table[tokens[t]] += d_out[t]. Equal tokens in row order.
  virtual void embed_backward(std::span<const int32_t> tokens, Rows d_out, float* d_table) = 0;
  /// Where the gradient of a matrix goes. Made of a float*, it is that of the matrix alone.
  struct MatrixGradient {
    MatrixGradient(float* d_weight = nullptr, const LowRank* d_low_rank = nullptr)  // NOLINT: a float* is one
        : weight(d_weight), low_rank(d_low_rank) {}
    float* weight;  ///< null: frozen
    /// Views into the arrays that d_a and d_b are added to, of the shapes of the weight's low_rank; null: frozen.
    const LowRank* low_rank;
  };
  struct LinearGradient {
    const Matrix* weight;  ///< any type when frozen
    Rows d_y;
    MatrixGradient d_weight;  ///< += d_yᵀ x
  };
  /// d_x += sum over the products of d_y W, unless d_x is empty.
  virtual void linear_backward(Rows x, std::span<const LinearGradient> products, Rows d_x) = 0;
  /// d_x +=.
  virtual void rms_norm_backward(Rows x, Vector gain, double eps, Rows d_out, Rows d_x, float* d_gain) = 0;

  // ---- Gated DeltaNet
  /// The segments' states are those before their first rows, and stay as they are; null: zeros. d_x must not be d_out.
  virtual void causal_conv1d_silu_backward(std::span<const ConvSegment> segments, Rows x, Vector taps, int64_t kernel,
                                           std::span<const UnitNorm> norms, Rows d_out, Rows d_x, float* d_taps) = 0;
  virtual void delta_gates_backward(Rows b, Rows a, Vector a_log, Vector dt_bias, Rows d_beta, Rows d_log_decay, Rows d_b,
                                    Rows d_a, float* d_a_log, float* d_dt_bias) = 0;
  /// The segments' states are those before their first rows, and stay as they are; null: zeros. The final state has no
  /// gradient. Recomputes the states at the chunks' starts, one head at a time.
  virtual void gated_delta_rule_backward(std::span<const DeltaSegment> segments, const DeltaShape& shape, Rows q, Rows k,
                                         Rows v, Rows beta, Rows log_decay, Rows d_out, Rows d_q, Rows d_k, Rows d_v,
                                         Rows d_beta, Rows d_log_decay) = 0;
  /// x is the operation's input, not its output.
  virtual void gated_rms_norm_backward(Rows x, Rows z, Vector gain, double eps, Rows d_out, Rows d_x, Rows d_z,
                                       float* d_gain) = 0;

  // ---- gated attention
  /// x is the operation's input. d_x may be d_out.
  virtual void head_norm_rope_backward(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin, Rows d_out,
                                       Rows d_x, float* d_gain) = 0;
  /// Keys and values (f32) are read from the segments' blocks; d_k and d_v [T, Hkv*A] are those of the rows, earlier ones have
  /// no gradient. out is the gated output.
  virtual void gated_attention_backward(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate,
                                        Rows out, Rows log_sum_exp, Rows d_out, Rows d_q, Rows d_gate, Rows d_k,
                                        Rows d_v) = 0;

  // ---- mixture of experts
  /// probability_sums [E] += sum over rows of softmax(logits); *squared_lse += sum over rows of log-sum-exp(logits)².
  virtual void router_statistics(Rows logits, std::span<double> probability_sums, double* squared_lse) = 0;
  /// d_weights [T, k]: through the chosen weights; balance [E], or empty: the gradient of the loss with respect to every row's
  /// probability of each expert; z_scale: the loss has z_scale * log-sum-exp(logits)² of every row.
  virtual void route_backward(Rows logits, int64_t k, bool normalise, const int32_t* experts, const float* weights,
                              const float* d_weights, std::span<const float> balance, float z_scale, Rows d_logits) = 0;
  struct MlpGradient {
    MatrixGradient gate, up;  ///< [F, D]
    MatrixGradient down;      ///< [D, F]
  };
  /// Recomputes what is inside the experts. d_x +=; d_weights [T, k] is overwritten.
  virtual void experts_backward(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                                const float* weights, Rows d_y, Rows d_x, float* d_weights,
                                std::span<const MlpGradient> d_experts) = 0;
  // experts() and experts_backward() in parts, for those who compute a row's experts in several places. Entry i is row rows[i] of
  // x with expert chosen[i], n entries.
  /// out [n, D]: the expert's output.
  virtual void expert_entries(Rows x, std::span<const MlpWeights> experts, std::span<const int32_t> rows,
                              std::span<const int32_t> chosen, Rows out) = 0;
  /// y[t] = sum over row t's k entries of weight * out, in their order. out [T*k, D]
  virtual void combine_experts(Rows out, int64_t k, const float* weights, Rows y) = 0;
  /// d_y [T, D] is that of y; weights [n]; d_x [n, D] (or empty) and d_weights [n], of each entry, are overwritten.
  virtual void expert_entries_backward(Rows x, std::span<const MlpWeights> experts, std::span<const int32_t> rows,
                                       std::span<const int32_t> chosen, const float* weights, Rows d_y, Rows d_x,
                                       float* d_weights, std::span<const MlpGradient> d_experts) = 0;
  /// Recomputes what is inside. d_x +=.
  virtual void mlp_backward(Rows x, const MlpWeights& weights, Rows d_y, Rows d_x, const MlpGradient& d_weights) = 0;
  /// Of y += sigmoid(gate) * x.
  virtual void add_gated_backward(Rows x, Rows gate, Rows d_y, Rows d_x, Rows d_gate) = 0;

  // ---- the loss
  struct CrossEntropy {
    double loss = 0.0;    ///< sum over the targets, nats
    int64_t targets = 0;  ///< rows that have one
  };
  /// -log softmax(head x)[target] of every row whose target is not -1, in blocks of rows: never a [T, vocab] matrix.
  /// d_x (unless empty) and d_head get the gradients of scale times the sum. predictions (unless empty) gets the most
  /// likely token, the lowest of equals, of every row that has a target, and -1 for the others.
  virtual CrossEntropy cross_entropy(Rows x, const Matrix& head, std::span<const int32_t> targets, float scale, Rows d_x,
                                     float* d_head, std::span<int32_t> predictions) = 0;

  // ---- the optimiser
  struct AdamW {
    float learning_rate, beta1, beta2, eps, weight_decay;
    float correction1, correction2;  ///< 1 - beta^step
    float gradient_scale;            ///< multiplies every gradient first (clipping)
  };
  /// m, v: running means of the gradient and its square. w -= lr * (m' / (sqrt(v') + eps) + decay * w).
  virtual void adamw(std::span<float> w, std::span<const float> gradient, std::span<float> m, std::span<float> v,
                     const AdamW& step) = 0;
  struct Muon {
    float learning_rate, momentum, weight_decay, gradient_scale;
  };
  struct MuonMatrix {
    float* w;  ///< [rows, cols]
    const float* gradient;
    float* m;  ///< momentum
    int64_t rows, cols;
  };
  /// Muon (Jordan, 2024): Nesterov momentum, orthogonalised by five steps of a Newton-Schulz iteration whose polynomial brings
  /// singular values near 1 fast; scaled so that an element's update is about as large as AdamW's (Liu et al., arXiv
  /// 2502.16982). Each matrix by itself.
  virtual void muon(std::span<const MuonMatrix> matrices, const Muon& step) = 0;
  /// In an order that depends on the size alone. Not finite when an element is not.
  virtual double sum_of_squares(std::span<const float> x) = 0;
};

}  // namespace qnext
