#pragma once
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "backend/cpu/scratch.h"
#include "backend/cpu/training_kernels.h"
#include "backend/training_backend.h"
#include "base/cpu.h"
#include "base/thread_pool.h"

namespace qnext {

/// How operands of products meet: as they are, or rounded to bf16; then with the arithmetic of `isa`, or by
/// instructions for bf16, which the machine must have, or which are emulated (slow, for tests). gemm_kernels.h says
/// what is summed in which order.
enum class Products : uint8_t { kF32, kBf16, kBf16Avx512, kBf16Amx, kBf16EmulatedAvx512, kBf16EmulatedAmx };

/// Rounding to bf16 by the best that chosen_bf16() says.
Products chosen_bf16_products();
/// "f32", "bf16 (f32 arithmetic)", "bf16 (avx512)", "bf16 (amx)".
std::string_view products_name(Products products);

/// The CPU's training backend, as make_cpu_backend. Weights may be of any type; parameters with gradients are f32.
/// `products` is about linear, mlp, experts, their gradients and cross_entropy; Linear::exact, the thin products x aᵀ
/// and d_y b of low-rank additions, everything else and the optimiser stay with f32.
std::unique_ptr<TrainingBackend> make_cpu_training_backend(int threads, Isa isa, Products products = Products::kF32);

/// Backend operations by a CpuBackend on the same pool, but for the products, which are made for many rows here
/// (training_products.cc); backward operations by room: training_products.cc, training_loss.cc, training_delta_net.cc,
/// training_attention.cc, training_router.cc, training_optimizer.cc.
class CpuTrainingBackend final : public TrainingBackend {
 public:
  CpuTrainingBackend(std::shared_ptr<ThreadPool> pool, Isa isa, Products products);
  using TrainingBackend::linear;
  void clear(Rows x) override;

  // training_products.cc
  void linear(Rows x, std::span<const Linear> products) override;
  void mlp(Rows x, const MlpWeights& weights, Rows hidden, Rows y) override;
  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y) override;
  void linear_backward(Rows x, std::span<const LinearGradient> products, Rows d_x) override;
  void experts_backward(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
                        Rows d_y, Rows d_x, float* d_weights, std::span<const MlpGradient> d_experts) override;
  void expert_entries(Rows x, std::span<const MlpWeights> experts, std::span<const int32_t> rows, std::span<const int32_t> chosen,
                      Rows out) override;
  void combine_experts(Rows out, int64_t k, const float* weights, Rows y) override;
  void expert_entries_backward(Rows x, std::span<const MlpWeights> experts, std::span<const int32_t> rows,
                               std::span<const int32_t> chosen, const float* weights, Rows d_y, Rows d_x, float* d_weights,
                               std::span<const MlpGradient> d_experts) override;
  void mlp_backward(Rows x, const MlpWeights& weights, Rows d_y, Rows d_x, const MlpGradient& d_weights) override;

  // training_loss.cc
  void embed_backward(std::span<const int32_t> tokens, Rows d_out, float* d_table) override;
  CrossEntropy cross_entropy(Rows x, const Matrix& head, std::span<const int32_t> targets, float scale, Rows d_x,
                             float* d_head, std::span<int32_t> predictions) override;

  // training_delta_net.cc
  void causal_conv1d_silu_backward(std::span<const ConvSegment> segments, Rows x, Vector taps, int64_t kernel,
                                   std::span<const UnitNorm> norms, Rows d_out, Rows d_x, float* d_taps) override;
  void delta_gates_backward(Rows b, Rows a, Vector a_log, Vector dt_bias, Rows d_beta, Rows d_log_decay, Rows d_b, Rows d_a,
                            float* d_a_log, float* d_dt_bias) override;
  void gated_delta_rule_backward(std::span<const DeltaSegment> segments, const DeltaShape& shape, Rows q, Rows k, Rows v,
                                 Rows beta, Rows log_decay, Rows d_out, Rows d_q, Rows d_k, Rows d_v, Rows d_beta,
                                 Rows d_log_decay) override;
  void gated_rms_norm_backward(Rows x, Rows z, Vector gain, double eps, Rows d_out, Rows d_x, Rows d_z,
                               float* d_gain) override;

  // training_attention.cc
  void head_norm_rope_backward(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin, Rows d_out, Rows d_x,
                               float* d_gain) override;
  void gated_attention_backward(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate,
                                Rows out, Rows log_sum_exp, Rows d_out, Rows d_q, Rows d_gate, Rows d_k, Rows d_v) override;

  // training_router.cc
  void rms_norm_backward(Rows x, Vector gain, double eps, Rows d_out, Rows d_x, float* d_gain) override;
  void router_statistics(Rows logits, std::span<double> probability_sums, double* squared_lse) override;
  void route_backward(Rows logits, int64_t k, bool normalise, const int32_t* experts, const float* weights,
                      const float* d_weights, std::span<const float> balance, float z_scale, Rows d_logits) override;
  void add_gated_backward(Rows x, Rows gate, Rows d_y, Rows d_x, Rows d_gate) override;

  // training_optimizer.cc
  void adamw(std::span<float> w, std::span<const float> gradient, std::span<float> m, std::span<float> v,
             const AdamW& step) override;
  void muon(std::span<const MuonMatrix> matrices, const Muon& step) override;
  double sum_of_squares(std::span<const float> x) override;

 private:
  /// training_products.cc: the jobs' products, cut into tasks for all threads.
  void gemm(std::span<const GemmJob> jobs, const ProductKernels& kernels);
  void gemm(std::span<const GemmJob> jobs) { gemm(jobs, products_); }
  /// scale * x aᵀ of the matrices' low-rank additions, once for all that share an a.
  struct LowRankInput {
    const LowRank* of;
    Rows rows;  ///< [T, rank]
  };
  std::vector<LowRankInput> low_rank_inputs(Rows x, std::span<const Matrix* const> weights);
  /// scale * sum of d_y b, the gradient of x aᵀ, likewise.
  std::vector<LowRankInput> low_rank_gradients(std::span<const LinearGradient> products);
  /// body(first, count) over parts of [0, n), multiples of 16 from another.
  void elementwise(int64_t n, const std::function<void(int64_t, int64_t)>& body);
  float* scratch(int thread, int64_t floats) { return scratch_[static_cast<size_t>(thread)].floats(floats); }

  std::shared_ptr<ThreadPool> owner_;
  ThreadPool& pool_;
  const TrainingKernels& k_;
  const ProductKernels& products_;
  std::vector<Scratch> scratch_;  ///< one per thread
  Scratch shared_scratch_, low_rank_scratch_, low_rank_gradient_scratch_;
};

}  // namespace qnext
