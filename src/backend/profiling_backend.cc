#include "backend/profiling_backend.h"

#include <algorithm>
#include <vector>

namespace qnext {

namespace {

using Clock = std::chrono::steady_clock;

int64_t products(const Matrix& weight, int64_t rows) { return 2 * rows * weight.rows * weight.cols; }

class ProfilingBackend final : public Backend {
 public:
  ProfilingBackend(std::unique_ptr<Backend> inner, std::shared_ptr<Profile> profile)
      : inner_(std::move(inner)), profile_(std::move(profile)) {}

  std::string_view name() const override { return inner_->name(); }
  Buffer allocate(int64_t bytes) override { return inner_->allocate(bytes); }

  void embed(const Matrix& table, std::span<const int32_t> tokens, Rows out) override {
    timed("embed", static_cast<int64_t>(tokens.size()) * table.row_bytes(), 0, [&] { inner_->embed(table, tokens, out); });
  }
  void linear(Rows x, std::span<const Linear> all) override {
    int64_t bytes = 0, flops = 0;
    for (const Linear& product : all) {
      bytes += product.weight->bytes();
      flops += products(*product.weight, x.rows);
    }
    const auto label = profile_->labels.find(all[0].weight);
    timed(label == profile_->labels.end() ? "linear" : label->second, bytes, flops, [&] { inner_->linear(x, all); });
  }
  void add(Rows x, Rows y, Rows out) override {
    timed("residual and norms", 0, x.rows * x.cols, [&] { inner_->add(x, y, out); });
  }
  void gather(Rows x, std::span<const int32_t> rows, Rows out) override {
    timed("residual and norms", 0, 0, [&] { inner_->gather(x, rows, out); });
  }
  void rms_norm(Rows x, Vector gain, double eps, Rows out) override {
    timed("residual and norms", 0, 4 * x.rows * x.cols, [&] { inner_->rms_norm(x, gain, eps, out); });
  }
  bool all_finite(Rows x) override {
    bool finite = false;
    timed("residual and norms", 0, 0, [&] { finite = inner_->all_finite(x); });
    return finite;
  }

  void causal_conv1d_silu(std::span<const ConvSegment> segments, Rows x, Vector taps, int64_t kernel,
                          std::span<const UnitNorm> norms, Rows out) override {
    const int64_t state = static_cast<int64_t>(segments.size()) * (kernel - 1) * x.cols * kFloat;
    timed("DeltaNet convolution", taps.size * kFloat + 2 * state, x.rows * x.cols * (2 * kernel + 4),
          [&] { inner_->causal_conv1d_silu(segments, x, taps, kernel, norms, out); });
  }
  void delta_gates(Rows b, Rows a, Vector a_log, Vector dt_bias, Rows beta, Rows log_decay) override {
    timed("DeltaNet gates and norms", 0, 8 * b.rows * b.cols,
          [&] { inner_->delta_gates(b, a, a_log, dt_bias, beta, log_decay); });
  }
  void l2_norm(Rows x, int64_t head_dim, float scale) override {
    timed("DeltaNet gates and norms", 0, 3 * x.rows * x.cols, [&] { inner_->l2_norm(x, head_dim, scale); });
  }
  void gated_delta_rule(std::span<const DeltaSegment> segments, const DeltaShape& s, Rows q, Rows k, Rows v, Rows beta,
                        Rows log_decay, Rows out) override {
    const int64_t state = s.value_heads * s.key_dim * s.value_dim;
    // The recurrence's own arithmetic: decay, prediction, write, read-out. Chunks do about a third more.
    timed("DeltaNet rule", 2 * static_cast<int64_t>(segments.size()) * state * kFloat, 7 * q.rows * state,
          [&] { inner_->gated_delta_rule(segments, s, q, k, v, beta, log_decay, out); });
  }
  void gated_rms_norm(Rows x, Rows z, Vector gain, double eps, Rows out) override {
    timed("DeltaNet gates and norms", 0, 8 * x.rows * x.cols, [&] { inner_->gated_rms_norm(x, z, gain, eps, out); });
  }

  void head_norm_rope(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin, Rows out) override {
    timed("attention norms and rope", 0, 5 * x.rows * x.cols,
          [&] { inner_->head_norm_rope(x, head_dim, gain, eps, cos, sin, out); });
  }
  void kv_append(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows k, Rows v) override {
    timed("attention norms and rope", k.rows * layout.bytes() / kBlockTokens, 0,
          [&] { inner_->kv_append(segments, layout, k, v); });
  }
  void gated_attention(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate, Rows out,
                       Rows log_sum_exp) override {
    int64_t bytes = 0, keys = 0;  // keys met, summed over rows
    for (const AttentionSegment& s : segments) {
      bytes += (s.position + s.rows) * layout.bytes() / kBlockTokens;
      keys += s.rows * s.position + s.rows * (s.rows + 1) / 2;
    }
    timed("attention", bytes, 4 * keys * q.cols, [&] { inner_->gated_attention(segments, layout, q, gate, out, log_sum_exp); });
  }

  void route(Rows logits, int64_t k, bool normalise, int32_t* experts, float* weights) override {
    timed("router", 0, logits.rows * logits.cols, [&] { inner_->route(logits, k, normalise, experts, weights); });
  }
  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y) override {
    touched_.assign(experts.size(), false);
    int64_t bytes = 0, flops = 0;
    for (int64_t i = 0; i < x.rows * k; ++i) {
      const auto e = static_cast<size_t>(chosen[i]);
      const MlpWeights& expert = experts[e];
      flops += products(expert.gate, 1) + products(expert.up, 1) + products(expert.down, 1);
      if (touched_[e]) continue;
      touched_[e] = true;
      bytes += expert.gate.bytes() + expert.up.bytes() + expert.down.bytes();
    }
    timed("experts", bytes, flops, [&] { inner_->experts(x, experts, k, chosen, weights, hidden, expert_out, y); });
  }
  void mlp(Rows x, const MlpWeights& w, Rows hidden, Rows y) override {
    timed("shared expert", w.gate.bytes() + w.up.bytes() + w.down.bytes(),
          products(w.gate, x.rows) + products(w.up, x.rows) + products(w.down, x.rows),
          [&] { inner_->mlp(x, w, hidden, y); });
  }
  void add_gated(Rows y, Rows x, Rows gate) override {
    timed("residual and norms", 0, 2 * x.rows * x.cols, [&] { inner_->add_gated(y, x, gate); });
  }

 private:
  static constexpr int64_t kFloat = sizeof(float);

  template <typename F>
  void timed(std::string_view name, int64_t bytes, int64_t flops, F&& call) {
    const Clock::time_point start = Clock::now();
    call();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    auto it = profile_->operations.find(name);
    if (it == profile_->operations.end()) it = profile_->operations.emplace(name, OperationProfile{}).first;
    it->second += {1, seconds, bytes, flops};
  }

  std::unique_ptr<Backend> inner_;
  std::shared_ptr<Profile> profile_;
  std::vector<bool> touched_;
};

}  // namespace

OperationProfile& OperationProfile::operator+=(const OperationProfile& other) {
  calls += other.calls;
  seconds += other.seconds;
  bytes += other.bytes;
  flops += other.flops;
  return *this;
}

OperationProfile Profile::total() const {
  OperationProfile sum;
  for (const auto& [name, operation] : operations) sum += operation;
  return sum;
}

std::unique_ptr<Backend> make_profiling_backend(std::unique_ptr<Backend> inner, std::shared_ptr<Profile> profile) {
  return std::make_unique<ProfilingBackend>(std::move(inner), std::move(profile));
}

}  // namespace qnext
