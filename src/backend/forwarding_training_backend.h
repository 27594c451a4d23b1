#pragma once
#include "backend/training_backend.h"

namespace qnext {

/// Passes every operation on to another training backend, which must outlive it. For classes that change some of them.
class ForwardingTrainingBackend : public TrainingBackend {
 public:
  explicit ForwardingTrainingBackend(TrainingBackend& inner) : TrainingBackend(&inner), inner_(inner) {}

  void clear(Rows x) override { inner_.clear(x); }
  void embed_backward(std::span<const int32_t> tokens, Rows d_out, float* d_table) override {
    inner_.embed_backward(tokens, d_out, d_table);
  }
  void linear_backward(Rows x, std::span<const LinearGradient> products, Rows d_x) override {
    inner_.linear_backward(x, products, d_x);
  }
  void rms_norm_backward(Rows x, Vector gain, double eps, Rows d_out, Rows d_x, float* d_gain) override {
    inner_.rms_norm_backward(x, gain, eps, d_out, d_x, d_gain);
  }
  void causal_conv1d_silu_backward(std::span<const ConvSegment> segments, Rows x, Vector taps, int64_t kernel,
                                   std::span<const UnitNorm> norms, Rows d_out, Rows d_x, float* d_taps) override {
    inner_.causal_conv1d_silu_backward(segments, x, taps, kernel, norms, d_out, d_x, d_taps);
  }
  void delta_gates_backward(Rows b, Rows a, Vector a_log, Vector dt_bias, Rows d_beta, Rows d_log_decay, Rows d_b, Rows d_a,
                            float* d_a_log, float* d_dt_bias) override {
    inner_.delta_gates_backward(b, a, a_log, dt_bias, d_beta, d_log_decay, d_b, d_a, d_a_log, d_dt_bias);
  }
  void gated_delta_rule_backward(std::span<const DeltaSegment> segments, const DeltaShape& shape, Rows q, Rows k, Rows v,
                                 Rows beta, Rows log_decay, Rows d_out, Rows d_q, Rows d_k, Rows d_v, Rows d_beta,
                                 Rows d_log_decay) override {
    inner_.gated_delta_rule_backward(segments, shape, q, k, v, beta, log_decay, d_out, d_q, d_k, d_v, d_beta, d_log_decay);
  }
  void gated_rms_norm_backward(Rows x, Rows z, Vector gain, double eps, Rows d_out, Rows d_x, Rows d_z,
                               float* d_gain) override {
    inner_.gated_rms_norm_backward(x, z, gain, eps, d_out, d_x, d_z, d_gain);
  }
  void head_norm_rope_backward(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin, Rows d_out, Rows d_x,
                               float* d_gain) override {
    inner_.head_norm_rope_backward(x, head_dim, gain, eps, cos, sin, d_out, d_x, d_gain);
  }
  void gated_attention_backward(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate,
                                Rows out, Rows log_sum_exp, Rows d_out, Rows d_q, Rows d_gate, Rows d_k, Rows d_v) override {
    inner_.gated_attention_backward(segments, layout, q, gate, out, log_sum_exp, d_out, d_q, d_gate, d_k, d_v);
  }
  void router_statistics(Rows logits, std::span<double> probability_sums, double* squared_lse) override {
    inner_.router_statistics(logits, probability_sums, squared_lse);
  }
  void route_backward(Rows logits, int64_t k, bool normalise, const int32_t* experts, const float* weights,
                      const float* d_weights, std::span<const float> balance, float z_scale, Rows d_logits) override {
    inner_.route_backward(logits, k, normalise, experts, weights, d_weights, balance, z_scale, d_logits);
  }
  void experts_backward(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
                        Rows d_y, Rows d_x, float* d_weights, std::span<const MlpGradient> d_experts) override {
    inner_.experts_backward(x, experts, k, chosen, weights, d_y, d_x, d_weights, d_experts);
  }
  void expert_entries(Rows x, std::span<const MlpWeights> experts, std::span<const int32_t> rows, std::span<const int32_t> chosen,
                      Rows out) override {
    inner_.expert_entries(x, experts, rows, chosen, out);
  }
  void combine_experts(Rows out, int64_t k, const float* weights, Rows y) override {
    inner_.combine_experts(out, k, weights, y);
  }
  void expert_entries_backward(Rows x, std::span<const MlpWeights> experts, std::span<const int32_t> rows,
                               std::span<const int32_t> chosen, const float* weights, Rows d_y, Rows d_x, float* d_weights,
                               std::span<const MlpGradient> d_experts) override {
    inner_.expert_entries_backward(x, experts, rows, chosen, weights, d_y, d_x, d_weights, d_experts);
  }
  void mlp_backward(Rows x, const MlpWeights& weights, Rows d_y, Rows d_x, const MlpGradient& d_weights) override {
    inner_.mlp_backward(x, weights, d_y, d_x, d_weights);
  }
  void add_gated_backward(Rows x, Rows gate, Rows d_y, Rows d_x, Rows d_gate) override {
    inner_.add_gated_backward(x, gate, d_y, d_x, d_gate);
  }
  CrossEntropy cross_entropy(Rows x, const Matrix& head, std::span<const int32_t> targets, float scale, Rows d_x,
                             float* d_head, std::span<int32_t> predictions) override {
    return inner_.cross_entropy(x, head, targets, scale, d_x, d_head, predictions);
  }
  void adamw(std::span<float> w, std::span<const float> gradient, std::span<float> m, std::span<float> v,
             const AdamW& step) override {
    inner_.adamw(w, gradient, m, v, step);
  }
  double sum_of_squares(std::span<const float> x) override { return inner_.sum_of_squares(x); }
  void muon(std::span<const MuonMatrix> matrices, const Muon& step) override { inner_.muon(matrices, step); }

 private:
  TrainingBackend& inner_;
};

}  // namespace qnext
