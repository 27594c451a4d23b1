#include "model/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace qnext {

namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kArchitecture = "qwen3next", kPrefix = "qwen3next.";
constexpr int64_t kMaxInteger = INT32_MAX;
constexpr size_t kMaxLayers = 1 << 12;

/// Integer fields that are the same in both, as {config.json, GGUF}. Those that llama.cpp requires are required here.
struct Key {
  const char *field, *key;
  bool required;
};
constexpr Key kIntegers[] = {
    {"hidden_size", "embedding_length", true},
    {"max_position_embeddings", "context_length", true},
    {"intermediate_size", "feed_forward_length", false},
    {"num_attention_heads", "attention.head_count", true},
    {"num_key_value_heads", "attention.head_count_kv", true},
    {"head_dim", "attention.key_length", true},
    {"num_experts", "expert_count", false},
    {"num_experts_per_tok", "expert_used_count", false},
    {"moe_intermediate_size", "expert_feed_forward_length", false},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", false},
    {"linear_conv_kernel_dim", "ssm.conv_kernel", true},
    {"linear_key_head_dim", "ssm.state_size", true},
    {"linear_num_key_heads", "ssm.group_count", true},
    {"linear_num_value_heads", "ssm.time_step_rank", true},
};
/// Fields of config.json that are made of others, with the key to complain about.
constexpr std::pair<const char*, const char*> kDerived[] = {
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon"},
    {"rope_parameters.rope_theta", "rope.freq_base"},
    {"rope_parameters.partial_rotary_factor", "rope.dimension_count"},
    {"rope_parameters.factor", "rope.scaling.factor"},
    {"rope_parameters.original_max_position_embeddings", "rope.scaling.original_context_length"},
    {"rope_parameters.beta_fast", "rope.scaling.yarn_beta_fast"},
    {"rope_parameters.beta_slow", "rope.scaling.yarn_beta_slow"},
    {"rope_parameters.attention_factor", "rope.scaling.attn_factor"},
    {"linear_value_head_dim", "ssm.inner_size"},
    {"num_hidden_layers", "block_count"},
    {"num_nextn_predict_layers", "nextn_predict_layers"},
    {"full_attention_interval", "full_attention_interval"},
    {"layer_types", "attention.recurrent_layers"}};

std::string key(std::string_view name) { return fmt::format("{}{}", kPrefix, name); }

/// The attention factor that YaRN has when the config states none; rope.scaling.attn_factor multiplies it.
double yarn_mscale(double factor) { return factor <= 1 ? 1.0 : 0.1 * std::log(factor) + 1.0; }

/// Builds the config.json that a file's metadata means, for parse_config to check.
class ConfigReader {
 public:
  ConfigReader(const GgufMetadata& metadata, const Checkpoint& checkpoint, const std::string& file)
      : fields_(metadata, file), checkpoint_(checkpoint) {}

  ModelConfig read() {
    const std::string* architecture = fields_.text("general.architecture");
    if (architecture == nullptr || *architecture != kArchitecture) {
      fields_.fail("general.architecture", qnext::quoted(kArchitecture));
    }
    json_["model_type"] = "qwen3_next";
    for (const Key& k : kIntegers) copy_integer(k);
    if (!checkpoint_.find("output.weight")) json_["tie_word_embeddings"] = true;
    json_["rms_norm_eps"] = required_number("attention.layer_norm_rms_epsilon", 1e-30, 1);
    if (const auto norm = fields_.boolean(key("expert_weights_norm"))) json_["norm_topk_prob"] = *norm;
    read_value_heads();
    read_layers();
    read_rope();
    read_vocabulary_size();
    try {
      return parse_config(json_.dump(), fields_.file());
    } catch (const FileError& error) {  // in the words of this format
      for (const auto& [field, name] : kDerived) {
        if (error.field == field) throw FileError(error.file, key(name), error.expected, error.found);
      }
      for (const Key& k : kIntegers) {
        if (error.field == k.field) throw FileError(error.file, key(k.key), error.expected, error.found);
      }
      throw;
    }
  }

 private:
  int64_t required_integer(std::string_view name, int64_t min, int64_t max) const {
    const auto value = fields_.integer(key(name), min, max);
    if (!value) fields_.fail(key(name), fmt::format("an integer from {} to {}", min, max));
    return *value;
  }
  double required_number(std::string_view name, double min, double max) const {
    const auto value = fields_.number(key(name), min, max);
    if (!value) fields_.fail(key(name), fmt::format("a number from {} to {}", min, max));
    return *value;
  }

  void copy_integer(const Key& k) {
    if (k.required) {
      json_[k.field] = required_integer(k.key, 1, kMaxInteger);
    } else if (const auto value = fields_.integer(key(k.key), 0, kMaxInteger)) {
      json_[k.field] = *value;
    }
  }

  void read_value_heads() {
    const int64_t inner = required_integer("ssm.inner_size", 1, kMaxInteger);
    const auto heads = json_["linear_num_value_heads"].get<int64_t>();
    if (inner % heads != 0)
      fields_.fail(key("ssm.inner_size"), fmt::format("a multiple of ssm.time_step_rank, {}", heads));
    json_["linear_value_head_dim"] = inner / heads;
    const auto head_dim = json_["head_dim"].get<int64_t>();
    const auto value_dim = fields_.integer(key("attention.value_length"), 1, kMaxInteger);
    if (value_dim.value_or(head_dim) != head_dim) {
      fields_.fail(key("attention.value_length"), fmt::format("{}, as attention.key_length", head_dim));
    }
    if (!json_.contains("num_experts")) json_["num_experts"] = 0;
  }

  /// Blocks are the layers and, behind them, the MTP layer.
  void read_layers() {
    const int64_t mtp = fields_.integer(key("nextn_predict_layers"), 0, 1).value_or(0);
    const int64_t blocks = required_integer("block_count", 1 + mtp, kMaxLayers), layers = blocks - mtp;
    json_["num_hidden_layers"] = layers;
    json_["num_nextn_predict_layers"] = mtp;
    if (const auto interval = fields_.integer(key("full_attention_interval"), 1, kMaxInteger)) {
      json_["full_attention_interval"] = *interval;
    }
    if (const auto recurrent = fields_.booleans(key("attention.recurrent_layers"))) {
      const auto size = static_cast<int64_t>(recurrent->size());
      if (size != layers && size != blocks) {
        fields_.fail(key("attention.recurrent_layers"), fmt::format("an array of {} bools", layers));
      }
      for (int64_t i = 0; i < layers; ++i) {
        json_["layer_types"].push_back((*recurrent)[static_cast<size_t>(i)] ? "linear_attention" : "full_attention");
      }
    }
    json_["mlp_only_layers"] = Json::array();
    for (int64_t i = 0; i < layers; ++i) {
      if (checkpoint_.find(fmt::format("blk.{}.ffn_gate.weight", i))) json_["mlp_only_layers"].push_back(i);
    }
  }

  void read_rope() {
    Json rope{{"rope_type", "default"}};
    rope["rope_theta"] = fields_.number(key("rope.freq_base"), 1.001, 1e15).value_or(10000.0);
    const auto head_dim = json_["head_dim"].get<int64_t>();
    const int64_t dims = required_integer("rope.dimension_count", 2, head_dim);
    // The fraction is rounded down: half a dimension more makes it come out whatever the rounding of the division.
    rope["partial_rotary_factor"] = std::min(1.0, (static_cast<double>(dims) + 0.5) / static_cast<double>(head_dim));
    const std::string* type = fields_.text(key("rope.scaling.type"));
    if (type != nullptr && *type != "none") {
      if (*type != "yarn") fields_.fail(key("rope.scaling.type"), "\"yarn\" or \"none\"");
      rope["rope_type"] = "yarn";
      const double factor = required_number("rope.scaling.factor", 1, 1e6);
      rope["factor"] = factor;
      rope["original_max_position_embeddings"] =
          required_integer("rope.scaling.original_context_length", 1, kMaxInteger);
      for (const char* name : {"beta_fast", "beta_slow"}) {
        const auto beta = fields_.number(key(fmt::format("rope.scaling.yarn_{}", name)), 1e-3, 1e6);
        if (beta) rope[name] = *beta;
      }
      const double attention = fields_.number(key("rope.scaling.attn_factor"), 1e-3, 1e3).value_or(1);
      if (attention != 1) rope["attention_factor"] = attention * yarn_mscale(factor);
    }
    json_["rope_parameters"] = std::move(rope);
  }

  void read_vocabulary_size() {
    const FileTensor* embedding = checkpoint_.find("token_embd.weight");
    const std::vector<std::string>* tokens = fields_.texts("tokenizer.ggml.tokens");
    if (embedding == nullptr || embedding->shape.empty()) {
      throw FileError(fields_.file(), "tensor token_embd.weight", "the embedding", "no such tensor");
    }
    const int64_t rows = embedding->shape.front();
    if (tokens != nullptr && static_cast<int64_t>(tokens->size()) != rows) {
      fields_.fail("tokenizer.ggml.tokens", fmt::format("{} tokens, one for each row of token_embd.weight", rows));
    }
    json_["vocab_size"] = rows;
  }

  GgufFields fields_;
  const Checkpoint& checkpoint_;
  Json json_;
};

}  // namespace

ModelConfig config_from_gguf(const GgufMetadata& metadata, const Checkpoint& checkpoint, const std::string& file) {
  ModelConfig config = ConfigReader(metadata, checkpoint, file).read();
  config.eos_token_ids = generation_config_from_gguf(metadata, file).eos_token_ids;
  return config;
}

GenerationConfig generation_config_from_gguf(const GgufMetadata& metadata, const std::string& file) {
  const GgufFields fields(metadata, file);
  GenerationConfig g;
  g.temperature = fields.number("general.sampling.temp", 0, 1000);
  g.top_p = fields.number("general.sampling.top_p", 0, 1);
  g.min_p = fields.number("general.sampling.min_p", 0, 1);
  g.repetition_penalty = fields.number("general.sampling.penalty_repeat", 1e-3, 1000);
  g.top_k = fields.integer("general.sampling.top_k", 0, INT32_MAX);
  if (g.temperature) g.do_sample = *g.temperature > 0;

  const auto add = [&](int64_t id) {
    const auto narrow = static_cast<int32_t>(id);
    if (std::ranges::find(g.eos_token_ids, narrow) == g.eos_token_ids.end()) g.eos_token_ids.push_back(narrow);
  };
  for (const char* name : {"eos", "eot", "eom"}) {
    if (const auto id = fields.integer(fmt::format("tokenizer.ggml.{}_token_id", name), 0, INT32_MAX)) add(*id);
  }
  return g;
}

void add_config(const ModelConfig& c, const StoredParts& parts, GgufMetadata& metadata) {
  if (c.rope.yarn && !c.rope.truncate) throw Error("GGUF has no key for rope_parameters.truncate = false");
  const auto set = [&](std::string_view name, GgufValue value) { metadata.set(key(name), std::move(value)); };
  const auto integer = [&](std::string_view name, int64_t value) { set(name, static_cast<uint32_t>(value)); };
  const auto number = [&](std::string_view name, double value) { set(name, static_cast<float>(value)); };

  metadata.set("general.architecture", std::string(kArchitecture));
  integer("block_count", c.num_layers() + (parts.mtp ? 1 : 0));
  integer("context_length", c.max_position_embeddings);
  integer("embedding_length", c.hidden_size);
  integer("feed_forward_length", c.intermediate_size);
  integer("attention.head_count", c.num_attention_heads);
  integer("attention.head_count_kv", c.num_key_value_heads);
  integer("attention.key_length", c.head_dim);
  integer("attention.value_length", c.head_dim);
  number("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
  integer("expert_count", c.num_experts);
  if (c.num_experts > 0) {
    integer("expert_used_count", c.num_experts_per_tok);
    integer("expert_feed_forward_length", c.moe_intermediate_size);
    integer("expert_shared_feed_forward_length", c.shared_expert_intermediate_size);
    if (!c.norm_topk_prob) set("expert_weights_norm", false);
  }
  integer("ssm.conv_kernel", c.linear_conv_kernel_dim);
  integer("ssm.state_size", c.linear_key_head_dim);
  integer("ssm.group_count", c.linear_num_key_heads);
  integer("ssm.time_step_rank", c.linear_num_value_heads);
  integer("ssm.inner_size", c.linear_value_width());
  if (parts.mtp) integer("nextn_predict_layers", 1);

  number("rope.freq_base", c.rope.theta);
  integer("rope.dimension_count", c.rope.dims);
  if (c.rope.yarn) {
    set("rope.scaling.type", "yarn");
    number("rope.scaling.factor", c.rope.factor);
    integer("rope.scaling.original_context_length", c.rope.original_max_position_embeddings);
    number("rope.scaling.yarn_beta_fast", c.rope.beta_fast);
    number("rope.scaling.yarn_beta_slow", c.rope.beta_slow);
    const double attention = c.rope.attention_factor / yarn_mscale(c.rope.factor);
    if (static_cast<float>(attention) != 1.0f) number("rope.scaling.attn_factor", attention);
  }

  // The interval where there is one (the distance of the first full layer); a flag per layer where it says too
  // little.
  const auto first = std::ranges::find(c.layer_types, LayerKind::kFullAttention) - c.layer_types.begin();
  const int64_t interval = first + 1;
  integer("full_attention_interval", interval);
  bool regular = true;
  std::vector<bool> recurrent;
  for (int64_t i = 0; i < c.num_layers(); ++i) {
    const bool full = c.layer_types[static_cast<size_t>(i)] == LayerKind::kFullAttention;
    regular = regular && full == ((i + 1) % interval == 0);
    recurrent.push_back(!full);
  }
  if (!regular) {
    if (parts.mtp) recurrent.push_back(false);
    set("attention.recurrent_layers", GgufArray(std::move(recurrent)));
  }
}

void add_generation_config(const GenerationConfig& g, GgufMetadata& metadata) {
  const auto number = [&](const char* name, std::optional<double> value) {
    if (value) metadata.set(fmt::format("general.sampling.{}", name), static_cast<float>(*value));
  };
  if (g.do_sample.has_value()) {
    number("temp", *g.do_sample ? g.temperature.value_or(1.0) : 0.0);  // as the absence of either is read
  } else {
    number("temp", g.temperature);
  }
  number("top_p", g.top_p);
  number("min_p", g.min_p);
  number("penalty_repeat", g.repetition_penalty);
  if (g.top_k) metadata.set("general.sampling.top_k", static_cast<int32_t>(*g.top_k));
}

}  // namespace qnext
