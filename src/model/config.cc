#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/json.h"

namespace qnext {

namespace {

// Upper bounds of single fields: an order of magnitude above any model that exists, and low enough that the products
// below (parameters, cache bytes) stay inside int64.
constexpr size_t kMaxFileBytes = 4 << 20;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxHidden = 1 << 16;
constexpr int64_t kMaxLayers = 1 << 10;
constexpr int64_t kMaxHeads = 1 << 10;
constexpr int64_t kMaxHeadDim = 1 << 12;
constexpr int64_t kMaxConvKernel = 16;
constexpr int64_t kMaxExperts = 1 << 14;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxPositions = 1 << 28;
constexpr int64_t kMaxParameters = int64_t{1} << 46;
constexpr size_t kMaxEosTokens = 1024;

/// Fields of other models of the family whose other values would change the results.
void refuse_unsupported(const JsonFields& config) {
  const auto require_bool = [&](const char* key, bool supported) {
    if (config.boolean(key).value_or(supported) != supported) config.fail(key, supported ? "true" : "false");
  };
  require_bool("attention_bias", false);
  require_bool("qkv_bias", false);
  require_bool("use_sliding_window", false);
  require_bool("layer_scale", false);
  require_bool("attn_output_gate", true);
  for (const char* key : {"hidden_act", "output_gate_type"}) {
    const std::string value = config.text(key).value_or("silu");
    if (value != "silu" && value != "swish") config.fail(key, "\"silu\"");
  }
  if (const auto quantization = config.object("quantization_config")) {
    if (quantization->text("quant_method") != "fp8") quantization->fail("quant_method", "\"fp8\"");
    if (quantization->text("fmt").value_or("e4m3") != "e4m3") quantization->fail("fmt", "\"e4m3\"");
    const nlohmann::json* block = quantization->find("weight_block_size");
    if (block == nullptr || block->dump() != "[128,128]") quantization->fail("weight_block_size", "[128, 128]");
  }
}

void check_architecture(const JsonFields& config, const std::string& file) {
  const std::string expected_type = "\"qwen3_next\" (Qwen3NextForCausalLM)";
  if (config.has("text_config")) {  // multimodal relatives nest the language model and change its projections
    config.fail("text_config", expected_type + " at the top level, without a nested model");
  }
  if (config.text("model_type").value_or("qwen3_next") != "qwen3_next") config.fail("model_type", expected_type);
  const nlohmann::json* architectures = config.find("architectures");
  if (architectures == nullptr) {
    if (!config.has("model_type")) config.fail("model_type", expected_type);
    return;
  }
  const std::string expected = "[\"Qwen3NextForCausalLM\"]";
  if (const std::string found = architectures->dump(); found != expected) {
    throw FileError(file, "architectures", expected, qnext::quoted(found));
  }
}

/// rope_parameters (transformers 5), rope_scaling (before) and the top level may each hold a setting; for each
/// setting the first of rope_scaling, rope_parameters, top level that has it wins.
class RopeSettings {
 public:
  explicit RopeSettings(const JsonFields& config) : top_(config) {
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
      const auto nested = config.object(key);
      if (!nested.has_value()) continue;
      for (const auto& [name, value] : config.find(key)->items()) {
        if (value.is_object()) nested->fail(name, "a setting that holds for all layers");
      }
      nested_.push_back(*nested);
    }
  }

  /// The fields that decide about `key`: the nested object that has it, else the top level.
  const JsonFields& holder(std::string_view key) const {
    for (const JsonFields& nested : nested_) {
      if (nested.has(key)) return nested;
    }
    return top_;
  }
  std::optional<double> number(const char* key, double min, double max) const {
    return holder(key).number(key, min, max);
  }

  /// "default" or "yarn".
  std::string type() const {
    std::string type = "default";
    for (auto nested = nested_.rbegin(); nested != nested_.rend(); ++nested) {
      for (const char* key : {"type", "rope_type"}) {  // the newer spelling has the last word
        if (!nested->has(key)) continue;
        type = *nested->text(key);
        if (type != "default" && type != "yarn") nested->fail(key, "\"default\" or \"yarn\"");
      }
    }
    return type;
  }

 private:
  const JsonFields& top_;
  std::vector<JsonFields> nested_;
};

/// What YaRN multiplies cos and sin with (architecture.md 5; mscale and mscale_all_dim as in DeepSeek's configs).
double yarn_attention_factor(const RopeSettings& settings, double factor) {
  if (const auto stated = settings.number("attention_factor", 1e-3, 1e3)) return *stated;
  const auto scaled = [&](double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; };
  const double mscale = settings.number("mscale", 0, 1e3).value_or(0);
  const double all_dim = settings.number("mscale_all_dim", 0, 1e3).value_or(0);
  return mscale != 0 && all_dim != 0 ? scaled(mscale) / scaled(all_dim) : scaled(1);
}

RopeConfig parse_rope(const JsonFields& config, int64_t head_dim, int64_t& max_position_embeddings) {
  const RopeSettings settings(config);
  RopeConfig rope;
  rope.theta = settings.number("rope_theta", 1.001, 1e15).value_or(10000.0);  // the default of transformers
  const char* kPartial = "partial_rotary_factor";
  rope.dims = static_cast<int64_t>(static_cast<double>(head_dim) * settings.number(kPartial, 0, 1).value_or(0.25));
  if (rope.dims < 2 || rope.dims % 2 != 0) {
    settings.holder(kPartial).fail(
        kPartial, fmt::format("a fraction of head_dim {} that is an even number of dimensions", head_dim));
  }
  rope.yarn = settings.type() == "yarn";
  // Spellings of other programs that this model's own ignores: better refused than guessed.
  for (const char* key : {"attn_factor", "extrapolation_factor"}) {
    if (rope.yarn && settings.number(key, -1e9, 1e9).value_or(1) != 1) settings.holder(key).fail(key, "1 or nothing");
  }
  if (!rope.yarn) return rope;

  const char* kOriginal = "original_max_position_embeddings";
  rope.original_max_position_embeddings =
      settings.holder(kOriginal).integer(kOriginal, 1, kMaxPositions).value_or(max_position_embeddings);
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  rope.factor = settings.number("factor", 1, 1e6).value_or(static_cast<double>(max_position_embeddings) / original);
  if (rope.factor < 1) settings.holder("factor").fail("factor", "a number from 1");
  rope.beta_fast = settings.number("beta_fast", 1e-3, 1e6).value_or(32);
  rope.beta_slow = settings.number("beta_slow", 1e-3, 1e6).value_or(1);
  if (rope.beta_fast < rope.beta_slow) {
    settings.holder("beta_fast").fail("beta_fast", fmt::format("at least beta_slow, {}", rope.beta_slow));
  }
  rope.truncate = settings.holder("truncate").boolean("truncate").value_or(true);
  rope.attention_factor = yarn_attention_factor(settings, rope.factor);

  const double reach = std::floor(rope.factor * original);
  if (reach > static_cast<double>(kMaxPositions)) {
    settings.holder("factor").fail("factor", fmt::format("a context of at most {} tokens", kMaxPositions));
  }
  max_position_embeddings = std::max(max_position_embeddings, static_cast<int64_t>(reach));
  return rope;
}

std::vector<LayerKind> parse_layer_types(const JsonFields& config, int64_t num_layers) {
  std::vector<LayerKind> kinds;
  const nlohmann::json* list = config.find("layer_types");
  if (list == nullptr) {
    const int64_t interval = config.integer("full_attention_interval", 1, kMaxLayers).value_or(4);
    for (int64_t i = 0; i < num_layers; ++i) {
      kinds.push_back((i + 1) % interval == 0 ? LayerKind::kFullAttention : LayerKind::kLinearAttention);
    }
    return kinds;
  }
  if (!list->is_array() || static_cast<int64_t>(list->size()) != num_layers) {
    config.fail("layer_types", fmt::format("a list of num_hidden_layers, {}", num_layers));
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const nlohmann::json& kind = (*list)[i];
    if (kind == "linear_attention") {
      kinds.push_back(LayerKind::kLinearAttention);
    } else if (kind == "full_attention" || kind == "attention") {  // the second is SGLang's
      kinds.push_back(LayerKind::kFullAttention);
    } else {
      config.fail_item("layer_types", i, "\"linear_attention\" or \"full_attention\"");
    }
  }
  return kinds;
}

std::vector<bool> parse_layer_is_moe(const JsonFields& config, int64_t num_layers, int64_t num_experts) {
  const int64_t step = config.integer("decoder_sparse_step", 1, kMaxLayers).value_or(1);
  std::vector<bool> is_moe(static_cast<size_t>(num_layers));
  for (int64_t i = 0; i < num_layers; ++i) is_moe[static_cast<size_t>(i)] = num_experts > 0 && (i + 1) % step == 0;
  const nlohmann::json* dense = config.find("mlp_only_layers");
  if (dense == nullptr) return is_moe;
  if (!dense->is_array()) config.fail("mlp_only_layers", "a list of layers");
  for (size_t i = 0; i < dense->size(); ++i) {
    const nlohmann::json& layer = (*dense)[i];
    if (!layer.is_number_unsigned() || layer.get<uint64_t>() >= is_moe.size()) {
      config.fail_item("mlp_only_layers", i, fmt::format("a layer from 0 to {}", num_layers - 1));
    }
    is_moe[layer.get<size_t>()] = false;
  }
  return is_moe;
}

std::vector<int32_t> parse_eos_token_ids(const JsonFields& fields) {
  const nlohmann::json* value = fields.find("eos_token_id");
  if (value == nullptr) return {};
  std::vector<int32_t> ids;
  const auto add = [&](const nlohmann::json& id) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX || ids.size() == kMaxEosTokens) {
      fields.fail("eos_token_id", fmt::format("a token id or a list of at most {} ids", kMaxEosTokens));
    }
    ids.push_back(id.get<int32_t>());
  };
  if (value->is_array()) {
    for (const auto& id : *value) add(id);
  } else {
    add(*value);
  }
  return ids;
}

void check_divides(const std::string& file, const char* field, int64_t divisor, const char* of, int64_t dividend) {
  if (dividend % divisor == 0) return;
  throw FileError(file, field, fmt::format("a divisor of {} {}", of, dividend), fmt::format("{}", divisor));
}

/// The fields are bounded one by one; this bounds what they make together.
void check_parameters(const ModelConfig& c, const std::string& file) {
  const int64_t mlp = std::max({3 * c.intermediate_size, c.num_experts * (3 * c.moe_intermediate_size + 1) +
                                                             3 * c.shared_expert_intermediate_size});
  const int64_t mixer =
      std::max(c.linear_conv_width() + 2 * c.linear_value_width(), 3 * c.attention_width() + 2 * c.key_value_width());
  const int64_t parameters = c.hidden_size * (2 * c.vocab_size + (c.num_layers() + 1) * (mlp + mixer));
  if (parameters > kMaxParameters) {
    throw FileError(file, "sizes", fmt::format("at most {} parameters in all", kMaxParameters),
                    fmt::format("about {}", parameters));
  }
}

}  // namespace

ModelConfig parse_config(std::string_view json, const std::string& file) {
  const nlohmann::json tree = parse_json_object(json, file);
  const JsonFields config(tree, file);
  check_architecture(config, file);
  refuse_unsupported(config);

  // Sizes without which nothing can be known are required; the others have the defaults of transformers.
  ModelConfig c;
  c.vocab_size = config.required_integer("vocab_size", 1, kMaxVocabulary);
  c.hidden_size = config.required_integer("hidden_size", 1, kMaxHidden);
  const int64_t num_layers = config.required_integer("num_hidden_layers", 1, kMaxLayers);
  c.layer_types = parse_layer_types(config, num_layers);
  c.intermediate_size = config.integer("intermediate_size", 1, kMaxWidth).value_or(5632);
  c.rms_norm_eps = config.number("rms_norm_eps", 1e-30, 1).value_or(1e-6);
  c.tie_word_embeddings = config.boolean("tie_word_embeddings").value_or(false);
  c.max_position_embeddings = config.integer("max_position_embeddings", 1, kMaxPositions).value_or(32768);

  c.num_attention_heads = config.required_integer("num_attention_heads", 1, kMaxHeads);
  c.num_key_value_heads = config.required_integer("num_key_value_heads", 1, kMaxHeads);
  check_divides(file, "num_key_value_heads", c.num_key_value_heads, "num_attention_heads", c.num_attention_heads);
  c.head_dim = config.integer("head_dim", 2, kMaxHeadDim).value_or(256);
  c.rope = parse_rope(config, c.head_dim, c.max_position_embeddings);

  c.linear_num_key_heads = config.integer("linear_num_key_heads", 1, kMaxHeads).value_or(16);
  c.linear_num_value_heads = config.integer("linear_num_value_heads", 1, kMaxHeads).value_or(32);
  check_divides(file, "linear_num_key_heads", c.linear_num_key_heads, "linear_num_value_heads",
                c.linear_num_value_heads);
  c.linear_key_head_dim = config.integer("linear_key_head_dim", 1, kMaxHeadDim).value_or(128);
  c.linear_value_head_dim = config.integer("linear_value_head_dim", 1, kMaxHeadDim).value_or(128);
  c.linear_conv_kernel_dim = config.integer("linear_conv_kernel_dim", 2, kMaxConvKernel).value_or(4);
  for (const auto& [width, what] : {std::pair(c.attention_width(), "num_attention_heads x head_dim"),
                                    std::pair(c.linear_conv_width(), "width of q, k and v of linear attention")}) {
    if (width > kMaxWidth)
      throw FileError(file, what, fmt::format("at most {}", kMaxWidth), fmt::format("{}", width));
  }

  c.num_experts = config.integer("num_experts", 0, kMaxExperts).value_or(512);
  c.layer_is_moe = parse_layer_is_moe(config, num_layers, c.num_experts);
  if (c.num_experts > 0) {
    c.num_experts_per_tok = config.integer("num_experts_per_tok", 1, c.num_experts).value_or(10);
    if (c.num_experts_per_tok > c.num_experts) {
      throw FileError(file, "num_experts_per_tok", fmt::format("at most num_experts, {}", c.num_experts),
                      fmt::format("nothing, which means {}", c.num_experts_per_tok));
    }
    c.moe_intermediate_size = config.integer("moe_intermediate_size", 1, kMaxWidth).value_or(512);
    c.shared_expert_intermediate_size = config.integer("shared_expert_intermediate_size", 1, kMaxWidth).value_or(512);
    c.norm_topk_prob = config.boolean("norm_topk_prob").value_or(true);
  }

  for (const char* key : {"num_nextn_predict_layers", "mtp_num_hidden_layers"}) {
    if (!c.num_mtp_layers.has_value()) c.num_mtp_layers = config.integer(key, 0, 1);
  }
  c.eos_token_ids = parse_eos_token_ids(config);
  check_parameters(c, file);
  return c;
}

ModelConfig load_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return parse_config(read_text_file(path, kMaxFileBytes), path.string());
}

GenerationConfig parse_generation_config(std::string_view json, const std::string& file) {
  const nlohmann::json tree = parse_json_object(json, file);
  const JsonFields fields(tree, file);
  GenerationConfig g;
  g.do_sample = fields.boolean("do_sample");
  g.temperature = fields.number("temperature", 0, 1000);
  g.top_p = fields.number("top_p", 0, 1);
  g.min_p = fields.number("min_p", 0, 1);
  g.repetition_penalty = fields.number("repetition_penalty", 1e-3, 1000);
  g.top_k = fields.integer("top_k", 0, INT32_MAX);
  g.eos_token_ids = parse_eos_token_ids(fields);
  return g;
}

GenerationConfig load_generation_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "generation_config.json";
  std::error_code ignored;
  if (std::filesystem::status(path, ignored).type() == std::filesystem::file_type::not_found) return {};
  return parse_generation_config(read_text_file(path, kMaxFileBytes), path.string());
}

}  // namespace qnext
