#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "backend/cpu/training_backend.h"
#include "base/mapped_file.h"
#include "base/testing/sanitized.h"
#include "formats/safetensors.h"
#include "model/layers/mixture_of_experts.h"
#include "model/parameter_array.h"
#include "model/stored_tensors.h"
#include "model/training_model.h"
#include "train/initialize.h"
#include "train/optimizer.h"

// Twenty steps of AdamW against PyTorch and transformers (tests/train/make_training_golden.py), all of whose products are f32.
namespace qnext {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(QNEXT_SOURCE_DIR) / "tests" / "train" / "golden";

struct Arithmetic {
  Isa isa;
  Products products;
  bool f32() const { return products == Products::kF32; }
  // In bf16 some rows choose other experts than in f32, whose numbers have nothing to do with each other: docs/numerics.md.
  double loss_bound() const { return f32() ? 1e-3 : 0.4; }
  double parameter_bound() const { return f32() ? 1e-2 : 0.2; }
};

class GoldenTrainingTest : public ::testing::TestWithParam<Arithmetic> {
 protected:
  GoldenTrainingTest()
      : config_(load_config(kGolden)),
        backend_(make_cpu_training_backend(2, GetParam().isa, GetParam().products)),
        parameters_(config_, false, *backend_),
        gradients_(config_, false, *backend_),
        path_((kGolden / "expected.safetensors").string()),
        file_(path_) {
    parameters_.copy_from(bind_weights(config_, std::make_shared<SafetensorsCheckpoint>(kGolden)));
    for (const FileTensor& tensor : parse_safetensors(file_.bytes(), path_)) expected_[tensor.name] = tensor;
  }

  template <typename T>
  std::vector<T> values(const std::string& name) const {
    const FileTensor& tensor = expected_.at(name);
    std::vector<T> values(tensor.bytes.size() / sizeof(T));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }

  /// A step's documents, each whole.
  void make_batch(int64_t step) {
    const StateLayout layout(config_, DType::kF32, false);
    const std::vector<int32_t> all = values<int32_t>("tokens");
    const std::vector<int64_t>& shape = expected_.at("tokens").shape;
    const int64_t documents = shape[1], length = shape[2];
    batch_ = {};
    batch_.targets.resize(1);
    memory_.assign(static_cast<size_t>(documents * layout.recurrent_floats), 0.0f);
    kv_.assign(static_cast<size_t>(documents * layout.kv_block_bytes), std::byte{});
    states_.assign(static_cast<size_t>(2 * documents), {});
    for (int64_t d = 0; d < documents; ++d) {
      const int32_t* tokens = all.data() + (step * documents + d) * length;
      batch_.tokens.insert(batch_.tokens.end(), tokens, tokens + length);
      batch_.targets[0].insert(batch_.targets[0].end(), tokens + 1, tokens + length);
      batch_.targets[0].push_back(-1);
      SequenceState* states = &states_[static_cast<size_t>(2 * d)];
      states[0].recurrent = memory_.data() + d * layout.recurrent_floats;
      states[0].kv_blocks = states[1].kv_blocks = {kv_.data() + d * layout.kv_block_bytes};
      batch_.segments.push_back({d * length, length, 0, &states[0]});
      batch_.before.push_back({d * length, length, 0, &states[1]});
    }
  }

  /// Relative RMS difference per stored tensor of `array` from expected PREFIX + name; the worst.
  double compare(const ParameterArray& array, const std::string& prefix, double bound) {
    const ParameterReader reader(array.weights());
    double worst = 0.0;
    for (const StoredTensor& tensor : hugging_face_tensors(config_, stored_parts(array.weights()))) {
      std::vector<float> got(static_cast<size_t>(tensor.row_count() * tensor.cols()));
      reader.read(tensor, 0, tensor.row_count(), got);
      const std::vector<float> want = values<float>(prefix + tensor.name);
      EXPECT_EQ(got.size(), want.size()) << tensor.name;
      double difference = 0.0, squares = 0.0;
      for (size_t i = 0; i < got.size(); ++i) {
        difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
        squares += static_cast<double>(want[i]) * want[i];
      }
      const double error = std::sqrt(difference / squares);
      EXPECT_LT(error, bound) << tensor.name;
      worst = std::max(worst, error);
    }
    return worst;
  }

  ModelConfig config_;
  std::unique_ptr<TrainingBackend> backend_;
  ParameterArray parameters_, gradients_;
  std::string path_;
  MappedFile file_;
  std::map<std::string, FileTensor> expected_;
  TrainingBatch batch_;
  std::vector<float> memory_;
  std::vector<std::byte> kv_;
  std::vector<SequenceState> states_;
};

TEST_P(GoldenTrainingTest, LossesGradientsAndBalanceAreThoseOfPyTorch) {
  const std::vector<float> losses = values<float>("losses"), aux = values<float>("aux");
  TrainConfig::Optimizer options;
  options.learning_rate = 2e-3;
  options.beta1 = 0.9;
  options.beta2 = 0.95;
  options.eps = 1e-8;
  options.weight_decay = 0.1;
  constexpr double kAuxCoefficient = 0.01;
  Optimizer optimizer(parameter_list(config_, false), options, *backend_);
  TrainingModel model(config_, parameters_.weights(), {}, *backend_);
  double worst_loss = 0.0, worst_aux = 0.0, worst_gradient = 0.0;
  for (size_t step = 0; step < losses.size(); ++step) {
    make_batch(static_cast<int64_t>(step));
    std::vector<RoutingStatistics> statistics;
    model.forward({&batch_, 1}, statistics);
    // transformers' balance loss pools the layers: E times the sum of f P.
    const auto experts = static_cast<size_t>(config_.num_experts);
    std::vector<double> f(experts), probability(experts);
    double rows = 0.0;
    for (const RoutingStatistics& s : statistics) {
      rows += static_cast<double>(s.rows);
      for (size_t e = 0; e < experts; ++e) f[e] += static_cast<double>(s.counts[e]), probability[e] += s.probabilities[e];
    }
    double balance = 0.0;
    std::vector<float> d_probability(experts);
    for (size_t e = 0; e < experts; ++e) {
      balance += static_cast<double>(experts) * f[e] / rows * probability[e] / rows;
      d_probability[e] = static_cast<float>(kAuxCoefficient * static_cast<double>(experts) * f[e] / rows / rows);
    }
    LossScales scales;
    scales.targets = {1.0f / static_cast<float>(std::ranges::count_if(batch_.targets[0], [](int32_t t) { return t >= 0; }))};
    scales.balance.assign(statistics.size(), d_probability);
    std::ranges::fill(gradients_.values(), 0.0f);
    LossSums sums;
    model.backward({&batch_, 1}, scales, gradients_.weights(), sums);
    const double loss = sums.depths[0].loss / static_cast<double>(sums.depths[0].targets);
    worst_loss = std::max(worst_loss, std::abs(loss - losses[step]));
    worst_aux = std::max(worst_aux, std::abs(balance - aux[step]));
    EXPECT_NEAR(loss, losses[step], GetParam().loss_bound()) << "step " << step;
    EXPECT_NEAR(balance, aux[step], GetParam().loss_bound()) << "step " << step;
    if (step == 0 && GetParam().f32()) worst_gradient = compare(gradients_, "gradient.", 1e-3);
    optimizer.update(parameters_, gradients_, static_cast<int64_t>(step) + 1, 1.0, 1.0);
  }
  const double worst_after = compare(parameters_, "after.", GetParam().parameter_bound());
  fmt::print("loss within {:.1e}, balance within {:.1e}, gradients within {:.1e}, parameters after 20 steps within {:.1e}\n",
             worst_loss, worst_aux, worst_gradient, worst_after);
}

/// Without experts there is nothing that rounding can decide: twenty steps of a dense model.
TEST_P(GoldenTrainingTest, LossesOfADenseModelAreThoseOfF32) {
  config_.layer_is_moe.assign(config_.layer_is_moe.size(), false);
  TrainConfig::Optimizer options;
  options.learning_rate = 2e-3;
  options.beta1 = 0.9;
  options.beta2 = 0.95;
  options.eps = 1e-8;
  options.weight_decay = 0.1;
  const auto losses_of = [&](TrainingBackend& backend) {
    ParameterArray parameters(config_, false, backend), gradients(config_, false, backend);
    initialize(parameters, config_, 1, 0.1, DtBias::kLogUniform);
    Optimizer optimizer(parameter_list(config_, false), options, backend);
    TrainingModel model(config_, parameters.weights(), {}, backend);
    std::vector<double> losses;
    for (int64_t step = 0; step < 20; ++step) {
      make_batch(step);
      std::vector<RoutingStatistics> statistics;
      model.forward({&batch_, 1}, statistics);
      LossScales scales;
      scales.targets = {1.0f / static_cast<float>(std::ranges::count_if(batch_.targets[0], [](int32_t t) { return t >= 0; }))};
      std::ranges::fill(gradients.values(), 0.0f);
      LossSums sums;
      model.backward({&batch_, 1}, scales, gradients.weights(), sums);
      losses.push_back(sums.depths[0].loss / static_cast<double>(sums.depths[0].targets));
      optimizer.update(parameters, gradients, step + 1, 1.0, 1.0);
    }
    return losses;
  };
  const auto f32 = make_cpu_training_backend(2, GetParam().isa);
  const std::vector<double> expected = losses_of(*f32), got = losses_of(*backend_);
  double worst = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::abs(got[i] - expected[i]));
    EXPECT_NEAR(got[i], expected[i], GetParam().f32() ? 0.0 : 5e-2) << "step " << i;
  }
  EXPECT_EQ(worst == 0.0, GetParam().f32());
  fmt::print("losses from {:.3f} to {:.3f}, within {:.1e}\n", expected.front(), expected.back(), worst);
}

/// The router's logits are those of f32 to the bit where all other products of a layer are not.
TEST_P(GoldenTrainingTest, TheRouterIsNeverRounded) {
  const auto f32 = make_cpu_training_backend(2, GetParam().isa);
  const Weights& weights = parameters_.weights();
  const auto layer = std::ranges::find_if(weights.layers, [](const LayerWeights& l) { return std::holds_alternative<MoeWeights>(l.mlp); });
  ASSERT_NE(layer, weights.layers.end());
  const auto& moe = std::get<MoeWeights>(layer->mlp);
  constexpr int64_t kRows = 50;
  const int64_t width = config_.hidden_size;
  std::vector<float> x(static_cast<size_t>(kRows * width));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  std::vector<std::vector<float>> logits, shared;
  std::vector<std::vector<int32_t>> experts;
  for (TrainingBackend* backend : {f32.get(), backend_.get()}) {
    Arena size;
    MlpActivations(config_, kRows, size);
    Arena arena(backend->allocate(size.bytes()));
    MlpActivations act(config_, kRows, arena);
    std::vector<float> y(x.size());
    forward(config_, moe, {x.data(), kRows, width, width}, act, Rows{y.data(), kRows, width, width}, *backend);
    const auto copy = [](Rows r) {
      std::vector<float> values;
      for (int64_t t = 0; t < r.rows; ++t) values.insert(values.end(), r.row(t), r.row(t) + r.cols);
      return values;
    };
    logits.push_back(copy(act.router_logits));
    shared.push_back(copy(act.shared_out));
    experts.push_back(act.experts);
  }
  EXPECT_EQ(logits[0], logits[1]);
  EXPECT_EQ(experts[0], experts[1]);
  EXPECT_EQ(shared[0] == shared[1], GetParam().f32());
}

std::vector<Arithmetic> arithmetics() {
  std::vector<Arithmetic> list;
  const Isa best = std::min(detect_isa(), Isa::kAvx512);
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > best || (testing::kSanitized && isa != best)) continue;
    for (const Products products : {Products::kF32, Products::kBf16}) list.push_back({isa, products});
  }
  for (const Products products : {Products::kBf16EmulatedAvx512, Products::kBf16EmulatedAmx}) {
    if (!testing::kSanitized) list.push_back({best, products});  // 20 steps of emulated instructions take minutes there
  }
  if (detect_bf16() >= Bf16::kAvx512) list.push_back({best, Products::kBf16Avx512});
  if (detect_bf16() >= Bf16::kAmx) list.push_back({best, Products::kBf16Amx});
  return list;
}
INSTANTIATE_TEST_SUITE_P(Isas, GoldenTrainingTest, ::testing::ValuesIn(arithmetics()), [](const auto& test) {
  std::string name = fmt::format("{}_{}", isa_name(test.param.isa), products_name(test.param.products));
  std::erase_if(name, [](char c) { return c == '(' || c == ')'; });
  std::ranges::replace(name, ' ', '_');
  return name;
});

}  // namespace
}  // namespace qnext
