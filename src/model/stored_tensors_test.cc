#include "model/stored_tensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "formats/safetensors.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

using testing::CheckpointOptions;
using testing::TemporaryDirectory;

Weights random_weights(const std::filesystem::path& directory, const ModelConfig& config,
                       const CheckpointOptions& options = {}) {
  testing::write_random_checkpoint(directory, config, options);
  return bind_weights(config, std::make_shared<SafetensorsCheckpoint>(directory));
}

const StoredTensor& named(const std::vector<StoredTensor>& tensors, std::string_view name) {
  const auto it = std::ranges::find(tensors, name, &StoredTensor::name);
  EXPECT_NE(it, tensors.end()) << name;
  return *it;
}

TEST(HuggingFaceTensors, AreThoseOfTheReleasedCheckpointsWhateverTheSpellingRead) {
  const ModelConfig config = testing::tiny_config();
  const auto expected = testing::random_tensors(config, {.dtype = DType::kF32});
  for (const bool other_spelling : {false, true}) {
    const TemporaryDirectory directory;
    const Weights weights =
        random_weights(directory.path(), config,
                       {.dtype = DType::kF32, .fused_experts = other_spelling, .split_projections = other_spelling});
    const ParameterReader reader(weights);
    const auto tensors = hugging_face_tensors(config, stored_parts(weights));
    EXPECT_EQ(tensors.size(), expected.size());
    for (const auto& e : expected) {
      const StoredTensor& tensor = named(tensors, e.name);
      EXPECT_EQ(tensor.shape, e.shape) << e.name;
      std::vector<float> values(e.bytes.size() / sizeof(float));
      const int64_t cut = tensor.row_count() / 3;  // in two parts, cut anywhere
      const auto head = static_cast<size_t>(cut * tensor.cols());
      reader.read(tensor, 0, cut, std::span(values).first(head));
      reader.read(tensor, cut, tensor.row_count() - cut, std::span(values).subspan(head));
      EXPECT_EQ(std::memcmp(values.data(), e.bytes.data(), e.bytes.size()), 0) << e.name;
    }
  }
}

TEST(GgufTensors, HaveTheNamesAndShapesOfTheArchitecture) {
  ModelConfig config;  // the 80B with four layers and four experts
  config.vocab_size = 151936, config.hidden_size = 2048;
  config.layer_types = {LayerKind::kLinearAttention, LayerKind::kLinearAttention, LayerKind::kLinearAttention,
                        LayerKind::kFullAttention};
  config.layer_is_moe = {true, true, true, true};
  config.num_attention_heads = 16, config.num_key_value_heads = 2, config.head_dim = 256;
  config.linear_num_key_heads = 16, config.linear_num_value_heads = 32;
  config.linear_key_head_dim = config.linear_value_head_dim = 128, config.linear_conv_kernel_dim = 4;
  config.num_experts = 4, config.num_experts_per_tok = 2;
  config.moe_intermediate_size = config.shared_expert_intermediate_size = 512;

  EXPECT_EQ(gguf_tensors(config, {}).size(), 3u * 18 + 16 + 3);  // the counts of llama.cpp's files
  EXPECT_EQ(gguf_tensors(config, {.tied_head = true}).size(), 3u * 18 + 16 + 2);
  const auto tensors = gguf_tensors(config, {.mtp = true});
  EXPECT_EQ(tensors.size(), 3u * 18 + 16 + 3 + 20);
  std::set<std::string> names;
  for (const StoredTensor& tensor : tensors) {
    names.insert(tensor.name);
    int64_t rows = 0;
    for (const ParameterRows& piece : tensor.rows) rows += piece.count;
    EXPECT_EQ(rows, tensor.row_count()) << tensor.name;
  }
  EXPECT_EQ(names.size(), tensors.size());
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(named(tensors, "blk.0.attn_qkv.weight").shape, (Shape{8192, 2048}));
  EXPECT_EQ(named(tensors, "blk.0.ssm_conv1d.weight").shape, (Shape{8192, 4}));
  EXPECT_EQ(named(tensors, "blk.3.attn_q.weight").shape, (Shape{8192, 2048}));
  EXPECT_EQ(named(tensors, "blk.1.ffn_down_exps.weight").shape, (Shape{4, 2048, 512}));
  EXPECT_EQ(named(tensors, "blk.1.ffn_gate_inp_shexp.weight").shape, (Shape{2048}));
  EXPECT_EQ(named(tensors, "blk.4.nextn.eh_proj.weight").shape, (Shape{2048, 4096}));
  EXPECT_EQ(named(tensors, "blk.4.nextn.hnorm.weight").transform, Transform::kPlusOne);
  EXPECT_EQ(named(tensors, "blk.0.ssm_norm.weight").transform, Transform::kNone);
}

TEST(GgufTensors, AreMadeOfTheParametersThatTheySay) {
  const ModelConfig config = testing::tiny_config();
  const TemporaryDirectory directory;
  const CheckpointOptions options{.dtype = DType::kF32};
  const Weights weights = random_weights(directory.path(), config, options);
  const ParameterReader reader(weights);
  const auto tensors = gguf_tensors(config, stored_parts(weights));
  const auto values = [&](std::string_view name) {
    const StoredTensor& tensor = named(tensors, name);
    std::vector<float> all(static_cast<size_t>(tensor.row_count() * tensor.cols()));
    reader.read(tensor, 0, tensor.row_count(), all);
    return all;
  };
  const auto parameter = [&](const std::string& name, int64_t rows, int64_t cols) {
    return testing::random_parameter(options, name, rows, cols);
  };
  const int64_t d = config.hidden_size;

  auto expected = parameter("model.layers.0.input_layernorm.weight", 1, d);
  for (float& x : expected) x += 1;
  EXPECT_EQ(values("blk.0.attn_norm.weight"), expected);
  expected = parameter("model.layers.0.linear_attn.A_log", 1, config.linear_num_value_heads);
  for (float& x : expected) x = static_cast<float>(-std::exp(static_cast<double>(x)));
  EXPECT_EQ(values("blk.0.ssm_a"), expected);

  const std::string p = "model.layers.0.linear_attn.in_proj_";
  expected = parameter(p + "qkvz.q", config.linear_key_width(), d);
  for (const char* part : {"k", "v"}) {
    const auto more =
        parameter(p + "qkvz." + part, part[0] == 'k' ? config.linear_key_width() : config.linear_value_width(), d);
    expected.insert(expected.end(), more.begin(), more.end());
  }
  EXPECT_EQ(values("blk.0.attn_qkv.weight"), expected);

  // Of each key head the b, then the a, of its value heads.
  const auto b = parameter(p + "ba.b", config.linear_num_value_heads, d);
  const auto a = parameter(p + "ba.a", config.linear_num_value_heads, d);
  const auto group = static_cast<ptrdiff_t>(config.linear_num_value_heads / config.linear_num_key_heads * d);
  expected.clear();
  for (ptrdiff_t i = 0; i < static_cast<ptrdiff_t>(b.size()); i += group) {
    expected.insert(expected.end(), b.begin() + i, b.begin() + i + group);
    expected.insert(expected.end(), a.begin() + i, a.begin() + i + group);
  }
  EXPECT_EQ(values("blk.0.ssm_ba.weight"), expected);

  const auto last = parameter(fmt::format("model.layers.0.mlp.experts.{}.down_proj.weight", config.num_experts - 1),
                              d, config.moe_intermediate_size);
  const auto stacked = values("blk.0.ffn_down_exps.weight");
  EXPECT_TRUE(std::ranges::equal(std::span(stacked).last(last.size()), last));
}

}  // namespace
}  // namespace qnext
