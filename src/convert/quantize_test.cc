#include "convert/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>

#include "base/error.h"
#include "convert/importance_recorder.h"
#include "formats/safetensors.h"
#include "model/testing/random_checkpoint.h"
#include "quant/encode.h"
#include "runtime/engine.h"
#include "runtime/model_files.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

/// As the tiny model, with rows of 256 and 32 values.
ModelConfig wide_config() {
  ModelConfig config = testing::tiny_config();
  config.hidden_size = 256;
  config.moe_intermediate_size = 32;
  return config;
}

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Weights open_weights(const fs::path& path) {
  const ModelFiles files(path);
  return bind_weights(files.config(), files.checkpoint());
}

/// Every parameter of a model, decoded.
std::map<std::string, std::vector<float>> parameters(const fs::path& path) {
  const Weights weights = open_weights(path);
  std::map<std::string, std::vector<float>> result;
  for_each_parameter(
      weights, {[&](const std::string& name, const Matrix& m) {
                  for (int64_t r = 0; r < m.rows; ++r) {
                    for (int64_t c = 0; c < m.cols; ++c) result[name].push_back(m.at(r, c));
                  }
                },
                [&](const std::string& name, const Vector& v) { result[name].assign(v.data, v.data + v.size); }});
  return result;
}

double relative_error(const std::vector<float>& x, const std::vector<float>& y) {
  EXPECT_EQ(x.size(), y.size());
  double error = 0, total = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
    total += double{x[i]} * x[i];
  }
  return total == 0 ? std::sqrt(error) : std::sqrt(error / total);
}

class Quantize : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_random_checkpoint(model(), wide_config()); }
  fs::path model() const { return directory_.path() / "model"; }
  fs::path path(const char* name) const { return directory_.path() / name; }
  QuantizeReport run(const char* out, const char* recipe, int threads = 1, const Importance* importance = nullptr) {
    return quantize(model(), path(out), {.recipe = find_recipe(recipe), .importance = importance, .threads = threads},
                    {});
  }
  /// Names in the directory, for what must not be left behind.
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_.path())) names.push_back(entry.path().filename());
    return names;
  }
  TemporaryDirectory directory_;
};

TEST_F(Quantize, Bf16IsExactInBothForms) {
  run("m.gguf", "bf16", 2);
  run("m", "bf16", 2);
  const auto expected = parameters(model()), gguf = parameters(path("m.gguf")), hf = parameters(path("m"));
  ASSERT_EQ(expected.size(), gguf.size());
  ASSERT_EQ(expected.size(), hf.size());
  for (const auto& [name, values] : expected) {
    EXPECT_EQ(hf.at(name), values) << name;
    // Norms are stored plus one and A_log as -exp in GGUF.
    EXPECT_LT(relative_error(values, gguf.at(name)), 1e-6) << name;
  }
}

TEST_F(Quantize, RecipesKeepTheirErrors) {
  const auto expected = parameters(model());
  for (const auto& [recipe, bound] : {std::pair{"q8", 0.006}, {"q6", 0.037}, {"q4xs", 0.08}}) {
    const std::string out = std::string(recipe) + ".gguf";
    const QuantizeReport report = run(out.c_str(), recipe, 2);
    const auto actual = parameters(path(out.c_str()));
    for (const auto& [name, values] : expected)
      EXPECT_LT(relative_error(values, actual.at(name)), bound) << recipe << " " << name;
    EXPECT_LE(report.bytes, report.file_bytes);
  }
}

TEST_F(Quantize, Fp8DirectoryIsReadBack) {
  run("fp8", "f8_e4m3", 2);
  const auto expected = parameters(model()), actual = parameters(path("fp8"));
  for (const auto& [name, values] : expected) EXPECT_LT(relative_error(values, actual.at(name)), 0.03) << name;
  EXPECT_THAT(content(path("fp8") / "config.json"), HasSubstr("\"fp8\""));
}

TEST_F(Quantize, ThreadsDoNotChangeTheFile) {
  run("one.gguf", "q4s", 1);
  run("four.gguf", "q4s", 4);
  EXPECT_EQ(content(path("one.gguf")), content(path("four.gguf")));
}

TEST_F(Quantize, TheSameTypesAgainAreCopied) {
  run("a.gguf", "q4s", 2);
  const QuantizeOptions options{.recipe = find_recipe("q4s"), .threads = 2};
  quantize(path("a.gguf"), path("b.gguf"), options, {});
  EXPECT_EQ(parameters(path("a.gguf")), parameters(path("b.gguf")));
}

TEST_F(Quantize, WhatFailsLeavesNothing) {
  std::ofstream(path("old.gguf")) << "old";
  const auto before = files();
  const QuantizeOptions options{.recipe = find_recipe("q4s"), .threads = 1};
  EXPECT_THROW(quantize(model(), path("old.gguf"), options, [](int64_t, int64_t) { throw Error("stopped"); }), Error);
  EXPECT_THROW(quantize(model(), path("new"), {.recipe = find_recipe("bf16"), .threads = 1},
                        [](int64_t, int64_t) { throw Error("stopped"); }),
               Error);
  EXPECT_THROW(run("none/such.gguf", "q4s"), Error);
  EXPECT_THROW(run("fp8.gguf", "f8_e4m3"), Error);
  EXPECT_THROW(run("blocks", "q4_k"), Error);
  EXPECT_THROW(run("model", "bf16"), Error);  // exists
  EXPECT_THAT(files(), ::testing::UnorderedElementsAreArray(before));
  EXPECT_EQ(content(path("old.gguf")), "old");
}

TEST_F(Quantize, ValuesThatAreNotFiniteAreNamed) {
  auto tensors = testing::random_tensors(wide_config());
  for (auto& tensor : tensors) {
    if (tensor.name == "model.layers.0.mlp.experts.2.up_proj.weight") {
      const uint16_t nan = 0x7FC0;
      std::memcpy(tensor.bytes.data() + 2 * (3 * 256 + 5), &nan, 2);
    }
  }
  testing::write_tensors(model(), tensors);
  try {
    run("m.gguf", "q4s", 2);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("blk.0.ffn_up_exps.weight: row 67, column 5"));
    EXPECT_THAT(error.what(), HasSubstr("found nan"));
  }
}

TEST_F(Quantize, ImportanceIsMeasuredSavedAndUsed) {
  ImportanceRecorder* recorder = nullptr;
  EngineOptions options;
  options.threads = 1;
  options.mtp = true;
  options.wrap_backend = [&](std::unique_ptr<Backend> backend) {
    auto wrapped = std::make_unique<ImportanceRecorder>(std::move(backend));
    recorder = wrapped.get();
    return wrapped;
  };
  Engine engine(model(), options);
  options.wrap_backend = {};
  Engine plain(model(), options);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 20; ++i) tokens.push_back(i * 7 % 30);
  const auto logits_of = [&](Engine& e) {
    const auto sequence = e.create_sequence();
    const Feed feed{sequence.get(), tokens, LogitRows::kAll};
    const auto logits = e.step({&feed, 1});
    return std::vector<float>(logits.begin(), logits.end());
  };
  const std::vector<float> expected = logits_of(plain), actual = logits_of(engine);
  EXPECT_LT(relative_error(expected, actual), 1e-4);

  Importance importance = recorder->importance(engine.config(), engine.weights());
  // Each of the 20 tokens chose k of the experts; gate and up read the same.
  const auto& gate = importance.entries.at("blk.0.ffn_gate_exps.weight");
  float chosen = 0;
  for (const float count : gate.counts) chosen += count;
  EXPECT_EQ(chosen, 20.0f * static_cast<float>(engine.config().num_experts_per_tok));
  EXPECT_EQ(gate.sums, importance.entries.at("blk.0.ffn_up_exps.weight").sums);
  EXPECT_EQ(importance.entries.at("blk.0.attn_qkv.weight").counts, std::vector<float>{20.0f});
  EXPECT_EQ(importance.entries.at("blk.0.attn_qkv.weight").sums,
            importance.entries.at("blk.0.attn_gate.weight").sums);

  importance.save(path("m.imatrix"), "text", 1, 20);
  const Importance loaded = Importance::load(path("m.imatrix"));
  ASSERT_EQ(loaded.entries.size(), importance.entries.size());
  for (const auto& [name, entry] : importance.entries) EXPECT_EQ(loaded.entries.at(name).sums, entry.sums) << name;

  // The error of the router's inputs' neighbour, the shared expert, weighted by what it reads.
  run("without.gguf", "q4_k", 2);
  run("with.gguf", "q4_k", 2, &loaded);
  const Weights original = open_weights(model()), a = open_weights(path("without.gguf")),
                b = open_weights(path("with.gguf"));
  const auto weighted_error = [&](const Weights& weights) {
    const Matrix &x = original.lm_head, &y = weights.lm_head;
    const float* w = loaded.columns("output.weight", 0, 1, x.cols);
    double error = 0;
    for (int64_t r = 0; r < x.rows; ++r) {
      for (int64_t c = 0; c < x.cols; ++c) error += w[c] * std::pow(double{x.at(r, c)} - y.at(r, c), 2);
    }
    return error;
  };
  EXPECT_LT(weighted_error(b), weighted_error(a));

  importance.entries.at("output.weight").cols = 128;
  importance.entries.at("output.weight").sums.resize(128);
  EXPECT_THROW(run("wrong.gguf", "q4_k", 2, &importance), Error);
  EXPECT_THROW(Importance::load(path("with.gguf")), Error);
}

}  // namespace
}  // namespace qnext
