#include "model/gguf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"
#include "formats/safetensors.h"
#include "model/testing/gguf_file.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using testing::GgufTensorData;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

/// A checkpoint of tensors without data.
class NamesOnly final : public Checkpoint {
 public:
  explicit NamesOnly(const std::vector<StoredTensor>& tensors) : Checkpoint("names.gguf") {
    for (const StoredTensor& tensor : tensors) tensors_[tensor.name].shape = tensor.shape;
  }
  int64_t file_bytes() const override { return 0; }
};

GgufMetadata metadata_of(const ModelConfig& config, const StoredParts& parts = {}) {
  GgufMetadata metadata;
  add_config(config, parts, metadata);
  return metadata;
}

ModelConfig round_trip(const ModelConfig& config, const StoredParts& parts = {}) {
  return config_from_gguf(metadata_of(config, parts), NamesOnly(gguf_tensors(config, parts)), "f.gguf");
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

/// What reading the tiny configuration is answered after `change`.
std::string error_after(const std::function<void(GgufMetadata&)>& change) {
  const ModelConfig config = testing::tiny_config();
  GgufMetadata metadata = metadata_of(config);
  change(metadata);
  return error_of([&] { config_from_gguf(metadata, NamesOnly(gguf_tensors(config, {})), "f.gguf"); });
}
std::string error_with(std::string_view key, GgufValue value) {
  return error_after([&](GgufMetadata& m) { m.set(fmt::format("qwen3next.{}", key), std::move(value)); });
}

void expect_equal(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.layer_types, b.layer_types);
  EXPECT_EQ(a.layer_is_moe, b.layer_is_moe);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.tie_word_embeddings, b.tie_word_embeddings);
  EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);
  EXPECT_EQ(a.num_attention_heads, b.num_attention_heads);
  EXPECT_EQ(a.num_key_value_heads, b.num_key_value_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.rope.theta, b.rope.theta);
  EXPECT_EQ(a.rope.dims, b.rope.dims);
  EXPECT_EQ(a.rope.yarn, b.rope.yarn);
  EXPECT_EQ(a.rope.factor, b.rope.factor);
  EXPECT_EQ(a.rope.original_max_position_embeddings, b.rope.original_max_position_embeddings);
  EXPECT_EQ(a.rope.beta_fast, b.rope.beta_fast);
  EXPECT_EQ(a.rope.beta_slow, b.rope.beta_slow);
  EXPECT_NEAR(a.rope.attention_factor, b.rope.attention_factor, 1e-6);
  EXPECT_EQ(a.linear_num_key_heads, b.linear_num_key_heads);
  EXPECT_EQ(a.linear_num_value_heads, b.linear_num_value_heads);
  EXPECT_EQ(a.linear_key_head_dim, b.linear_key_head_dim);
  EXPECT_EQ(a.linear_value_head_dim, b.linear_value_head_dim);
  EXPECT_EQ(a.linear_conv_kernel_dim, b.linear_conv_kernel_dim);
  EXPECT_EQ(a.num_experts, b.num_experts);
  EXPECT_EQ(a.num_experts_per_tok, b.num_experts_per_tok);
  EXPECT_EQ(a.moe_intermediate_size, b.moe_intermediate_size);
  EXPECT_EQ(a.shared_expert_intermediate_size, b.shared_expert_intermediate_size);
  EXPECT_EQ(a.norm_topk_prob, b.norm_topk_prob);
}

TEST(GgufConfig, ComesBack) {
  ModelConfig config = testing::tiny_config();  // has a dense layer, which the tensors say
  expect_equal(config, round_trip(config));
  EXPECT_EQ(round_trip(config).num_mtp_layers, 0);
  const ModelConfig with_mtp = round_trip(config, {.tied_head = true, .mtp = true});
  EXPECT_EQ(with_mtp.num_layers(), config.num_layers());
  EXPECT_EQ(with_mtp.num_mtp_layers, 1);
  EXPECT_TRUE(with_mtp.tie_word_embeddings);

  config.norm_topk_prob = false;
  config.rms_norm_eps = 3e-5;
  config.rope.theta = 5e6;
  config.layer_types = {LayerKind::kFullAttention, LayerKind::kLinearAttention, LayerKind::kLinearAttention,
                        LayerKind::kLinearAttention};  // no interval
  expect_equal(config, round_trip(config));
  EXPECT_EQ(round_trip(config, {.mtp = true}).layer_types, config.layer_types);

  config.rope.yarn = true;
  config.rope.factor = 4;
  config.rope.original_max_position_embeddings = 1024;
  config.max_position_embeddings = 4096;
  config.rope.beta_fast = 31;
  for (const double attention_factor : {0.1 * std::log(4.0) + 1, 1.0, 0.75}) {
    config.rope.attention_factor = attention_factor;
    expect_equal(config, round_trip(config));
  }
  config.rope.truncate = false;
  EXPECT_THAT(error_of([&] { metadata_of(config); }), HasSubstr("GGUF has no key for rope_parameters.truncate"));
}

TEST(GgufConfig, AnIntervalIsFourWhereNoneIsSaid) {
  ModelConfig config = testing::tiny_config();
  const GgufMetadata all = metadata_of(config);
  GgufMetadata metadata;
  for (const auto& [key, value] : all.entries()) {
    if (!key.ends_with("full_attention_interval")) metadata.set(key, value);
  }
  const ModelConfig read = config_from_gguf(metadata, NamesOnly(gguf_tensors(config, {})), "f.gguf");
  for (int64_t i = 0; i < read.num_layers(); ++i) {
    EXPECT_EQ(read.layer_types[static_cast<size_t>(i)] == LayerKind::kFullAttention, i % 4 == 3);
  }
}

TEST(GgufConfig, RefusesBadKeys) {
  EXPECT_EQ(error_after([](GgufMetadata&) {}), "none");
  EXPECT_THAT(error_after([](GgufMetadata& m) { m.set("general.architecture", "llama"); }),
              HasSubstr("f.gguf: general.architecture: expected \"qwen3next\", found \"llama\""));
  EXPECT_THAT(error_of([] { config_from_gguf({}, NamesOnly({}), "f.gguf"); }),
              HasSubstr("general.architecture: expected \"qwen3next\", found nothing"));
  EXPECT_THAT(error_with("embedding_length", 0), HasSubstr("qwen3next.embedding_length: expected an integer from 1"));
  EXPECT_THAT(
      error_with("embedding_length", INT32_MAX),
      HasSubstr("f.gguf: qwen3next.embedding_length: expected"));  // parse_config's limit, in this format's words
  EXPECT_THAT(error_with("embedding_length", "large"), HasSubstr("found \"large\""));
  EXPECT_THAT(error_with("attention.head_count_kv", 3),
              HasSubstr("qwen3next.attention.head_count_kv: expected a divisor"));
  EXPECT_THAT(error_with("attention.value_length", 999), HasSubstr("attention.value_length: expected"));
  EXPECT_THAT(error_with("attention.layer_norm_rms_epsilon", std::numeric_limits<float>::quiet_NaN()),
              HasSubstr("layer_norm_rms_epsilon: expected a number"));
  EXPECT_THAT(error_with("block_count", uint64_t{1} << 63), HasSubstr("block_count: expected an integer from 1 to"));
  EXPECT_THAT(error_with("nextn_predict_layers", 2),
              HasSubstr("nextn_predict_layers: expected an integer from 0 to 1"));
  EXPECT_THAT(error_with("rope.dimension_count", 1), HasSubstr("rope.dimension_count: expected an integer from 2"));
  EXPECT_THAT(error_with("rope.dimension_count", 3),
              HasSubstr("qwen3next.rope.dimension_count: expected a fraction"));
  EXPECT_THAT(error_with("rope.scaling.type", "linear"),
              HasSubstr("rope.scaling.type: expected \"yarn\" or \"none\""));
  EXPECT_EQ(error_with("rope.scaling.type", "none"), "none");
  EXPECT_THAT(error_with("rope.scaling.type", "yarn"), HasSubstr("rope.scaling.factor: expected a number from 1"));
  EXPECT_THAT(error_with("ssm.inner_size", 1),
              HasSubstr("ssm.inner_size: expected a multiple of ssm.time_step_rank"));
  EXPECT_THAT(error_with("attention.recurrent_layers", GgufArray(std::vector<bool>{true})),
              HasSubstr("attention.recurrent_layers: expected an array of"));
  EXPECT_THAT(error_with("expert_used_count", 1000), HasSubstr("qwen3next.expert_used_count: expected"));
}

TEST(GgufConfig, RefusesAVocabularyWhoseSizeDisagrees) {
  EXPECT_THAT(error_after([](GgufMetadata& m) {
                m.set("tokenizer.ggml.tokens", GgufArray(std::vector<std::string>{"a", "b"}));
              }),
              AllOf(HasSubstr("tokenizer.ggml.tokens: expected"), HasSubstr("one for each row of token_embd.weight"),
                    HasSubstr("found an array of 2 string")));
  EXPECT_THAT(error_of([] { config_from_gguf(metadata_of(testing::tiny_config()), NamesOnly({}), "f.gguf"); }),
              HasSubstr("tensor token_embd.weight: expected the embedding, found no such tensor"));
}

TEST(GenerationConfigFromGguf, ComesBack) {
  GenerationConfig g;
  g.do_sample = true;
  g.temperature = 0.7;
  g.top_p = 0.8;
  g.top_k = 20;
  GgufMetadata metadata;
  add_generation_config(g, metadata);
  metadata.set("tokenizer.ggml.eos_token_id", 7);
  metadata.set("tokenizer.ggml.eot_token_id", uint32_t{8});
  const GenerationConfig read = generation_config_from_gguf(metadata, "f.gguf");
  EXPECT_EQ(read.temperature, 0.7);
  EXPECT_EQ(read.top_p, 0.8);
  EXPECT_EQ(read.top_k, 20);
  EXPECT_EQ(read.min_p, std::nullopt);
  EXPECT_EQ(read.do_sample, true);
  EXPECT_EQ(read.eos_token_ids, (std::vector<int32_t>{7, 8}));
  g.do_sample = false;
  add_generation_config(g, metadata);
  EXPECT_EQ(generation_config_from_gguf(metadata, "f.gguf").do_sample, false);
  metadata.set("general.sampling.top_p", 7.0f);
  EXPECT_THAT(error_of([&] { generation_config_from_gguf(metadata, "f.gguf"); }),
              HasSubstr("general.sampling.top_p"));
}

// ---- Binding ------------------------------------------------------------------------------------------------------

class BindGguf : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_random_checkpoint(directory_ / "hf", config_, {.dtype = DType::kBF16});
    original_ = bind_weights(config_, std::make_shared<SafetensorsCheckpoint>(directory_ / "hf"));
    tensors_ = testing::gguf_tensor_data(config_, original_, DType::kBF16);
  }
  GgufTensorData& tensor(std::string_view name) {
    return *std::ranges::find(tensors_, name, [](const GgufTensorData& t) { return t.spec.name; });
  }
  Weights bind() {
    const auto path = directory_ / "m.gguf";
    testing::write_gguf(path, metadata_of(config_, stored_parts(original_)), tensors_);
    const auto checkpoint = std::make_shared<GgufCheckpoint>(path);
    return bind_weights(config_from_gguf(checkpoint->metadata(), *checkpoint, path), checkpoint);
  }
  std::string bind_error() {
    return error_of([this] { bind(); });
  }
  /// Every parameter, bit for bit.
  void expect_original(const Weights& weights) const {
    const ParameterReader a(original_), b(weights);
    const auto all = hugging_face_tensors(config_, stored_parts(original_));
    for (const StoredTensor& stored : all) {
      std::vector<float> x(static_cast<size_t>(stored.row_count() * stored.cols())), y(x.size());
      a.read(stored, 0, stored.row_count(), x);
      b.read(stored, 0, stored.row_count(), y);
      if (stored.name.ends_with("norm.weight")) {  // 1 + x is rounded to f32 in the file
        for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 6e-8) << stored.name;
      } else {
        ASSERT_EQ(x, y) << stored.name;
      }
    }
  }

  const ModelConfig config_ = testing::tiny_config();
  const TemporaryDirectory directory_;
  Weights original_;
  std::vector<GgufTensorData> tensors_;
};

TEST_F(BindGguf, GivesTheParametersOfTheOriginal) { expect_original(bind()); }

TEST_F(BindGguf, AcceptsLegacyProjectionsAndFusedExperts) {
  const auto hf = hugging_face_tensors(config_, stored_parts(original_));
  const ParameterReader reader(original_);
  for (int64_t i = 0; i < config_.num_layers(); ++i) {
    const std::string b = fmt::format("blk.{}.", i);
    if (config_.layer_types[static_cast<size_t>(i)] == LayerKind::kLinearAttention) {
      const auto name = fmt::format("model.layers.{}.linear_attn.in_proj_qkvz.weight", i);
      const StoredTensor& source = *std::ranges::find(hf, name, &StoredTensor::name);
      std::vector<float> values(static_cast<size_t>(source.row_count() * source.cols()));
      reader.read(source, 0, source.row_count(), values);
      GgufTensorData& qkv = tensor(b + "attn_qkv.weight");
      qkv.spec = {b + "ssm_in.weight", DType::kF32, source.shape};
      const auto bytes = std::as_bytes(std::span(values));
      qkv.bytes.assign(bytes.begin(), bytes.end());
      std::erase_if(tensors_, [&](const GgufTensorData& t) { return t.spec.name == b + "attn_gate.weight"; });
    }
    if (!config_.layer_is_moe[static_cast<size_t>(i)]) continue;
    const GgufTensorData up = tensor(b + "ffn_up_exps.weight");
    GgufTensorData& gate = tensor(b + "ffn_gate_exps.weight");
    const size_t half = up.bytes.size() / static_cast<size_t>(config_.num_experts);
    std::vector<std::byte> fused;
    for (size_t at = 0; at < up.bytes.size(); at += half) {
      for (const auto& part : {std::cref(std::as_const(gate)), std::cref(up)}) {
        fused.insert(fused.end(), part.get().bytes.begin() + static_cast<ptrdiff_t>(at),
                     part.get().bytes.begin() + static_cast<ptrdiff_t>(at + half));
      }
    }
    gate.spec.name = b + "ffn_gate_up_exps.weight";
    gate.spec.shape[1] *= 2;
    gate.bytes = fused;
    std::erase_if(tensors_, [&](const GgufTensorData& t) { return t.spec.name == up.spec.name; });
  }
  expect_original(bind());
}

TEST_F(BindGguf, TakesEveryTypeForMatricesAndPlainOnesForVectors) {
  const auto with_type = [this](const std::string& name, DType dtype) {
    SetUp();
    GgufTensorData& data = tensor(name);
    int64_t elements = 1;
    for (int64_t size : data.spec.shape) elements *= size;
    data.spec.dtype = dtype;
    data.bytes.assign(static_cast<size_t>(bytes_of(dtype, elements)), std::byte{0});
  };
  for (const DType dtype : kAllDTypes) {
    if (!gguf_type_of(dtype)) continue;
    // Rows are whole blocks only where the width allows; the others are refused when the file is read.
    if (config_.hidden_size % block_elements(dtype) == 0) {
      with_type("blk.0.attn_qkv.weight", dtype);
      const Weights weights = bind();
      const auto& mixer = std::get<GatedDeltaNetWeights>(weights.layers[0].mixer);
      EXPECT_EQ(mixer.v.dtype, dtype);
      EXPECT_EQ(mixer.v.rows, config_.linear_value_width());
      EXPECT_EQ(weights.checkpoint->find("blk.0.attn_qkv.weight")->dtype_text, dtype_name(dtype));
    }
    with_type("blk.0.attn_norm.weight", is_block_type(dtype) ? DType::kF16 : dtype);
    EXPECT_EQ(bind_error(), "none");
  }
  with_type("blk.0.attn_norm.weight", DType::kQ8_0);
  EXPECT_THAT(bind_error(), HasSubstr("tensor blk.0.attn_norm.weight dtype: expected F32, F16 or BF16, found Q8_0"));
}

TEST_F(BindGguf, RefusesWhatDoesNotFit) {
  tensor("blk.0.ssm_out.weight").spec.name = "blk.0.ssm_owt.weight";
  EXPECT_THAT(bind_error(), HasSubstr("tensor blk.0.ssm_out.weight: expected ["));
  SetUp();
  tensors_.push_back({{"blk.99.attn_q.weight", DType::kF32, {1}}, std::vector<std::byte>(4)});
  EXPECT_THAT(bind_error(), HasSubstr("found 1 others: \"blk.99.attn_q.weight\" [1]"));
  SetUp();
  std::swap(tensor("blk.0.ssm_out.weight").spec.shape[0], tensor("blk.0.ssm_out.weight").spec.shape[1]);
  EXPECT_THAT(bind_error(), HasSubstr("tensor blk.0.ssm_out.weight: expected ["));
  SetUp();
  tensor("blk.0.ssm_a").bytes.assign(tensor("blk.0.ssm_a").bytes.size(), std::byte{0});
  EXPECT_THAT(bind_error(), HasSubstr("tensor blk.0.ssm_a[0]: expected a negative number"));
}

}  // namespace
}  // namespace qnext
