#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/testing/temporary_directory.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

/// config.json of the released 80B-A3B (Instruct), without the fields nobody reads.
const char* kReleased = R"({
  "architectures": ["Qwen3NextForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
  "decoder_sparse_step": 1, "eos_token_id": 151645, "full_attention_interval": 4, "head_dim": 256,
  "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5120,
  "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
  "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_next",
  "moe_intermediate_size": 512, "norm_topk_prob": true, "num_attention_heads": 16, "num_experts": 512,
  "num_experts_per_tok": 10, "num_hidden_layers": 48, "num_key_value_heads": 2, "output_router_logits": false,
  "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000000,
  "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 512, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.57.0.dev0", "use_cache": true, "use_sliding_window": false,
  "vocab_size": 151936})";

/// The released config with fields changed; a field set to "REMOVED" is removed.
ModelConfig with(const json& changes) {
  json config = json::parse(kReleased);
  for (const auto& [key, value] : changes.items()) {
    if (value == "REMOVED") {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return parse_config(config.dump(), "config.json");
}

std::string error_with(const json& changes) {
  try {
    with(changes);
  } catch (const FileError& error) {
    return error.what();
  }
  return "none";
}

// ---- What is read ------------------------------------------------------------------------------------------------

TEST(ParseConfig, TheReleasedModel) {
  const ModelConfig c = parse_config(kReleased, "config.json");
  EXPECT_EQ(c.vocab_size, 151936);
  EXPECT_EQ(c.hidden_size, 2048);
  ASSERT_EQ(c.num_layers(), 48);
  for (size_t i = 0; i < 48; ++i) {
    EXPECT_EQ(c.layer_types[i], i % 4 == 3 ? LayerKind::kFullAttention : LayerKind::kLinearAttention);
    EXPECT_TRUE(c.layer_is_moe[i]);
  }
  EXPECT_EQ(c.intermediate_size, 5120);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.max_position_embeddings, 262144);
  EXPECT_EQ(c.num_attention_heads, 16);
  EXPECT_EQ(c.num_key_value_heads, 2);
  EXPECT_EQ(c.head_dim, 256);
  EXPECT_EQ(c.rope.theta, 1e7);
  EXPECT_EQ(c.rope.dims, 64);
  EXPECT_FALSE(c.rope.yarn);
  EXPECT_EQ(c.rope.attention_factor, 1.0);
  EXPECT_EQ(c.linear_num_key_heads, 16);
  EXPECT_EQ(c.linear_num_value_heads, 32);
  EXPECT_EQ(c.linear_key_head_dim, 128);
  EXPECT_EQ(c.linear_value_head_dim, 128);
  EXPECT_EQ(c.linear_conv_kernel_dim, 4);
  EXPECT_EQ(c.linear_conv_width(), 8192);
  EXPECT_EQ(c.num_experts, 512);
  EXPECT_EQ(c.num_experts_per_tok, 10);
  EXPECT_EQ(c.moe_intermediate_size, 512);
  EXPECT_EQ(c.shared_expert_intermediate_size, 512);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.num_mtp_layers, std::nullopt);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int32_t>{151645}));
}

TEST(ParseConfig, EverySpellingOfTheRotarySettings) {
  // Each setting: rope_scaling before rope_parameters before the top level.
  EXPECT_EQ(with({{"rope_theta", 5e6}}).rope.theta, 5e6);
  EXPECT_EQ(with({{"rope_parameters", {{"rope_theta", 5e6}}}}).rope.theta, 5e6);
  EXPECT_EQ(with({{"rope_theta", "REMOVED"}}).rope.theta, 1e4);
  EXPECT_EQ(with({{"partial_rotary_factor", 0.5}}).rope.dims, 128);
  EXPECT_EQ(with({{"partial_rotary_factor", 1}}).rope.dims, 256);
  EXPECT_EQ(with({{"partial_rotary_factor", "REMOVED"}}).rope.dims, 64);
  EXPECT_EQ(with({{"partial_rotary_factor", nullptr}}).rope.dims, 64);
  EXPECT_EQ(with({{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}).rope.dims, 128);
  EXPECT_FALSE(with({{"rope_parameters", {{"rope_type", "default"}}}}).rope.yarn);
  EXPECT_FALSE(with({{"rope_scaling", {{"type", "default"}}}}).rope.yarn);

  const json yarn = {{"factor", 4.0}, {"original_max_position_embeddings", 262144}};
  for (const char* object : {"rope_scaling", "rope_parameters"}) {
    for (const char* type : {"type", "rope_type"}) {
      json settings = yarn;
      settings[type] = "yarn";
      const ModelConfig c = with({{object, settings}});
      EXPECT_TRUE(c.rope.yarn);
      EXPECT_EQ(c.rope.theta, 1e7);
      EXPECT_EQ(c.rope.dims, 64);
      EXPECT_EQ(c.rope.factor, 4.0);
      EXPECT_EQ(c.rope.original_max_position_embeddings, 262144);
      EXPECT_EQ(c.rope.beta_fast, 32.0);
      EXPECT_EQ(c.rope.beta_slow, 1.0);
      EXPECT_NEAR(c.rope.attention_factor, 1.138629436, 1e-9);
      EXPECT_TRUE(c.rope.truncate);
      EXPECT_EQ(c.max_position_embeddings, 1048576);
    }
  }
  // The card's advice applied to a config that transformers 5 wrote: both objects at once.
  json scaling = yarn;
  scaling["rope_type"] = "yarn";
  const ModelConfig both =
      with({{"rope_theta", "REMOVED"},
            {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e6}, {"partial_rotary_factor", 0.5}}},
            {"rope_scaling", scaling}});
  EXPECT_TRUE(both.rope.yarn);
  EXPECT_EQ(both.rope.theta, 5e6);
  EXPECT_EQ(both.rope.dims, 128);
}

TEST(ParseConfig, YarnDetails) {
  const auto yarn = [](json settings) {
    settings["rope_type"] = "yarn";
    return with({{"rope_parameters", settings}});
  };
  EXPECT_NEAR(yarn({{"factor", 2}}).rope.attention_factor, 1.069314718, 1e-9);
  EXPECT_EQ(yarn({{"factor", 2}}).rope.original_max_position_embeddings, 262144);
  EXPECT_EQ(yarn({{"factor", 1}}).rope.attention_factor, 1.0);
  // Without a factor: the ratio of the lengths, as in transformers.
  EXPECT_EQ(yarn({{"original_max_position_embeddings", 65536}}).rope.factor, 4.0);
  EXPECT_EQ(yarn({{"original_max_position_embeddings", 65536}}).max_position_embeddings, 262144);
  EXPECT_EQ(yarn({{"factor", 2}, {"attention_factor", 1.5}}).rope.attention_factor, 1.5);
  EXPECT_EQ(yarn({{"factor", 2}, {"attention_factor", nullptr}, {"beta_fast", 16}}).rope.beta_fast, 16.0);
  EXPECT_EQ(yarn({{"factor", 2}, {"beta_slow", 2}}).rope.beta_slow, 2.0);
  EXPECT_FALSE(yarn({{"factor", 2}, {"truncate", false}}).rope.truncate);
  EXPECT_EQ(yarn({{"factor", 40}, {"mscale", 1}, {"mscale_all_dim", 1}}).rope.attention_factor, 1.0);
  EXPECT_NEAR(yarn({{"factor", 40}, {"mscale", 1.0}, {"mscale_all_dim", 0.5}}).rope.attention_factor,
              (0.1 * std::log(40.0) + 1) / (0.05 * std::log(40.0) + 1), 1e-12);
  EXPECT_NEAR(yarn({{"factor", 40}, {"mscale", 0.707}}).rope.attention_factor, 0.1 * std::log(40.0) + 1, 1e-12);
}

TEST(ParseConfig, LayerKinds) {
  using enum LayerKind;
  EXPECT_EQ(with({{"num_hidden_layers", 3}, {"full_attention_interval", 2}}).layer_types,
            (std::vector{kLinearAttention, kFullAttention, kLinearAttention}));
  EXPECT_EQ(with({{"num_hidden_layers", 3}, {"full_attention_interval", 1}}).layer_types,
            (std::vector{kFullAttention, kFullAttention, kFullAttention}));
  // The list wins over the interval; "attention" is SGLang's name.
  EXPECT_EQ(with({{"num_hidden_layers", 3}, {"layer_types", {"full_attention", "linear_attention", "attention"}}})
                .layer_types,
            (std::vector{kFullAttention, kLinearAttention, kFullAttention}));
  EXPECT_EQ(with({{"full_attention_interval", "REMOVED"}}).layer_types[3], kFullAttention);
}

TEST(ParseConfig, DenseLayers) {
  EXPECT_EQ(with({{"num_hidden_layers", 4}, {"mlp_only_layers", {1, 3}}}).layer_is_moe,
            (std::vector<bool>{true, false, true, false}));
  EXPECT_EQ(with({{"num_hidden_layers", 4}, {"decoder_sparse_step", 2}, {"mlp_only_layers", {1}}}).layer_is_moe,
            (std::vector<bool>{false, false, false, true}));
  const ModelConfig dense = with({{"num_hidden_layers", 2}, {"num_experts", 0}});
  EXPECT_EQ(dense.layer_is_moe, (std::vector<bool>{false, false}));
  EXPECT_EQ(dense.num_experts, 0);
  EXPECT_EQ(dense.num_experts_per_tok, 0);
}

TEST(ParseConfig, OtherSpellings) {
  EXPECT_EQ(with({{"eos_token_id", {1, 2}}}).eos_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_TRUE(with({{"eos_token_id", nullptr}}).eos_token_ids.empty());
  EXPECT_TRUE(with({{"tie_word_embeddings", true}}).tie_word_embeddings);
  EXPECT_EQ(with({{"num_nextn_predict_layers", 1}}).num_mtp_layers, 1);
  EXPECT_EQ(with({{"mtp_num_hidden_layers", 0}}).num_mtp_layers, 0);
  EXPECT_EQ(with({{"num_nextn_predict_layers", 0}, {"mtp_num_hidden_layers", 1}}).num_mtp_layers, 0);
  EXPECT_EQ(error_with({{"torch_dtype", "REMOVED"}, {"dtype", "float32"}}), "none");
  EXPECT_EQ(error_with({{"architectures", "REMOVED"}}), "none");
  EXPECT_EQ(error_with({{"model_type", "REMOVED"}}), "none");
  EXPECT_EQ(error_with({{"hidden_act", "swish"}, {"attention_bias", false}, {"attn_output_gate", true}}), "none");
  EXPECT_EQ(error_with({{"quantization_config",
                         {{"quant_method", "fp8"},
                          {"fmt", "e4m3"},
                          {"activation_scheme", "dynamic"},
                          {"weight_block_size", {128, 128}},
                          {"modules_to_not_convert", {"lm_head"}}}}}),
            "none");
  const ModelConfig defaults = with({{"head_dim", "REMOVED"},
                                     {"linear_num_key_heads", "REMOVED"},
                                     {"linear_num_value_heads", "REMOVED"},
                                     {"linear_key_head_dim", "REMOVED"},
                                     {"linear_value_head_dim", "REMOVED"},
                                     {"linear_conv_kernel_dim", "REMOVED"},
                                     {"num_experts", "REMOVED"},
                                     {"num_experts_per_tok", "REMOVED"},
                                     {"moe_intermediate_size", "REMOVED"},
                                     {"norm_topk_prob", "REMOVED"}});
  EXPECT_EQ(defaults.head_dim, 256);
  EXPECT_EQ(defaults.linear_conv_width(), 8192);
  EXPECT_EQ(defaults.linear_conv_kernel_dim, 4);
  EXPECT_EQ(defaults.num_experts, 512);
  EXPECT_EQ(defaults.num_experts_per_tok, 10);
}

TEST(ParseConfig, RoundTripsThroughTheTestWriter) {
  ModelConfig config = testing::tiny_config();
  config.rope = {.theta = 5e6,
                 .dims = 8,
                 .yarn = true,
                 .factor = 2.5,
                 .original_max_position_embeddings = 1024,
                 .beta_fast = 24,
                 .beta_slow = 2,
                 .attention_factor = 1.25,
                 .truncate = false};
  config.tie_word_embeddings = true;
  config.num_mtp_layers = 1;
  config.eos_token_ids = {3, 4};
  for (const bool legacy : {false, true}) {
    const ModelConfig c = parse_config(testing::config_json(config, {.legacy_config = legacy}), "config.json");
    EXPECT_EQ(c.layer_types, config.layer_types);
    EXPECT_EQ(c.layer_is_moe, config.layer_is_moe);
    EXPECT_EQ(c.rope.theta, config.rope.theta);
    EXPECT_EQ(c.rope.dims, config.rope.dims);
    EXPECT_EQ(c.rope.yarn, config.rope.yarn);
    EXPECT_EQ(c.rope.factor, config.rope.factor);
    EXPECT_EQ(c.rope.beta_fast, config.rope.beta_fast);
    EXPECT_EQ(c.rope.attention_factor, config.rope.attention_factor);
    EXPECT_EQ(c.rope.truncate, config.rope.truncate);
    EXPECT_EQ(c.max_position_embeddings, config.max_position_embeddings);
    EXPECT_EQ(c.tie_word_embeddings, config.tie_word_embeddings);
    EXPECT_EQ(c.num_mtp_layers, config.num_mtp_layers);
    EXPECT_EQ(c.eos_token_ids, config.eos_token_ids);
    EXPECT_EQ(c.linear_value_width(), config.linear_value_width());
    EXPECT_EQ(c.shared_expert_intermediate_size, config.shared_expert_intermediate_size);
  }
}

// ---- What is refused ---------------------------------------------------------------------------------------------

TEST(ParseConfig, RefusesAnotherArchitecture) {
  EXPECT_EQ(error_with({{"model_type", "llama"}}),
            "config.json: model_type: expected \"qwen3_next\" (Qwen3NextForCausalLM), found \"llama\"");
  EXPECT_THAT(error_with({{"architectures", {"LlamaForCausalLM"}}}),
              AllOf(HasSubstr("architectures: expected [\"Qwen3NextForCausalLM\"]"), HasSubstr("LlamaForCausalLM")));
  EXPECT_THAT(error_with({{"architectures", "REMOVED"}, {"model_type", "REMOVED"}}),
              HasSubstr("model_type: expected \"qwen3_next\" (Qwen3NextForCausalLM), found nothing"));
  EXPECT_THAT(error_with({{"architectures", {"Qwen3NextForSequenceClassification"}}}), HasSubstr("architectures"));
  EXPECT_THAT(error_with({{"text_config", {{"hidden_size", 1}}}}), HasSubstr("text_config: expected"));
  EXPECT_THAT(error_with({{"model_type", 3}}), HasSubstr("model_type: expected a string, found 3"));
}

TEST(ParseConfig, RefusesSizesThatMakeNoSense) {
  for (const char* field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim",
        "linear_conv_kernel_dim", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size",
        "intermediate_size", "max_position_embeddings", "full_attention_interval", "decoder_sparse_step"}) {
    const std::string expected = fmt::format("config.json: {}: expected an integer from ", field);
    for (const json& bad : {json(0), json(-1), json(1ull << 40), json(UINT64_MAX), json(1e30), json(2.0), json("2"),
                            json(true), json::array({2}), json::object()}) {
      EXPECT_THAT(error_with({{field, bad}}), AllOf(HasSubstr(expected), HasSubstr(", found "))) << field << bad;
    }
  }
  EXPECT_EQ(error_with({{"num_attention_heads", 0}}),
            "config.json: num_attention_heads: expected an integer from 1 to 1024, found 0");
  for (const char* field :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}) {
    EXPECT_THAT(error_with({{field, "REMOVED"}}), AllOf(HasSubstr(field), HasSubstr("found nothing")));
    EXPECT_THAT(error_with({{field, nullptr}}), AllOf(HasSubstr(field), HasSubstr("found nothing")));
  }
  EXPECT_THAT(error_with({{"num_experts", -1}}), HasSubstr("num_experts: expected an integer from 0 to 16384"));
  EXPECT_THAT(error_with({{"linear_conv_kernel_dim", 1}}), HasSubstr("from 2 to 16, found 1"));
  EXPECT_THAT(error_with({{"linear_conv_kernel_dim", 17}}), HasSubstr("from 2 to 16, found 17"));
  EXPECT_THAT(error_with({{"rms_norm_eps", 0}}), HasSubstr("rms_norm_eps: expected a number"));
  EXPECT_THAT(error_with({{"rms_norm_eps", "1e-6"}}), HasSubstr("rms_norm_eps: expected a number"));
}

TEST(ParseConfig, RefusesSizesThatAreAbsurdTogether) {
  EXPECT_THAT(error_with({{"num_experts", 16384},
                          {"moe_intermediate_size", 1048576},
                          {"hidden_size", 65536},
                          {"num_hidden_layers", 1024}}),
              HasSubstr("sizes: expected at most 70368744177664 parameters in all, found about "));
  EXPECT_THAT(error_with({{"num_attention_heads", 1024}, {"head_dim", 4096}}),
              HasSubstr("num_attention_heads x head_dim: expected at most 1048576, found 4194304"));
  EXPECT_THAT(error_with({{"linear_num_value_heads", 1024}, {"linear_value_head_dim", 4096}}),
              HasSubstr("width of q, k and v of linear attention: expected at most 1048576"));
}

TEST(ParseConfig, RefusesHeadsThatDoNotDivide) {
  EXPECT_EQ(error_with({{"num_key_value_heads", 3}}),
            "config.json: num_key_value_heads: expected a divisor of num_attention_heads 16, found 3");
  EXPECT_THAT(error_with({{"num_key_value_heads", 32}}), HasSubstr("expected a divisor"));
  EXPECT_EQ(error_with({{"linear_num_key_heads", 12}}),
            "config.json: linear_num_key_heads: expected a divisor of linear_num_value_heads 32, found 12");
  EXPECT_THAT(error_with({{"num_experts", 8}, {"num_experts_per_tok", 9}}),
              HasSubstr("num_experts_per_tok: expected an integer from 1 to 8, found 9"));
  EXPECT_THAT(error_with({{"num_experts", 8}, {"num_experts_per_tok", "REMOVED"}}),
              HasSubstr("num_experts_per_tok: expected at most num_experts, 8, found nothing, which means 10"));
}

TEST(ParseConfig, RefusesUnknownRotarySettings) {
  for (const char* type : {"linear", "dynamic", "llama3", "longrope", "mrope", ""}) {
    EXPECT_EQ(
        error_with({{"rope_parameters", {{"rope_type", type}}}}),
        fmt::format("config.json: rope_parameters.rope_type: expected \"default\" or \"yarn\", found \"{}\"", type));
    EXPECT_THAT(error_with({{"rope_scaling", {{"type", type}}}}), HasSubstr("rope_scaling.type: expected"));
  }
  EXPECT_THAT(error_with({{"rope_scaling", {{"type", "yarn"}, {"rope_type", "linear"}}}}), HasSubstr("rope_type"));
  EXPECT_THAT(error_with({{"rope_scaling", {{"rope_type", 1}}}}), HasSubstr("rope_type: expected a string"));
  EXPECT_THAT(error_with({{"rope_scaling", "yarn"}}), HasSubstr("rope_scaling: expected an object"));
  EXPECT_THAT(error_with({{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}}}),
              HasSubstr("rope_parameters.full_attention: expected a setting that holds for all layers"));
  EXPECT_THAT(error_with({{"rope_theta", 0}}), HasSubstr("rope_theta: expected a number from 1.001"));
  EXPECT_THAT(error_with({{"partial_rotary_factor", 1.5}}),
              HasSubstr("partial_rotary_factor: expected a number from 0 to 1"));
  EXPECT_THAT(
      error_with({{"head_dim", 20}}),  // 5 dimensions
      HasSubstr("partial_rotary_factor: expected a fraction of head_dim 20 that is an even number of dimensions"));
  EXPECT_THAT(error_with({{"partial_rotary_factor", 0}}), HasSubstr("even number of dimensions"));

  const auto yarn_error = [](json settings) {
    settings["rope_type"] = "yarn";
    return error_with({{"rope_scaling", settings}});
  };
  EXPECT_THAT(yarn_error({{"factor", 0.5}}), HasSubstr("rope_scaling.factor: expected a number from 1"));
  EXPECT_THAT(yarn_error({{"factor", "4"}}), HasSubstr("rope_scaling.factor: expected a number from 1"));
  EXPECT_THAT(yarn_error({{"factor", 100000}}), HasSubstr("rope_scaling.factor: expected a context of at most"));
  EXPECT_THAT(yarn_error({{"original_max_position_embeddings", 524288}}),
              HasSubstr("factor: expected a number from 1"));
  EXPECT_THAT(yarn_error({{"original_max_position_embeddings", 0}}),
              HasSubstr("rope_scaling.original_max_position_embeddings: expected an integer from 1"));
  EXPECT_THAT(yarn_error({{"factor", 2}, {"attention_factor", -1}}),
              HasSubstr("attention_factor: expected a number"));
  EXPECT_THAT(yarn_error({{"factor", 2}, {"beta_fast", 1}, {"beta_slow", 2}}),
              HasSubstr("beta_fast: expected at least beta_slow"));
  EXPECT_THAT(yarn_error({{"factor", 2}, {"attn_factor", 1.2}}), HasSubstr("attn_factor: expected 1 or nothing"));
}

TEST(ParseConfig, RefusesFeaturesThatWouldChangeTheResults) {
  EXPECT_EQ(error_with({{"attention_bias", true}}), "config.json: attention_bias: expected false, found true");
  EXPECT_THAT(error_with({{"qkv_bias", true}}), HasSubstr("qkv_bias: expected false"));
  EXPECT_THAT(error_with({{"use_sliding_window", true}}), HasSubstr("use_sliding_window: expected false"));
  EXPECT_THAT(error_with({{"layer_scale", true}}), HasSubstr("layer_scale: expected false"));
  EXPECT_THAT(error_with({{"attn_output_gate", false}}), HasSubstr("attn_output_gate: expected true"));
  EXPECT_THAT(error_with({{"output_gate_type", "sigmoid"}}), HasSubstr("output_gate_type: expected \"silu\", found"));
  EXPECT_THAT(error_with({{"hidden_act", "gelu"}}), HasSubstr("hidden_act: expected \"silu\", found \"gelu\""));
  EXPECT_THAT(error_with({{"num_nextn_predict_layers", 2}}),
              HasSubstr("num_nextn_predict_layers: expected an integer from 0 to 1"));
  EXPECT_THAT(error_with({{"quantization_config", {{"quant_method", "awq"}}}}),
              HasSubstr("quantization_config.quant_method: expected \"fp8\", found \"awq\""));
  EXPECT_THAT(error_with({{"quantization_config", {{"quant_method", "fp8"}, {"weight_block_size", {64, 64}}}}}),
              HasSubstr("quantization_config.weight_block_size: expected [128, 128]"));
  EXPECT_THAT(error_with({{"quantization_config", {{"quant_method", "fp8"}, {"fmt", "e5m2"}}}}), HasSubstr("fmt"));
}

TEST(ParseConfig, RefusesBadLists) {
  EXPECT_THAT(error_with({{"layer_types", {"full_attention"}}}),
              HasSubstr("layer_types: expected a list of num_hidden_layers, 48, found a list of 1"));
  EXPECT_THAT(
      error_with({{"num_hidden_layers", 1}, {"layer_types", {"sliding_attention"}}}),
      HasSubstr("layer_types[0]: expected \"linear_attention\" or \"full_attention\", found \"sliding_attention\""));
  EXPECT_THAT(error_with({{"num_hidden_layers", 1}, {"layer_types", {1}}}), HasSubstr("found 1"));
  EXPECT_THAT(error_with({{"layer_types", "full_attention"}}), HasSubstr("layer_types: expected a list"));
  EXPECT_THAT(error_with({{"mlp_only_layers", {48}}}),
              HasSubstr("mlp_only_layers[0]: expected a layer from 0 to 47, found 48"));
  EXPECT_THAT(error_with({{"mlp_only_layers", {0, -1}}}),
              HasSubstr("mlp_only_layers[1]: expected a layer from 0 to 47, found -1"));
  EXPECT_THAT(error_with({{"mlp_only_layers", 1}}), HasSubstr("mlp_only_layers: expected a list"));
  for (const json& bad :
       {json(-1), json(1ull << 31), json("x"), json(1.5), json::array({1, -1}), json::array({"x"})}) {
    EXPECT_THAT(error_with({{"eos_token_id", bad}}), HasSubstr("eos_token_id: expected a token id or a list")) << bad;
  }
  EXPECT_THAT(error_with({{"eos_token_id", std::vector<int>(2000, 1)}}), HasSubstr("a list of 2000"));
}

TEST(ParseConfig, RefusesWhatIsNotJson) {
  EXPECT_THROW(parse_config("", "f"), FileError);
  EXPECT_THROW(parse_config("[]", "f"), FileError);
  EXPECT_THROW(parse_config(std::string(kReleased) + "}", "f"), FileError);
  EXPECT_THROW(parse_config(R"({"model_type":"qwen3_next","hidden_size":1,"hidden_size":2})", "f"), FileError);
}

TEST(LoadConfig, NamesTheFile) {
  const testing::TemporaryDirectory directory;
  const auto error = [&] {
    try {
      load_config(directory.path());
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  EXPECT_THAT(error(), HasSubstr("config.json: cannot open: No such file or directory"));
  testing::write_file(directory / "config.json", std::string((4 << 20) + 1, ' '));
  EXPECT_THAT(error(), HasSubstr("config.json: file size: expected at most 4194304 bytes"));
  testing::write_file(directory / "config.json", "");
  EXPECT_THAT(error(), HasSubstr("config.json: JSON: expected valid JSON"));
  std::filesystem::remove(directory / "config.json");
  std::filesystem::create_directory(directory / "config.json");
  EXPECT_THAT(error(), HasSubstr("config.json: cannot read: not a regular file"));
}

// ---- generation_config.json --------------------------------------------------------------------------------------

TEST(ParseGenerationConfig, TheReleasedModel) {
  const GenerationConfig g = parse_generation_config(R"({"bos_token_id": 151643, "do_sample": true,
      "eos_token_id": [151645, 151643], "pad_token_id": 151643, "temperature": 0.7, "top_k": 20, "top_p": 0.8,
      "transformers_version": "4.57.0.dev0"})",
                                                     "g");
  EXPECT_EQ(g.do_sample, true);
  EXPECT_EQ(g.temperature, 0.7);
  EXPECT_EQ(g.top_k, 20);
  EXPECT_EQ(g.top_p, 0.8);
  EXPECT_EQ(g.min_p, std::nullopt);
  EXPECT_EQ(g.repetition_penalty, std::nullopt);
  EXPECT_EQ(g.eos_token_ids, (std::vector<int32_t>{151645, 151643}));
}

TEST(ParseGenerationConfig, RefusesValuesOutsideTheirRange) {
  const auto error = [](const json& fields) {
    try {
      parse_generation_config(fields.dump(), "g");
    } catch (const FileError& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  EXPECT_EQ(error({{"temperature", 0}, {"top_p", 1.0}, {"top_k", nullptr}, {"min_p", 0}}), "none");
  EXPECT_THAT(error({{"temperature", -1}}), HasSubstr("g: temperature: expected a number from 0"));
  EXPECT_THAT(error({{"temperature", "1"}}), HasSubstr("temperature: expected a number"));
  EXPECT_THAT(error({{"top_p", 1.5}}), HasSubstr("top_p: expected a number from 0 to 1"));
  EXPECT_THAT(error({{"min_p", 2}}), HasSubstr("min_p: expected a number from 0 to 1"));
  EXPECT_THAT(error({{"top_k", -1}}), HasSubstr("top_k: expected an integer from 0"));
  EXPECT_THAT(error({{"top_k", 1.5}}), HasSubstr("top_k: expected an integer from 0"));
  EXPECT_THAT(error({{"repetition_penalty", 0}}), HasSubstr("repetition_penalty: expected a number"));
  EXPECT_THAT(error({{"do_sample", 1}}), HasSubstr("do_sample: expected true or false"));
  EXPECT_THAT(error({{"eos_token_id", -1}}), HasSubstr("eos_token_id: expected a token id"));
}

TEST(LoadGenerationConfig, IsEmptyWithoutAFile) {
  const testing::TemporaryDirectory directory;
  EXPECT_EQ(load_generation_config(directory.path()).temperature, std::nullopt);
  testing::write_file(directory / "generation_config.json", R"({"temperature": 0.5})");
  EXPECT_EQ(load_generation_config(directory.path()).temperature, 0.5);
}

}  // namespace
}  // namespace qnext
