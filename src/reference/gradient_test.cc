#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <numeric>
#include <string>
#include <vector>

#include "backend/cpu/training_backend.h"
#include "base/philox.h"
#include "base/testing/sanitized.h"
#include "model/lora.h"
#include "model/parameter_array.h"
#include "model/training_model.h"
#include "reference/reference.h"

// The gradients of a whole model against derivatives of the reference by complex step, which are exact to double rounding.
namespace qnext::reference {
namespace {

using Complex = std::complex<double>;

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 40;
  c.hidden_size = 32;
  c.layer_types = {LayerKind::kLinearAttention, LayerKind::kLinearAttention, LayerKind::kFullAttention,
                   LayerKind::kLinearAttention};
  c.layer_is_moe = {true, false, true, true};
  c.intermediate_size = 24;
  c.max_position_embeddings = 4096;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 16;
  c.rope.dims = 8;
  c.linear_num_key_heads = 2;
  c.linear_num_value_heads = 4;
  c.linear_key_head_dim = 16;
  c.linear_value_head_dim = 12;
  c.linear_conv_kernel_dim = 4;
  c.num_experts = 6;
  c.num_experts_per_tok = 2;
  c.moe_intermediate_size = 16;
  c.shared_expert_intermediate_size = 20;
  return c;
}

constexpr double kMtpWeight = 0.3, kBalance = 0.05, kZ = 0.01;

/// A model with its batch of two documents, the second of which fits in one block of 64.
class GradientTest : public ::testing::TestWithParam<Isa> {
 protected:
  static constexpr int64_t kLengths[] = {70, 20};
  static constexpr int64_t kSteps = 2;

  GradientTest() : config_(small_config()), backend_(make_cpu_training_backend(2, GetParam())),
        parameters_(config_, true, *backend_), gradients_(config_, true, *backend_) {
    uint64_t index = 0;
    for (const ParameterInfo& p : parameters_.parameters()) {
      const double width = p.name.ends_with("embed_tokens.weight") ? 1.0 : p.is_matrix ? 0.12 : 0.5;
      for (float& x : parameters_.of(p)) x = static_cast<float>(width * (2 * philox_uniform(1, index++) - 1));
    }
    for (size_t d = 0; d < std::size(kLengths); ++d) {
      std::vector<int32_t> document;
      for (int64_t i = 0; i < kLengths[d]; ++i) document.push_back(static_cast<int32_t>(40 * philox_uniform(2 + d, static_cast<uint64_t>(i))));
      documents_.push_back(document);
    }
  }

  static bool is_target(int64_t document, int64_t position) { return (document + position) % 5 != 0; }

  void make_batch() {
    const StateLayout layout(config_, DType::kF32, false);
    batch_ = {};
    batch_.targets.resize(1 + kSteps);
    batch_.next.resize(kSteps);
    batch_.mtp.resize(kSteps);
    const size_t documents = documents_.size();
    const int64_t blocks = 2;
    memory_.assign(documents * static_cast<size_t>(layout.recurrent_floats), 7.0f);  // left over from something else
    kv_.assign(documents * static_cast<size_t>(blocks * (layout.kv_block_bytes + kSteps * layout.kv.bytes())) / 4, 0.0f);
    auto* kv = reinterpret_cast<std::byte*>(kv_.data());
    states_.assign(documents * (2 + kSteps), {});
    int64_t row = 0;
    for (size_t d = 0; d < documents; ++d) {
      const std::vector<int32_t>& tokens = documents_[d];
      const auto rows = static_cast<int64_t>(tokens.size());
      const auto at = [&](int64_t i) { return i < rows ? tokens[static_cast<size_t>(i)] : -1; };
      for (int64_t i = 0; i < rows; ++i) {
        batch_.tokens.push_back(at(i));
        for (int64_t s = 0; s <= kSteps; ++s) {
          const int64_t target = i + 1 + s;
          batch_.targets[static_cast<size_t>(s)].push_back(target < rows && is_target(static_cast<int64_t>(d), target) ? at(target) : -1);
          if (s < kSteps) batch_.next[static_cast<size_t>(s)].push_back(std::max(0, at(target)));
        }
      }
      SequenceState* states = &states_[d * (2 + kSteps)];
      states[0].recurrent = memory_.data() + static_cast<int64_t>(d) * layout.recurrent_floats;
      for (int64_t b = 0; b < blocks; ++b, kv += layout.kv_block_bytes) {
        states[0].kv_blocks.push_back(kv);
        states[1].kv_blocks.push_back(kv);
      }
      batch_.segments.push_back({row, rows, 0, &states[0]});
      batch_.before.push_back({row, rows, 0, &states[1]});
      for (int64_t s = 0; s < kSteps; ++s) {
        for (int64_t b = 0; b < blocks; ++b, kv += layout.kv.bytes()) states[2 + s].kv_blocks.push_back(kv);
        batch_.mtp[static_cast<size_t>(s)].push_back({row, rows, 0, &states[2 + s]});
      }
      row += rows;
    }
  }

  // What is trained: the reference's parameters, and all of them.
  virtual const Weights& trained_weights() const { return parameters_.weights(); }
  virtual const Weights& gradient_weights() const { return gradients_.weights(); }
  virtual const ParameterList& gradients() const { return gradients_; }

  /// The derivative of the loss along a direction of the array at `parameter`.
  double derivative(const float* parameter, std::span<const double> direction, const std::vector<RoutingStatistics>& statistics) const {
    const ComplexStep step{parameter, direction};
    complex_step = &step;
    const double exact = loss(statistics).imag() / step.size;
    complex_step = nullptr;
    return exact;
  }

  /// Counts of targets per depth.
  std::vector<int64_t> target_counts() const {
    std::vector<int64_t> counts;
    for (const auto& targets : batch_.targets) {
      counts.push_back(std::count_if(targets.begin(), targets.end(), [](int32_t t) { return t >= 0; }));
    }
    return counts;
  }

  /// The loss, by definition, with MTP steps that recycle mtp.norm's output; balance counts are constants.
  Complex loss(const std::vector<RoutingStatistics>& statistics) const {
    const ReferenceModel<Complex> model{config_, parameters_.weights()};
    const std::vector<int64_t> counts = target_counts();
    const auto vocab = static_cast<size_t>(config_.vocab_size), experts = static_cast<size_t>(config_.num_experts);
    Complex total = 0;
    const auto cross_entropy = [&](std::span<const Complex> logits, int32_t target) {
      double highest = -1e300;
      for (const Complex& l : logits) highest = std::max(highest, l.real());
      Complex sum = 0;
      for (const Complex& l : logits) sum += std::exp(l - highest);
      return std::log(sum) + highest - logits[static_cast<size_t>(target)];
    };
    int64_t row = 0;
    for (const std::vector<int32_t>& document : documents_) {
      const auto rows = static_cast<int64_t>(document.size());
      const Output<Complex> out = model.run(document, kSteps);
      for (int64_t i = 0; i < rows; ++i, ++row) {
        for (int64_t s = 0; s <= kSteps; ++s) {
          const int32_t target = batch_.targets[static_cast<size_t>(s)][static_cast<size_t>(row)];
          if (target < 0) continue;
          const std::vector<Complex>& logits = s == 0 ? out.logits : out.mtp_steps[static_cast<size_t>(s) - 1].logits;
          const double scale = (s == 0 ? 1.0 : kMtpWeight / kSteps) / static_cast<double>(counts[static_cast<size_t>(s)]);
          total += scale * cross_entropy(std::span(logits).subspan(static_cast<size_t>(i) * vocab, vocab), target);
        }
      }
      const auto router = [&](const std::vector<Complex>& logits, size_t layer) {
        for (size_t r = 0; r * experts < logits.size(); ++r) {
          const std::span<const Complex> l = std::span(logits).subspan(r * experts, experts);
          const Complex lse = cross_entropy(l, 0) + l[0];
          total += kZ / static_cast<double>(batch_.tokens.size()) * lse * lse;
          for (size_t e = 0; e < experts; ++e) total += static_cast<double>(balance(statistics[layer])[e]) * std::exp(l[e] - lse);
        }
      };
      for (size_t i = 0; i < out.states.size(); ++i) router(out.states[i].router_logits, i);
      for (const auto& step : out.mtp_steps) router(step.state.router_logits, statistics.size() - 1);
    }
    return total;
  }

  std::vector<float> balance(const RoutingStatistics& s) const {
    std::vector<float> result(static_cast<size_t>(config_.num_experts));
    for (size_t e = 0; e < s.counts.size(); ++e) {
      result[e] = static_cast<float>(kBalance * static_cast<double>(s.counts[e]) / static_cast<double>(s.rows * s.rows));
    }
    return result;
  }

  /// Fills gradients_; returns the loss by the trainer's own sums.
  double run(int64_t kept_bytes, std::vector<RoutingStatistics>& statistics) {
    make_batch();
    TrainingModel model(config_, trained_weights(), {.mtp_steps = kSteps, .kept_bytes = kept_bytes}, *backend_);
    statistics.clear();
    model.forward({&batch_, 1}, statistics);
    LossScales scales;
    const std::vector<int64_t> counts = target_counts();
    for (int64_t s = 0; s <= kSteps; ++s) {
      scales.targets.push_back(static_cast<float>((s == 0 ? 1.0 : kMtpWeight / kSteps) / static_cast<double>(counts[static_cast<size_t>(s)])));
    }
    for (const RoutingStatistics& s : statistics) scales.balance.push_back(s.rows > 0 ? balance(s) : std::vector<float>());
    scales.z = static_cast<float>(kZ / static_cast<double>(batch_.tokens.size()));
    std::ranges::fill(gradients().values(), 0.0f);
    LossSums sums;
    model.backward({&batch_, 1}, scales, gradient_weights(), sums);
    double total = 0.0;
    for (int64_t s = 0; s <= kSteps; ++s) total += scales.targets[static_cast<size_t>(s)] * sums.depths[static_cast<size_t>(s)].loss;
    return total;
  }

  ModelConfig config_;
  std::unique_ptr<TrainingBackend> backend_;
  ParameterArray parameters_, gradients_;
  std::vector<std::vector<int32_t>> documents_;
  TrainingBatch batch_;
  std::vector<float> memory_, kv_;
  std::vector<SequenceState> states_;
};

TEST_P(GradientTest, OfEveryParameterEqualsTheComplexStep) {
  std::vector<RoutingStatistics> statistics;
  run(0, statistics);
  double worst = 0.0;
  std::string where;
  int64_t checked = 0;
  for (const ParameterInfo& p : parameters_.parameters()) {
    const bool expert = p.name.find(".experts.") != std::string::npos;
    if (expert && p.name.find(".experts.0.") == std::string::npos && p.name.find(".experts.3.") == std::string::npos) continue;
    if (testing::kSanitized && &p - parameters_.parameters().data() > 12) break;
    const std::span<const float> g = gradients_.of(p);
    double norm = 0.0;
    for (float x : g) norm += static_cast<double>(x) * x;
    norm = std::sqrt(norm);
    EXPECT_GT(norm, 0.0) << p.name;
    // Along the gradient itself, and along a random direction.
    for (int random = 0; random < 2; ++random) {
      std::vector<double> direction(g.size());
      double along = 0.0;
      for (size_t i = 0; i < g.size(); ++i) {
        direction[i] = random == 0 ? g[i] / norm : std::sqrt(12.0) * (philox_uniform(77, static_cast<uint64_t>(p.offset) + i) - 0.5);
        along += direction[i] * g[i];
      }
      const double exact = derivative(parameters_.of(p).data(), direction, statistics);
      const double error = std::abs(along - exact) / norm;
      if (error > worst) worst = error, where = p.name;
      EXPECT_LT(error, GetParam() == Isa::kScalar ? 1e-6 : 1e-5) << p.name << (random ? ", random direction" : ", along itself");
      ++checked;
    }
  }
  RecordProperty("worst", fmt::format("{:.2e} ({}), {} derivatives", worst, where, checked));
  fmt::print("worst relative error {:.2e} ({}), {} derivatives\n", worst, where, checked);
}

TEST_P(GradientTest, KeptActivationsGiveTheSameBits) {
  std::vector<RoutingStatistics> statistics;
  const double loss = run(0, statistics);
  const std::vector<float> recomputed(gradients_.values().begin(), gradients_.values().end());
  for (const int64_t budget : {int64_t{1} << 20, int64_t{1} << 30}) {
    EXPECT_EQ(run(budget, statistics), loss);
    EXPECT_TRUE(std::ranges::equal(gradients_.values(), recomputed));
  }
}

/// Low-rank additions to every matrix that can have one, of a frozen model. The reference gets W + scale * b a, which is exact in
/// f32: all three are multiples of small powers of two.
class LoraGradientTest : public GradientTest {
 protected:
  static constexpr int64_t kRank = 3;
  static constexpr double kScale = 2.0;

  LoraGradientTest() : base_(config_, true, *backend_), gradient_weights_(weights_of_shape(config_, true)) {
    const auto grid = [](double x, double step) { return static_cast<float>(std::round(x / step) * step); };
    for (const ParameterInfo& p : parameters_.parameters()) {
      for (float& x : parameters_.of(p)) x = grid(x, 0x1p-14);
    }
    std::ranges::copy(parameters_.values(), base_.values().begin());
    std::vector<LoraSpec> specs;
    for (LoraModule& module : lora_modules(config_, {.tied_head = true})) specs.push_back({std::move(module), kRank, kScale});
    lora_ = std::make_unique<LoraArray>(specs, *backend_);
    lora_gradients_ = std::make_unique<LoraArray>(specs, *backend_);
    uint64_t index = 0;
    for (float& x : lora_->values()) x = grid(0.25 * (philox_uniform(9, index++) - 0.5), 0x1p-7);
    weights_ = base_.weights();
    lora_->attach(weights_);
    lora_gradients_->attach(gradient_weights_);
    // Merged.
    for (size_t i = 0; i < specs.size(); ++i) {
      for (const LoraModule::Part& part : specs[i].module.parts) {
        const ParameterInfo& p = *parameters_.find(part.parameter);
        for (int64_t r = 0; r < p.rows; ++r) {
          for (int64_t c = 0; c < p.cols; ++c) {
            double sum = 0.0;
            for (int64_t k = 0; k < kRank; ++k) sum += b(i, part, r, k) * a(i, k, c);
            float& w = parameters_.of(p)[static_cast<size_t>(r * p.cols + c)];
            const double exact = w + kScale * sum;
            w = static_cast<float>(exact);
            EXPECT_EQ(w, exact);
          }
        }
      }
    }
  }
  double a(size_t module, int64_t k, int64_t c) const {
    return lora_->a(module)[static_cast<size_t>(k * lora_->specs()[module].module.cols + c)];
  }
  static size_t b_index(const LoraModule::Part& part, int64_t r, int64_t k) {
    return static_cast<size_t>((part.offset + r / part.block * part.stride + r % part.block) * kRank + k);
  }
  double b(size_t module, const LoraModule::Part& part, int64_t r, int64_t k) const {
    return lora_->b(module)[b_index(part, r, k)];
  }

  const Weights& trained_weights() const override { return weights_; }
  const Weights& gradient_weights() const override { return gradient_weights_; }
  const ParameterList& gradients() const override { return *lora_gradients_; }

  ParameterArray base_;
  std::unique_ptr<LoraArray> lora_, lora_gradients_;
  Weights weights_, gradient_weights_;
};

TEST_P(LoraGradientTest, OfEveryAdditionEqualsTheComplexStep) {
  std::vector<RoutingStatistics> statistics;
  run(0, statistics);
  double worst = 0.0;
  std::string where;
  int64_t checked = 0;
  for (size_t i = 0; i < lora_->specs().size(); ++i) {
    const LoraModule& module = lora_->specs()[i].module;
    const bool expert = module.name.find(".experts.") != std::string::npos;
    if (expert && module.name.find(".experts.3.") == std::string::npos) continue;
    if (testing::kSanitized && i > 3) break;
    for (const bool of_b : {false, true}) {
      const std::span<const float> g = of_b ? lora_gradients_->b(i) : lora_gradients_->a(i);
      double norm = 0.0;
      for (float x : g) norm += static_cast<double>(x) * x;
      norm = std::sqrt(norm);
      EXPECT_GT(norm, 0.0) << module.name;
      // Along the gradient itself and a random direction at once: every part of a module costs a run of the reference.
      std::vector<double> direction(g.size());
      double along = 0.0, exact = 0.0;
      for (size_t j = 0; j < g.size(); ++j) {
        direction[j] = g[j] / norm + std::sqrt(12.0) * (philox_uniform(78, 1000 * i + j) - 0.5);
        along += direction[j] * g[j];
      }
      // Of W: scale * b d_a or scale * d_b a, part by part; derivatives add.
      for (const LoraModule::Part& part : module.parts) {
        const ParameterInfo& p = *parameters_.find(part.parameter);
        std::vector<double> of_w(static_cast<size_t>(p.size()));
        for (int64_t r = 0; r < p.rows; ++r) {
          for (int64_t c = 0; c < p.cols; ++c) {
            double& d = of_w[static_cast<size_t>(r * p.cols + c)];
            for (int64_t k = 0; k < kRank; ++k) {
              d += kScale * (of_b ? direction[b_index(part, r, k)] * a(i, k, c)
                                  : b(i, part, r, k) * direction[static_cast<size_t>(k * p.cols + c)]);
            }
          }
        }
        exact += derivative(parameters_.of(p).data(), of_w, statistics);
      }
      const double error = std::abs(along - exact) / norm;
      if (error > worst) worst = error, where = module.name;
      EXPECT_LT(error, GetParam() == Isa::kScalar ? 1e-6 : 1e-5) << module.name << (of_b ? " B" : " A");
      ++checked;
    }
  }
  RecordProperty("worst", fmt::format("{:.2e} ({}), {} derivatives", worst, where, checked));
  fmt::print("worst relative error {:.2e} ({}), {} derivatives\n", worst, where, checked);
}

/// The loss of the frozen model by itself, to the last bit, and a gradient of B alone.
TEST_P(LoraGradientTest, WithAZeroBTheModelIsItsBase) {
  for (size_t i = 0; i < lora_->specs().size(); ++i) std::ranges::fill(lora_->b(i), 0.0f);
  std::vector<RoutingStatistics> statistics;
  const double loss = run(0, statistics);
  for (size_t i = 0; i < lora_->specs().size(); ++i) {
    EXPECT_TRUE(std::ranges::all_of(lora_gradients_->a(i), [](float x) { return x == 0.0f; })) << lora_->specs()[i].module.name;
  }
  weights_ = base_.weights();
  Weights frozen = weights_of_shape(config_, true);
  std::swap(gradient_weights_, frozen);
  EXPECT_EQ(run(0, statistics), loss);
}

std::vector<Isa> isas() {
  std::vector<Isa> list;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= detect_isa()) list.push_back(isa);
  }
  return list;
}
std::string name_of(const ::testing::TestParamInfo<Isa>& test) { return std::string(isa_name(test.param)); }
INSTANTIATE_TEST_SUITE_P(Isas, GradientTest, ::testing::ValuesIn(isas()), name_of);
INSTANTIATE_TEST_SUITE_P(Isas, LoraGradientTest, ::testing::ValuesIn(isas()), name_of);

}  // namespace
}  // namespace qnext::reference
