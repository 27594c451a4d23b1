#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace qnext {

/// Passes every operation on to another backend. For classes that watch or change some of them.
class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> inner) : owned_(std::move(inner)), inner_(owned_.get()) {}
  /// `inner` must outlive it.
  explicit ForwardingBackend(Backend* inner) : inner_(inner) {}

  using Backend::linear;
  std::string_view name() const override { return inner_->name(); }
  Buffer allocate(int64_t bytes) override { return inner_->allocate(bytes); }
  void embed(const Matrix& table, std::span<const int32_t> tokens, Rows out) override {
    inner_->embed(table, tokens, out);
  }
  void linear(Rows x, std::span<const Linear> products) override { inner_->linear(x, products); }
  void add(Rows x, Rows y, Rows out) override { inner_->add(x, y, out); }
  void gather(Rows x, std::span<const int32_t> rows, Rows out) override { inner_->gather(x, rows, out); }
  void rms_norm(Rows x, Vector gain, double eps, Rows out) override { inner_->rms_norm(x, gain, eps, out); }
  bool all_finite(Rows x) override { return inner_->all_finite(x); }
  void causal_conv1d_silu(std::span<const ConvSegment> segments, Rows x, Vector taps, int64_t kernel,
                          std::span<const UnitNorm> norms, Rows out) override {
    inner_->causal_conv1d_silu(segments, x, taps, kernel, norms, out);
  }
  void delta_gates(Rows b, Rows a, Vector a_log, Vector dt_bias, Rows beta, Rows log_decay) override {
    inner_->delta_gates(b, a, a_log, dt_bias, beta, log_decay);
  }
  void l2_norm(Rows x, int64_t head_dim, float scale) override { inner_->l2_norm(x, head_dim, scale); }
  void gated_delta_rule(std::span<const DeltaSegment> segments, const DeltaShape& shape, Rows q, Rows k, Rows v,
                        Rows beta, Rows log_decay, Rows out) override {
    inner_->gated_delta_rule(segments, shape, q, k, v, beta, log_decay, out);
  }
  void gated_rms_norm(Rows x, Rows z, Vector gain, double eps, Rows out) override {
    inner_->gated_rms_norm(x, z, gain, eps, out);
  }
  void head_norm_rope(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin, Rows out) override {
    inner_->head_norm_rope(x, head_dim, gain, eps, cos, sin, out);
  }
  void kv_append(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows k, Rows v) override {
    inner_->kv_append(segments, layout, k, v);
  }
  void gated_attention(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate, Rows out,
                       Rows log_sum_exp) override {
    inner_->gated_attention(segments, layout, q, gate, out, log_sum_exp);
  }
  void route(Rows logits, int64_t k, bool normalise, int32_t* experts, float* weights) override {
    inner_->route(logits, k, normalise, experts, weights);
  }
  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y) override {
    inner_->experts(x, experts, k, chosen, weights, hidden, expert_out, y);
  }
  void mlp(Rows x, const MlpWeights& weights, Rows hidden, Rows y) override { inner_->mlp(x, weights, hidden, y); }
  void add_gated(Rows y, Rows x, Rows gate) override { inner_->add_gated(y, x, gate); }

 protected:
  Backend& inner() { return *inner_; }
  /// Working memory of [rows, cols] for what a class computes by itself; it grows and is never given back.
  static Rows rows_in(std::vector<float>& memory, int64_t rows, int64_t cols) {
    const auto size = static_cast<size_t>(rows * cols);
    if (memory.size() < size) memory.resize(size);
    return {memory.data(), rows, cols, cols};
  }

 private:
  std::unique_ptr<Backend> owned_;
  Backend* inner_;
};

}  // namespace qnext
