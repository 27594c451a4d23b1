#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/cpu/training_backend.h"
#include "base/philox.h"
#include "model/testing/random_checkpoint.h"
#include "train/initialize.h"
#include "train/schedule.h"

namespace qnext {
namespace {

using Doubles = std::vector<double>;

class OptimizerTest : public ::testing::Test {
 protected:
  OptimizerTest()
      : config_(testing::tiny_config()), parameters_(config_, true, *backend_), gradients_(config_, true, *backend_) {
    initialize(parameters_, config_, 1, 0.02, DtBias::kLogUniform);
    // Nothing may depend on what neutral values hide.
    for (const ParameterInfo& p : parameters_.parameters()) {
      for (float& w : parameters_.of(p)) w += 0.1f;
    }
    options_ = {.learning_rate = 0.01,
                .muon_learning_rate = 0.02,
                .beta1 = 0.9,
                .beta2 = 0.95,
                .eps = 1e-8,
                .weight_decay = 0.1,
                .momentum = 0.95};
  }
  void draw_gradients(int64_t step) {
    for (const ParameterInfo& p : gradients_.parameters()) {
      const std::span<float> g = gradients_.of(p);
      for (size_t i = 0; i < g.size(); ++i)
        g[i] = static_cast<float>(philox_uniform(static_cast<uint64_t>(step), static_cast<uint64_t>(p.offset) + i) -
                                  0.5);
    }
  }

  const ModelConfig config_;
  std::unique_ptr<TrainingBackend> backend_ = make_cpu_training_backend(2, detect_isa());
  ParameterArray parameters_, gradients_;
  TrainConfig::Optimizer options_;
};

TEST_F(OptimizerTest, RulesByName) {
  const auto rule = [&](const std::string& name) {
    const ParameterInfo* p = parameters_.find(name);
    EXPECT_NE(p, nullptr) << name;
    const UpdateRule muon = update_rule(*p, OptimizerKind::kMuon);
    EXPECT_FALSE(update_rule(*p, OptimizerKind::kAdamW).muon);
    EXPECT_EQ(update_rule(*p, OptimizerKind::kAdamW).decays, muon.decays);
    return std::string(muon.muon ? "muon" : "adamw") + (muon.decays ? " decays" : "");
  };
  const std::string delta = "model.layers.0.linear_attn.", attention = "model.layers.3.self_attn.",
                    mlp = "model.layers.0.mlp.";
  for (const char* name : {"in_proj_qkvz.q", "in_proj_qkvz.z", "out_proj.weight"})
    EXPECT_EQ(rule(delta + name), "muon decays") << name;
  for (const char* name : {"in_proj_ba.a", "in_proj_ba.b"}) EXPECT_EQ(rule(delta + name), "adamw decays") << name;
  for (const char* name : {"conv1d.weight", "A_log", "dt_bias", "norm.weight"})
    EXPECT_EQ(rule(delta + name), "adamw") << name;
  for (const char* name : {"q_proj.q", "q_proj.gate", "k_proj.weight", "o_proj.weight"})
    EXPECT_EQ(rule(attention + name), "muon decays") << name;
  for (const char* name : {"q_norm.weight", "k_norm.weight"})
    EXPECT_EQ(rule(attention + name), "adamw decays") << name;
  for (const char* name : {"experts.0.up_proj.weight", "shared_expert.down_proj.weight"})
    EXPECT_EQ(rule(mlp + name), "muon decays") << name;
  for (const char* name : {"gate.weight", "shared_expert_gate.weight"})
    EXPECT_EQ(rule(mlp + name), "adamw decays") << name;
  for (const char* name : {"model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight",
                           "mtp.norm.weight"}) {
    EXPECT_EQ(rule(name), "adamw decays") << name;
  }
  EXPECT_EQ(rule("mtp.fc.weight"), "muon decays");
}

TEST_F(OptimizerTest, AdamWOfEveryParameterInDouble) {
  Optimizer optimizer(parameter_list(config_, true), options_, *backend_);
  std::map<std::string, std::array<Doubles, 3>> expected;  // w, m, v
  for (const ParameterInfo& p : parameters_.parameters()) {
    const std::span<const float> w = parameters_.of(p);
    expected[p.name] = {Doubles(w.begin(), w.end()), Doubles(w.size()), Doubles(w.size())};
  }
  for (int64_t step = 1; step <= 3; ++step) {
    draw_gradients(step);
    const double factor = 1.0 / static_cast<double>(step), scale = 0.5;
    optimizer.update(parameters_, gradients_, step, factor, scale);
    for (const ParameterInfo& p : parameters_.parameters()) {
      auto& [w, m, v] = expected[p.name];
      const bool decays = update_rule(p, OptimizerKind::kAdamW).decays;
      for (size_t i = 0; i < w.size(); ++i) {
        const double g = scale * static_cast<double>(gradients_.of(p)[i]), t = static_cast<double>(step),
                     rate = options_.learning_rate * factor;
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.95 * v[i] + 0.05 * g * g;
        w[i] -= rate * (m[i] / (1 - std::pow(0.9, t)) / (std::sqrt(v[i] / (1 - std::pow(0.95, t))) + 1e-8) +
                        (decays ? 0.1 : 0.0) * w[i]);
        ASSERT_NEAR(parameters_.of(p)[i], w[i], 2e-6 * std::max(1.0, std::fabs(w[i])))
            << p.name << " " << i << " step " << step;
      }
    }
  }
}

/// Newton-Schulz in double, on the rows as they are: the polynomial of X is the same for X and its transpose.
Doubles orthogonalised(Doubles x, size_t rows, size_t cols) {
  double norm = 0;
  for (const double value : x) norm += value * value;
  for (double& value : x) value /= std::sqrt(norm);
  const auto times = [](const Doubles& a, const Doubles& b, size_t m, size_t n, size_t inner) {
    Doubles c(m * n);
    for (size_t i = 0; i < m; ++i) {
      for (size_t k = 0; k < inner; ++k) {
        for (size_t j = 0; j < n; ++j) c[i * n + j] += a[i * inner + k] * b[k * n + j];
      }
    }
    return c;
  };
  for (int step = 0; step < 5; ++step) {
    Doubles transposed(x.size());
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < cols; ++j) transposed[j * rows + i] = x[i * cols + j];
    }
    const Doubles gram = times(x, transposed, rows, rows, cols), first = times(gram, x, rows, cols, rows),
                  second = times(gram, first, rows, cols, rows);
    for (size_t i = 0; i < x.size(); ++i) x[i] = 3.4445 * x[i] - 4.7750 * first[i] + 2.0315 * second[i];
  }
  return x;
}

TEST_F(OptimizerTest, MuonOfWideAndTallMatricesInDouble) {
  options_.kind = OptimizerKind::kMuon;
  Optimizer optimizer(parameter_list(config_, true), options_, *backend_);
  const std::vector<std::string> names = {"mtp.fc.weight", "model.layers.0.mlp.experts.1.down_proj.weight",
                                          "model.layers.0.mlp.experts.1.up_proj.weight"};
  std::map<std::string, std::pair<Doubles, Doubles>> expected;  // w, momentum
  for (const std::string& name : names) {
    const std::span<const float> w = parameters_.of(*parameters_.find(name));
    expected[name] = {Doubles(w.begin(), w.end()), Doubles(w.size())};
  }
  for (int64_t step = 1; step <= 2; ++step) {
    draw_gradients(step);
    optimizer.update(parameters_, gradients_, step, 0.5, 0.25);
    for (const std::string& name : names) {
      const ParameterInfo& p = *parameters_.find(name);
      auto& [w, m] = expected[name];
      Doubles x(w.size());
      for (size_t i = 0; i < w.size(); ++i) {
        const double g = 0.25 * static_cast<double>(gradients_.of(p)[i]);
        m[i] = 0.95 * m[i] + g;
        x[i] = 0.95 * m[i] + g;
      }
      x = orthogonalised(x, static_cast<size_t>(p.rows), static_cast<size_t>(p.cols));
      double squares = 0;
      for (size_t i = 0; i < w.size(); ++i) {
        squares += x[i] * x[i];
        w[i] -= 0.01 * (0.2 * std::sqrt(static_cast<double>(std::max(p.rows, p.cols))) * x[i] + 0.1 * w[i]);
        ASSERT_NEAR(parameters_.of(p)[i], w[i], 1e-5) << name << " " << i;
      }
      // Singular values near 1, so an element's update is near 0.2 of the rate.
      const double rank = static_cast<double>(std::min(p.rows, p.cols));
      EXPECT_NEAR(std::sqrt(squares / rank), 1.0, 0.25) << name;
    }
  }
}

TEST_F(OptimizerTest, AnExpertThatNobodyChoseOnlyDecays) {
  options_.kind = OptimizerKind::kMuon;
  Optimizer optimizer(parameter_list(config_, true), options_, *backend_);
  const ParameterInfo& p = *parameters_.find("model.layers.0.mlp.experts.1.up_proj.weight");
  const float before = parameters_.of(p)[0];
  optimizer.update(parameters_, gradients_, 1, 1.0, 1.0);
  EXPECT_FLOAT_EQ(parameters_.of(p)[0], before * (1.0f - 0.02f * 0.1f));
}

TEST(ScheduleTest, WarmUpAndDecay) {
  TrainConfig::Optimizer o{.steps = 110,
                           .warmup_steps = 10,
                           .schedule = ScheduleKind::kCosine,
                           .final_fraction = 0.1,
                           .decay_fraction = 0.2};
  EXPECT_DOUBLE_EQ(schedule_factor(o, 1), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(o, 10), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(o, 60), 0.55);
  EXPECT_DOUBLE_EQ(schedule_factor(o, 110), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(o, 500), 0.1);
  o.schedule = ScheduleKind::kWsd;
  EXPECT_DOUBLE_EQ(schedule_factor(o, 88), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(o, 99), 0.55);
  EXPECT_DOUBLE_EQ(schedule_factor(o, 110), 0.1);
  o.schedule = ScheduleKind::kConstant;
  EXPECT_DOUBLE_EQ(schedule_factor(o, 110), 1.0);
  o.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(schedule_factor(o, 1), 1.0);
}

TEST(InitializeTest, DependsOnSeedAndNameAlone) {
  const auto backend = make_cpu_training_backend(1, Isa::kScalar);
  const ModelConfig config = testing::tiny_config();
  ModelConfig deeper = config;
  deeper.layer_types.insert(deeper.layer_types.begin() + 3, LayerKind::kLinearAttention);
  deeper.layer_is_moe.push_back(true);
  ParameterArray a(config, true, *backend), b(deeper, false, *backend), c(config, true, *backend);
  initialize(a, config, 5, 0.02, DtBias::kLogUniform);
  initialize(b, deeper, 5, 0.02, DtBias::kLogUniform);
  initialize(c, config, 6, 0.02, DtBias::kLogUniform);
  const std::string p = "model.layers.0.";
  for (const std::string& name : {p + "linear_attn.in_proj_qkvz.k", p + "linear_attn.A_log", p + "mlp.gate.weight",
                                  p + "linear_attn.conv1d.weight"}) {
    EXPECT_TRUE(std::ranges::equal(a.of(*a.find(name)), b.of(*b.find(name)))) << name;
    EXPECT_FALSE(std::ranges::equal(a.of(*a.find(name)), c.of(*c.find(name)))) << name;
  }
  EXPECT_FALSE(std::ranges::equal(a.of(*a.find(p + "linear_attn.in_proj_qkvz.k")),
                                  a.of(*a.find(p + "linear_attn.in_proj_qkvz.q"))));
}

TEST(InitializeTest, Distributions) {
  const auto backend = make_cpu_training_backend(1, Isa::kScalar);
  const ModelConfig config = testing::tiny_config();
  ParameterArray a(config, true, *backend);
  initialize(a, config, 5, 0.02, DtBias::kLogUniform);
  const auto of = [&](const std::string& name) { return a.of(*a.find(name)); };
  double sum = 0, squares = 0, fourth = 0;
  const std::span<const float> table = of("model.embed_tokens.weight");
  for (const double x : table) sum += x, squares += x * x, fourth += x * x * x * x;
  const double n = static_cast<double>(table.size()), variance = squares / n;
  EXPECT_NEAR(sum / n, 0.0, 4 * 0.02 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(variance), 0.02, 4 * 0.02 / std::sqrt(2 * n));
  EXPECT_NEAR(fourth / n / (variance * variance), 3.0, 4 * std::sqrt(24 / n));  // a normal one's kurtosis
  const ParameterInfo& router = *a.find("model.layers.0.mlp.gate.weight");
  for (int64_t r = 0; r < router.rows; ++r) {
    double row = 0;
    for (int64_t i = 0; i < router.cols; ++i)
      row += std::pow(a.of(router)[static_cast<size_t>(r * router.cols + i)], 2);
    EXPECT_NEAR(std::sqrt(row), 0.02 * std::sqrt(static_cast<double>(router.cols)), 1e-6);
  }
  const std::string delta = "model.layers.0.linear_attn.";
  for (const float x : of(delta + "A_log")) EXPECT_TRUE(x >= 0.0f && x <= std::log(16.0f)) << x;
  for (const float x : of(delta + "dt_bias")) {
    const double dt = std::log1p(std::exp(static_cast<double>(x)));
    EXPECT_TRUE(dt >= 0.9999e-3 && dt <= 0.10001) << dt;
  }
  for (const float x : of(delta + "conv1d.weight")) EXPECT_LE(std::fabs(x), 0.5f);
  for (const float x : of(delta + "norm.weight")) EXPECT_EQ(x, 1.0f);
  for (const float x : of("model.layers.0.input_layernorm.weight")) EXPECT_EQ(x, 0.0f);
}

}  // namespace
}  // namespace qnext
