#include "model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/safetensors.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using testing::CheckpointOptions;
using testing::CheckpointTensor;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

std::shared_ptr<const SafetensorsCheckpoint> open_checkpoint(const std::filesystem::path& directory) {
  return std::make_shared<SafetensorsCheckpoint>(directory);
}

/// The message of the error that binding these tensors ends in, or "bound".
std::string bind_error(const ModelConfig& config, const std::vector<CheckpointTensor>& tensors) {
  const TemporaryDirectory directory;
  testing::write_tensors(directory.path(), tensors);
  try {
    bind_weights(config, open_checkpoint(directory.path()));
  } catch (const FileError& error) {
    return error.what();
  }
  return "bound";
}

CheckpointTensor& tensor_named(std::vector<CheckpointTensor>& tensors, std::string_view name) {
  const auto it = std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
  QNEXT_CHECK(it != tensors.end(), "{}", name);
  return *it;
}

void remove_tensors(std::vector<CheckpointTensor>& tensors, std::string_view part_of_name) {
  const size_t erased =
      std::erase_if(tensors, [&](const auto& t) { return t.name.find(part_of_name) != std::string::npos; });
  QNEXT_CHECK(erased > 0, "{}", part_of_name);
}

/// A tensor whose element i (row-major, all dimensions) is i, which f32 holds exactly up to 2^24.
CheckpointTensor counting(const std::string& name, std::vector<int64_t> shape) {
  int64_t size = 1;
  for (int64_t dim : shape) size *= dim;
  std::vector<std::byte> bytes(static_cast<size_t>(size) * sizeof(float));
  for (int64_t i = 0; i < size; ++i) {
    const auto value = static_cast<float>(i);
    std::memcpy(bytes.data() + static_cast<size_t>(i) * sizeof(float), &value, sizeof(value));
  }
  return {name, "F32", std::move(shape), std::move(bytes)};
}

// ---- Row layouts, against the tables of the model's description -------------------------------------------------

TEST(BindWeights, UndoesTheGroupingOfTheDeltaNetProjections) {
  ModelConfig c = testing::tiny_config();  // 2 key heads of 16, 4 value heads of 24: groups of 2 * 16 + 4 * 24 rows
  auto tensors = testing::random_tensors(c, {.dtype = DType::kF32});
  tensor_named(tensors, "model.layers.0.linear_attn.in_proj_qkvz.weight") =
      counting("model.layers.0.linear_attn.in_proj_qkvz.weight", {2 * 128, 64});
  tensor_named(tensors, "model.layers.0.linear_attn.in_proj_ba.weight") =
      counting("model.layers.0.linear_attn.in_proj_ba.weight", {8, 64});
  const TemporaryDirectory directory;
  testing::write_tensors(directory.path(), tensors);
  const Weights weights = bind_weights(c, open_checkpoint(directory.path()));
  const auto& w = std::get<GatedDeltaNetWeights>(weights.layers[0].mixer);

  const auto expect_row = [](const Matrix& m, int64_t row, int64_t file_row) {
    EXPECT_EQ(m.at(row, 0), static_cast<float>(file_row * 64));
    EXPECT_EQ(m.at(row, 63), static_cast<float>(file_row * 64 + 63));
  };
  ASSERT_EQ(w.q.rows, 32);
  ASSERT_EQ(w.v.rows, 96);
  ASSERT_EQ(w.b.rows, 4);
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t i = 0; i < 16; ++i) {
      expect_row(w.q, head * 16 + i, head * 128 + i);
      expect_row(w.k, head * 16 + i, head * 128 + 16 + i);
    }
  }
  for (int64_t head = 0; head < 4; ++head) {  // value head j belongs to key head j / 2
    const int64_t base = head / 2 * 128 + 32 + head % 2 * 24;
    for (int64_t i = 0; i < 24; ++i) {
      expect_row(w.v, head * 24 + i, base + i);
      expect_row(w.z, head * 24 + i, base + 48 + i);
    }
    expect_row(w.b, head, head / 2 * 4 + head % 2);
    expect_row(w.a, head, head / 2 * 4 + 2 + head % 2);
  }
}

TEST(BindWeights, TakesQueryAndGateOutOfEachHead) {
  ModelConfig c = testing::tiny_config();  // 4 heads of 32
  auto tensors = testing::random_tensors(c, {.dtype = DType::kF32});
  tensor_named(tensors, "model.layers.3.self_attn.q_proj.weight") =
      counting("model.layers.3.self_attn.q_proj.weight", {256, 64});
  const TemporaryDirectory directory;
  testing::write_tensors(directory.path(), tensors);
  const Weights weights = bind_weights(c, open_checkpoint(directory.path()));
  const auto& w = std::get<GatedAttentionWeights>(weights.layers[3].mixer);
  ASSERT_EQ(w.q.rows, 128);
  for (int64_t row = 0; row < 128; ++row) {
    const int64_t file_row = row / 32 * 64 + row % 32;
    EXPECT_EQ(w.q.at(row, 5), static_cast<float>(file_row * 64 + 5));
    EXPECT_EQ(w.gate.at(row, 5), static_cast<float>((file_row + 32) * 64 + 5));
  }
}

TEST(BindWeights, SplitsFusedExpertsIntoGateAboveUp) {
  const ModelConfig c = testing::tiny_config();  // 8 experts of width 32
  auto tensors = testing::random_tensors(c, {.dtype = DType::kF32, .fused_experts = true});
  const std::string p = "model.layers.2.mlp.experts.";
  tensor_named(tensors, p + "gate_up_proj") = counting(p + "gate_up_proj", {8, 64, 64});
  tensor_named(tensors, p + "down_proj") = counting(p + "down_proj", {8, 64, 32});
  const TemporaryDirectory directory;
  testing::write_tensors(directory.path(), tensors);
  const Weights weights = bind_weights(c, open_checkpoint(directory.path()));
  const auto& experts = std::get<MoeWeights>(weights.layers[2].mlp).experts;
  ASSERT_EQ(experts.size(), 8u);
  for (int64_t e = 0; e < 8; ++e) {
    const MlpWeights& expert = experts[static_cast<size_t>(e)];
    ASSERT_EQ(expert.gate.rows, 32);
    ASSERT_EQ(expert.down.rows, 64);
    for (int64_t row = 0; row < 32; ++row) {
      EXPECT_EQ(expert.gate.at(row, 7), static_cast<float>((e * 64 + row) * 64 + 7));
      EXPECT_EQ(expert.up.at(row, 7), static_cast<float>((e * 64 + 32 + row) * 64 + 7));
      EXPECT_EQ(expert.down.at(row, 7), static_cast<float>((e * 64 + row) * 32 + 7));
    }
  }
}

TEST(BindWeights, MultipliesFp8ByTheScaleOfItsBlock) {
  ModelConfig c = testing::tiny_config();
  c.hidden_size = 200;           // two blocks of columns, the second cut short
  c.moe_intermediate_size = 72;  // gate and up share the middle block of the 144 fused rows
  auto tensors = testing::random_tensors(c, {.dtype = DType::kF8E4M3, .fused_experts = true});
  const std::string name = "model.layers.0.mlp.experts.gate_up_proj";
  tensor_named(tensors, name).bytes.assign(8 * 144 * 200, std::byte{0x40});  // 2.0
  tensor_named(tensors, name + "_scale_inv") = counting(name + "_scale_inv", {8, 2, 2});
  const TemporaryDirectory directory;
  testing::write_tensors(directory.path(), tensors);
  const Weights weights = bind_weights(c, open_checkpoint(directory.path()));
  const auto& experts = std::get<MoeWeights>(weights.layers[0].mlp).experts;
  for (int64_t e = 0; e < 8; ++e) {
    const MlpWeights& expert = experts[static_cast<size_t>(e)];
    for (int64_t row : {0, 55, 56, 71}) {
      for (int64_t col : {0, 127, 128, 199}) {
        EXPECT_EQ(expert.gate.at(row, col), static_cast<float>(2 * (4 * e + col / 128)));
        EXPECT_EQ(expert.up.at(row, col), static_cast<float>(2 * (4 * e + (72 + row) / 128 * 2 + col / 128)));
      }
    }
  }
}

// ---- Spellings ---------------------------------------------------------------------------------------------------

struct Spelling {
  const char* name;
  CheckpointOptions options;
  double tolerance;  // of an element, relative to itself
};

class EverySpelling : public ::testing::TestWithParam<Spelling> {};

TEST_P(EverySpelling, BindsTheSameParameters) {
  const auto& [name, options, tolerance] = GetParam();
  ModelConfig config = testing::tiny_config();
  config.hidden_size = 144;  // more than one block of scales
  const TemporaryDirectory directory;
  testing::write_random_checkpoint(directory.path(), config, options);
  const ModelConfig loaded = load_config(directory.path());
  const Weights weights = bind_weights(loaded, open_checkpoint(directory.path()));
  EXPECT_EQ(weights.mtp.has_value(), options.mtp);

  std::set<std::string> names;
  const auto check = [&](const std::string& parameter, int64_t rows, int64_t cols, const auto& element) {
    EXPECT_TRUE(names.insert(parameter).second) << parameter;
    const std::vector<float> expected = testing::random_parameter(options, parameter, rows, cols);
    // fp8 has 3 bits of mantissa down to 2^-6 of the scale and is absolute below: 2^-10 of the block's 448.
    const bool fp8 = options.dtype == DType::kF8E4M3;
    const double floor = fp8 ? 6 * options.linear_std / 448 * 0x1p-9 : 1e-7;
    for (int64_t i = 0; i < rows * cols; ++i) {
      const double e = expected[static_cast<size_t>(i)];
      const double found = element(i / cols, i % cols);
      if (std::fabs(found - e) <= std::fabs(e) * tolerance + floor) continue;
      FAIL() << parameter << " element " << i << ": expected " << e << ", found " << found;
    }
  };
  for_each_parameter(
      weights, {[&](const std::string& parameter, const Matrix& m) {
                  ASSERT_EQ(reinterpret_cast<uintptr_t>(m.data) % static_cast<uintptr_t>(dtype_size(m.dtype)), 0u);
                  check(parameter, m.rows, m.cols, [&](int64_t r, int64_t c) { return m.at(r, c); });
                },
                [&](const std::string& parameter, const Vector& v) {
                  check(parameter, 1, v.size, [&](int64_t, int64_t c) { return v[c]; });
                }});
  // embedding, norm, head; 3 DeltaNet layers of 13, one attention layer of 9; 3 MoE of 1 + 24 + 3 + 1, one dense of
  // 3; MTP: 4 + 9 + 29
  EXPECT_EQ(names.size(), static_cast<size_t>(3 + 3 * 13 + 9 + 3 * 29 + 3 + (options.mtp ? 42 : 0)));
}

INSTANTIATE_TEST_SUITE_P(
    Weights, EverySpelling,
    ::testing::Values(
        Spelling{"bf16", {}, 0x1p-8}, Spelling{"f32", {.dtype = DType::kF32}, 0},
        Spelling{"f16", {.dtype = DType::kF16}, 0x1p-11}, Spelling{"fp8", {.dtype = DType::kF8E4M3}, 0x1p-4},
        Spelling{"fp8_bf16_scales", {.dtype = DType::kF8E4M3, .bf16_scales = true}, 0x1p-4},
        Spelling{
            "fp8_fused_split", {.dtype = DType::kF8E4M3, .fused_experts = true, .split_projections = true}, 0x1p-4},
        Spelling{"fused", {.fused_experts = true}, 0x1p-8}, Spelling{"split", {.split_projections = true}, 0x1p-8},
        Spelling{"no_mtp", {.mtp = false}, 0x1p-8},
        Spelling{"language_model", {.language_model_prefix = true}, 0x1p-8},
        Spelling{"legacy_config", {.legacy_config = true}, 0x1p-8}, Spelling{"five_shards", {.shards = 5}, 0x1p-8}),
    [](const auto& param) { return param.param.name; });

TEST(BindWeights, AnUnalignedTensorIsCopied) {
  // 1 byte of U8 in front of everything would be left over, so the header is made odd instead: one trailing space.
  const ModelConfig c = testing::tiny_config();
  const TemporaryDirectory directory;
  testing::write_random_checkpoint(directory.path(), c, {.dtype = DType::kF32});
  const std::filesystem::path path = directory / "model.safetensors";
  std::string text = read_text_file(path, 100 << 20);
  uint64_t header_size = 0;
  std::memcpy(&header_size, text.data(), sizeof(header_size));
  text.insert(8 + header_size, " ");
  header_size += 1;
  std::memcpy(text.data(), &header_size, sizeof(header_size));
  testing::write_file(path, text);

  const Weights weights = bind_weights(c, open_checkpoint(directory.path()));
  EXPECT_FALSE(weights.owned_bytes.empty());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(weights.embedding.data) % sizeof(float), 0u);
  const std::vector<float> expected = testing::random_parameter({}, "model.embed_tokens.weight", 160, 64);
  for (int64_t i = 0; i < 160 * 64; ++i)
    EXPECT_EQ(weights.embedding.at(i / 64, i % 64), expected[static_cast<size_t>(i)]);
}

TEST(BindWeights, MatricesAreMapped) {
  const TemporaryDirectory directory;
  testing::write_random_checkpoint(directory.path(), testing::tiny_config());
  const Weights weights = bind_weights(testing::tiny_config(), open_checkpoint(directory.path()));
  EXPECT_TRUE(weights.owned_bytes.empty());
  const auto& q = std::get<GatedAttentionWeights>(weights.layers[3].mixer).q;
  EXPECT_EQ(q.data, weights.checkpoint->find("model.layers.3.self_attn.q_proj.weight")->bytes.data());
}

TEST(BindWeights, TiedHead) {
  ModelConfig c = testing::tiny_config();
  auto both = testing::random_tensors(c);
  c.tie_word_embeddings = true;
  auto bind = [&](const std::vector<CheckpointTensor>& tensors) {
    const TemporaryDirectory directory;
    testing::write_tensors(directory.path(), tensors);
    return bind_weights(c, open_checkpoint(directory.path()));
  };
  {
    auto tensors = both;
    remove_tensors(tensors, "lm_head");
    const Weights w = bind(tensors);
    EXPECT_EQ(w.lm_head.data, w.embedding.data);
    EXPECT_EQ(w.lm_head.rows, 160);
  }
  {
    auto tensors = both;
    remove_tensors(tensors, "embed_tokens");
    const Weights w = bind(tensors);
    EXPECT_EQ(w.lm_head.data, w.embedding.data);
    EXPECT_EQ(w.lm_head.data, w.checkpoint->find("lm_head.weight")->bytes.data());
  }
  const Weights w = bind(both);  // two tensors are two, as in transformers 5
  EXPECT_EQ(w.lm_head.data, w.checkpoint->find("lm_head.weight")->bytes.data());
  EXPECT_EQ(w.embedding.data, w.checkpoint->find("model.embed_tokens.weight")->bytes.data());
}

TEST(BindWeights, DenseModel) {
  ModelConfig c = testing::tiny_config();
  c.num_experts = c.num_experts_per_tok = c.moe_intermediate_size = c.shared_expert_intermediate_size = 0;
  c.layer_is_moe.assign(4, false);
  const TemporaryDirectory directory;
  testing::write_random_checkpoint(directory.path(), c);
  const ModelConfig loaded = load_config(directory.path());
  const Weights weights = bind_weights(loaded, open_checkpoint(directory.path()));
  EXPECT_EQ(std::get<MlpWeights>(weights.layers[0].mlp).gate.rows, 96);
  EXPECT_EQ(std::get<MlpWeights>(weights.mtp->layer.mlp).gate.rows, 96);
  const ParameterCount count = count_parameters(loaded, weights);
  EXPECT_GT(count.active, 0);
}

// ---- What is wrong with a checkpoint -----------------------------------------------------------------------------

TEST(BindWeights, RefusesAMissingTensor) {
  const ModelConfig c = testing::tiny_config();
  const auto complete = testing::random_tensors(c);
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.0.linear_attn.A_log",
        "model.layers.3.self_attn.k_norm.weight", "model.layers.2.mlp.experts.7.up_proj.weight",
        "model.layers.1.mlp.down_proj.weight", "mtp.norm.weight", "mtp.layers.0.mlp.shared_expert_gate.weight"}) {
    auto tensors = complete;
    remove_tensors(tensors, name);
    EXPECT_THAT(bind_error(c, tensors),
                AllOf(HasSubstr(std::string("tensor ") + name + ": expected ["), HasSubstr("no such tensor")));
  }
}

TEST(BindWeights, RefusesTensorsLeftOver) {
  const ModelConfig c = testing::tiny_config();
  auto tensors = testing::random_tensors(c);
  tensors.push_back(counting("model.layers.4.input_layernorm.weight", {64}));
  EXPECT_THAT(bind_error(c, tensors), AllOf(HasSubstr("model.safetensors: tensors: expected only parameters"),
                                            HasSubstr("1 others: \"model.layers.4.input_layernorm.weight\" [64]")));
  for (int i = 0; i < 9; ++i) tensors.push_back(counting(fmt::format("x{}", i), {1}));
  EXPECT_THAT(bind_error(c, tensors), AllOf(HasSubstr("10 others"), HasSubstr(", ...")));

  // Biases would change results: refused. The rotary frequencies of old savers repeat the config: ignored.
  tensors = testing::random_tensors(c);
  tensors.push_back(counting("model.layers.3.self_attn.q_proj.bias", {256}));
  EXPECT_THAT(bind_error(c, tensors), HasSubstr("q_proj.bias"));
  tensors.back() = counting("model.rotary_emb.inv_freq", {4});
  EXPECT_EQ(bind_error(c, tensors), "bound");

  tensors = testing::random_tensors(c, {.dtype = DType::kF8E4M3});
  tensors.push_back(counting("model.layers.3.self_attn.q_proj.input_scale", {1}));
  EXPECT_THAT(bind_error(c, tensors), HasSubstr("q_proj.input_scale"));
}

TEST(BindWeights, RefusesAWrongShape) {
  const ModelConfig c = testing::tiny_config();
  const auto complete = testing::random_tensors(c);
  for (const auto& [name, shape, expected] :
       {std::tuple("model.layers.0.linear_attn.conv1d.weight", std::vector<int64_t>{160, 4, 1}, "[160, 1, 4]"),
        std::tuple("model.layers.0.linear_attn.in_proj_qkvz.weight", std::vector<int64_t>{64, 256}, "[256, 64]"),
        std::tuple("model.layers.2.mlp.experts.7.up_proj.weight", std::vector<int64_t>{32, 63}, "[32, 64]"),
        std::tuple("model.embed_tokens.weight", std::vector<int64_t>{10240}, "[160, 64]"),
        std::tuple("mtp.fc.weight", std::vector<int64_t>{0, 128}, "[64, 128]")}) {
    auto tensors = complete;
    tensor_named(tensors, name) = counting(name, shape);
    EXPECT_THAT(bind_error(c, tensors),
                AllOf(HasSubstr("model.safetensors: tensor "), HasSubstr(name),
                      HasSubstr(fmt::format("expected {}, found [{}]", expected, fmt::join(shape, ", ")))));
  }
}

TEST(BindWeights, RefusesAWrongType) {
  const ModelConfig c = testing::tiny_config();
  const auto complete = testing::random_tensors(c, {.dtype = DType::kF8E4M3});
  const auto with_type = [&](const char* name, const char* dtype, int64_t element_bytes) {
    auto tensors = complete;
    CheckpointTensor& tensor = tensor_named(tensors, name);
    tensor.dtype_text = dtype;
    int64_t size = element_bytes;
    for (int64_t dim : tensor.shape) size *= dim;
    tensor.bytes.resize(static_cast<size_t>(size));
    return bind_error(c, tensors);
  };
  EXPECT_THAT(with_type("lm_head.weight", "I16", 2),
              HasSubstr("tensor lm_head.weight dtype: expected F32, F16, BF16, F8_E4M3 or a known block type, found I16"));
  EXPECT_THAT(with_type("model.norm.weight", "F8_E4M3", 1),
              HasSubstr("tensor model.norm.weight dtype: expected F32, F16 or BF16, found F8_E4M3"));
  EXPECT_THAT(with_type("model.layers.3.self_attn.k_proj.weight_scale_inv", "F8_E8M0", 1),
              HasSubstr("k_proj.weight_scale_inv dtype: expected F32, F16 or BF16, found F8_E8M0"));
  EXPECT_THAT(with_type("lm_head.weight", "F8_E4M3", 1),
              HasSubstr("tensor lm_head.weight_scale_inv: expected [2, 1], found no such tensor"));
}

TEST(BindWeights, MtpIsAllOrNothingAndAsAnnounced) {
  ModelConfig c = testing::tiny_config();
  auto without = testing::random_tensors(c, {.mtp = false});
  c.num_mtp_layers = 1;
  EXPECT_THAT(bind_error(c, without), HasSubstr("tensor mtp.pre_fc_norm_embedding.weight"));
  c.num_mtp_layers = 0;
  EXPECT_EQ(bind_error(c, without), "bound");
  EXPECT_THAT(bind_error(c, testing::random_tensors(c)), HasSubstr("others: \"mtp.fc.weight\""));
  c.num_mtp_layers.reset();
  without.push_back(counting("mtp.norm.weight", {64}));
  EXPECT_THAT(bind_error(c, without), HasSubstr("tensor mtp.pre_fc_norm_embedding.weight"));
}

// ---- Counting ----------------------------------------------------------------------------------------------------

TEST(CountParameters, TheFormulasOfTheReleasedModel) {
  // The counts of the 80B follow from the sizes alone (docs/model.md); here the same formulas at small sizes.
  const ModelConfig c = testing::tiny_config();
  const TemporaryDirectory directory;
  testing::write_random_checkpoint(directory.path(), c);
  const Weights weights = bind_weights(c, open_checkpoint(directory.path()));
  const int64_t d = 64, expert = 3 * d * 32;
  const int64_t delta_net = (256 + 8) * d + 160 * 4 + 4 + 4 + 24 + d * 96,
                attention = 256 * d + 2 * 64 * d + 2 * 32 + d * 128;
  const int64_t moe_without_experts = 8 * d + 3 * d * 40 + d, dense = 3 * d * 96, norms = 2 * d, vocabulary = 160 * d;
  const int64_t layers = 3 * delta_net + attention + 3 * moe_without_experts + dense + 4 * norms;
  const int64_t mtp = 2 * d * d + 3 * d + attention + moe_without_experts + 8 * expert + norms;
  const ParameterCount count = count_parameters(c, weights);
  EXPECT_EQ(count.total, 2 * vocabulary + layers + 3 * 8 * expert + d + mtp);
  EXPECT_EQ(count.active, vocabulary + layers + 3 * 3 * expert + d);
}

}  // namespace
}  // namespace qnext
