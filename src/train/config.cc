#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/gguf.h"
#include "formats/json.h"
#include "model/gguf_config.h"
#include "model/lora.h"
#include "tokenizer/tokenizer.h"

namespace qnext {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kHuge = int64_t{1} << 40;

enum class Type { kInteger, kNumber, kBoolean, kText, kTexts, kIntegers, kPairs, kStages };

const char* type_text(Type type) {
  switch (type) {
    case Type::kInteger: return "an integer";
    case Type::kNumber: return "a number";
    case Type::kBoolean: return "true or false";
    case Type::kText: return "a text";
    case Type::kTexts: return "a text or a list of texts";
    case Type::kIntegers: return "a list of integers";
    case Type::kPairs: return "a list of two numbers";
    case Type::kStages: return "a list of { tokens_seen = N, sequence_length = N }";
  }
  return "";
}

/// A row of the table. `fallback` is TOML; null: the key is left out, or required when `required` says so.
struct Key {
  const char* section;
  const char* name;
  Type type;
  const char* fallback;
  double min, max;
  const char* choices;  ///< of a text, separated by '|'
  const char* doc;
  bool required = false;
  std::string path() const { return fmt::format("{}.{}", section, name); }
};


// clang-format off
constexpr Key kKeys[] = {
    {"run", "output", Type::kText, nullptr, 0, 0, nullptr,
     "directory of the run: checkpoints, metrics. A run that is already there goes on", true},
    {"run", "seed", Type::kInteger, "1", 0, 9e15, nullptr, "of the initial weights"},
    {"run", "threads", Type::kInteger, "0", 0, 4096, nullptr, "0: one per CPU that the process may use; changes no result"},
    {"run", "products", Type::kText, "\"f32\"", 0, 0, "auto|f32|bf16",
     "bf16: operands of matrix products are rounded to bf16 and summed in f32 (weights, gradients and optimiser stay f32; so do attention, "
     "DeltaNet's rule, norms, the router's choice and the loss). auto: bf16 where the CPU has instructions for it (AMX-BF16 or AVX512-BF16), "
     "else f32; bf16 on other CPUs gives about the same numbers, without the speed"},

    {"model", "from", Type::kText, nullptr, 0, 0, nullptr,
     "Hugging Face directory to start from (with [lora] also a .gguf file); it says the shape, and no key of the shape may be given"},
    {"model", "tokenizer", Type::kText, nullptr, 0, 0, nullptr,
     "directory with tokenizer.json, and chat_template.jinja, generation_config.json if there are any: copied into the "
     "checkpoints. Default: that of `from`"},
    {"model", "mtp_steps", Type::kInteger, "1", 0, 8, nullptr,
     "tokens beyond the next that the MTP module learns to predict; 0: none, as always with [lora]"},
    {"model", "initializer_range", Type::kNumber, "0.02", 0, 1, nullptr,
     "standard deviation of all matrices; rows of the router are scaled to the same length"},
    {"model", "dt_bias", Type::kText, "\"log_uniform\"", 0, 0, "log_uniform|ones",
     "time steps of DeltaNet at the start: log-uniform in [0.001, 0.1], or softplus(1) everywhere as in transformers"},
    {"model", "vocab_size", Type::kInteger, nullptr, 1, 1 << 24, nullptr, "rows of embedding and head. Default: the tokenizer's, rounded up to 64"},
    {"model", "hidden_size", Type::kInteger, nullptr, 1, 1 << 16, nullptr, "required without `from`"},
    {"model", "num_hidden_layers", Type::kInteger, nullptr, 1, 1 << 10, nullptr, "required without `from`"},
    {"model", "full_attention_interval", Type::kInteger, "4", 1, 1 << 10, nullptr, "every so manieth layer is gated attention, the others Gated DeltaNet"},
    {"model", "num_attention_heads", Type::kInteger, nullptr, 1, 1 << 10, nullptr, "required without `from`"},
    {"model", "num_key_value_heads", Type::kInteger, nullptr, 1, 1 << 10, nullptr, "required without `from`"},
    {"model", "head_dim", Type::kInteger, "256", 2, 1 << 12, nullptr, "of attention"},
    {"model", "partial_rotary_factor", Type::kNumber, "0.25", 0, 1, nullptr, "share of a head's dimensions that RoPE turns"},
    {"model", "rope_theta", Type::kNumber, "1e7", 1.001, 1e15, nullptr, ""},
    {"model", "linear_num_key_heads", Type::kInteger, "16", 1, 1 << 10, nullptr, "of Gated DeltaNet"},
    {"model", "linear_num_value_heads", Type::kInteger, "32", 1, 1 << 10, nullptr, "a multiple of linear_num_key_heads"},
    {"model", "linear_key_head_dim", Type::kInteger, "128", 1, 1 << 12, nullptr, ""},
    {"model", "linear_value_head_dim", Type::kInteger, "128", 1, 1 << 12, nullptr, ""},
    {"model", "linear_conv_kernel_dim", Type::kInteger, "4", 2, 16, nullptr, ""},
    {"model", "num_experts", Type::kInteger, "512", 0, 1 << 14, nullptr, "0: every layer has a dense MLP"},
    {"model", "num_experts_per_tok", Type::kInteger, "10", 1, 1 << 14, nullptr, ""},
    {"model", "moe_intermediate_size", Type::kInteger, "512", 1, 1 << 20, nullptr, "width of an expert"},
    {"model", "shared_expert_intermediate_size", Type::kInteger, "512", 1, 1 << 20, nullptr, ""},
    {"model", "norm_topk_prob", Type::kBoolean, "true", 0, 0, nullptr, "the weights of the chosen experts sum to 1"},
    {"model", "intermediate_size", Type::kInteger, "5632", 1, 1 << 20, nullptr, "width of a dense MLP"},
    {"model", "mlp_only_layers", Type::kIntegers, "[]", 0, 1 << 10, nullptr, "layers with a dense MLP"},
    {"model", "decoder_sparse_step", Type::kInteger, "1", 1, 1 << 10, nullptr, "every so manieth layer has experts"},
    {"model", "rms_norm_eps", Type::kNumber, "1e-6", 1e-30, 1, nullptr, ""},
    {"model", "tie_word_embeddings", Type::kBoolean, "false", 0, 0, nullptr, "the head is the embedding"},
    {"model", "max_position_embeddings", Type::kInteger, "262144", 1, 1 << 28, nullptr, "tokens of context that the config.json promises"},

    {"lora", "rank", Type::kInteger, nullptr, 1, 1 << 12, nullptr,
     "with this key the model of `from` stays as it is, in the types it is stored in, and W x becomes W x + alpha / rank * B A x: A and B "
     "are trained, and checkpoints are adapters that PEFT and `qnext run --lora` load (no dropout). Without it there is no LoRA"},
    {"lora", "alpha", Type::kNumber, nullptr, 1e-6, 1e6, nullptr, "Default: 2 rank"},
    {"lora", "targets", Type::kTexts, nullptr, 0, 0, nullptr,
     "modules with an A and B, by the end of their name as in PEFT: \"up_proj\" is that of every expert, \"shared_expert.up_proj\" is not. "
     "Default: q_proj, k_proj, v_proj, o_proj, in_proj_qkvz, out_proj. Those of MLPs, gate_proj, up_proj, down_proj, run and merge here, "
     "but PEFT with transformers 5 does not load them"},

    {"data", "train", Type::kTexts, nullptr, 0, 0, nullptr, "directories that `qnext data pack` made", true},
    {"data", "valid", Type::kTexts, "[]", 0, 0, nullptr, "the same, for evaluations"},
    {"data", "seed", Type::kInteger, "1", 0, 9e15, nullptr, "of the order of documents, another one in every epoch"},
    {"data", "sequence_length", Type::kInteger, "2048", 2, kHuge, nullptr,
     "rows of a lane in a step: gradients reach back this far at most. A step has batch_tokens / sequence_length lanes"},
    {"data", "curriculum", Type::kStages, "[]", 0, 0, nullptr, "other sequence lengths after so many tokens, ascending"},
    {"data", "batch_tokens", Type::kInteger, "32768", 2, kHuge, nullptr, "tokens of an optimiser step, a multiple of every sequence length"},
    {"data", "micro_batch_tokens", Type::kInteger, "4096", 2, kHuge, nullptr,
     "about so many rows are computed at a time (whole lanes): decides working memory and speed, and the order of sums"},
    {"data", "carry_state", Type::kBoolean, "true", 0, 0, nullptr,
     "a document that does not end in its lane continues in the next step from its recurrent state and keys; else its parts are documents by themselves"},
    {"data", "max_context", Type::kInteger, nullptr, 64, 1 << 28, nullptr,
     "a longer document is cut: what follows begins anew. Default: max_position_embeddings"},
    {"data", "allow_change", Type::kBoolean, "false", 0, 0, nullptr,
     "a resumed run that finds other data begins an epoch of it instead of refusing"},

    {"optimizer", "kind", Type::kText, "\"adamw\"", 0, 0, "adamw|muon",
     "muon: for hidden matrices; embedding, head, router, gates and vectors stay with adamw"},
    {"optimizer", "learning_rate", Type::kNumber, "3e-4", 0, 10, nullptr, "at its highest"},
    {"optimizer", "muon_learning_rate", Type::kNumber, nullptr, 0, 10, nullptr,
     "of updates scaled to adamw's size (0.2 sqrt(max(rows, columns))). Default: learning_rate"},
    {"optimizer", "betas", Type::kPairs, "[0.9, 0.95]", 0, 0.999999, nullptr, "of adamw"},
    {"optimizer", "eps", Type::kNumber, "1e-8", 1e-30, 1, nullptr, "of adamw"},
    {"optimizer", "momentum", Type::kNumber, "0.95", 0, 0.999999, nullptr, "of muon, Nesterov's"},
    {"optimizer", "weight_decay", Type::kNumber, "0.1", 0, 100, nullptr,
     "on matrices and zero-centred norm weights; none on A_log, dt_bias, conv1d and the gated norm's weight"},
    {"optimizer", "clip", Type::kNumber, "1.0", 0, 1e9, nullptr, "largest norm of the whole gradient; 0: none"},
    {"optimizer", "steps", Type::kInteger, nullptr, 1, kHuge, nullptr, "of the whole run; this or `tokens` is required"},
    {"optimizer", "tokens", Type::kInteger, nullptr, 1, 1e15, nullptr, "of the whole run, rounded up to whole steps"},
    {"optimizer", "warmup_steps", Type::kInteger, "100", 0, kHuge, nullptr, "the learning rate rises in a line from 0"},
    {"optimizer", "schedule", Type::kText, "\"cosine\"", 0, 0, "cosine|wsd|constant",
     "after warm-up. wsd: constant, then a line down over the last decay_fraction of the steps"},
    {"optimizer", "final_fraction", Type::kNumber, "0.1", 0, 1, nullptr, "of learning_rate at the end"},
    {"optimizer", "decay_fraction", Type::kNumber, "0.2", 0, 1, nullptr, "see schedule"},

    {"loss", "balance", Type::kText, "\"global\"", 0, 0, "global|hf|none",
     "load-balance loss: counts per layer over the whole step (1 at balance), or transformers' form pooled over layers (k at balance)"},
    {"loss", "balance_coefficient", Type::kNumber, "0.001", 0, 1e6, nullptr, ""},
    {"loss", "z_coefficient", Type::kNumber, "0.0", 0, 1e6, nullptr, "of the mean squared log-sum-exp of router logits"},
    {"loss", "mtp_weight", Type::kNumber, "0.1", 0, 1e6, nullptr, "of the mean loss of the MTP steps"},

    {"checkpoint", "every", Type::kInteger, "500", 1, kHuge, nullptr, "steps"},
    {"checkpoint", "keep_last", Type::kInteger, "2", 1, kHuge, nullptr, "older ones are removed"},
    {"checkpoint", "keep_best", Type::kBoolean, "true", 0, 0, nullptr,
     "the one of the lowest validation loss stays too; evaluations that are better than all before save one"},
    {"checkpoint", "dtype", Type::kText, "\"f32\"", 0, 0, "f32|bf16", "of model.safetensors; training goes on from f32 either way"},

    {"evaluation", "every", Type::kInteger, "500", 1, kHuge, nullptr, "steps, where there is validation data; at the end too"},
    {"evaluation", "tokens", Type::kInteger, "65536", 2, kHuge, nullptr, "of the validation data, always the same"},

    {"evaluation", "prompts", Type::kTexts, "[]", 0, 0, nullptr,
     "what the model answers to whenever an evaluation saves a checkpoint: sample texts for metrics, TensorBoard and the report"},
    {"evaluation", "sample_tokens", Type::kInteger, "60", 1, 1 << 20, nullptr, "most tokens of a sample text"},
    {"memory", "activations_mib", Type::kInteger, "1024", 0, 1 << 24, nullptr,
     "for activations inside layers that are kept for the backward pass; the others are computed again, to the same bits"},

    {"distributed", "expert_parallel", Type::kBoolean, "false", 0, 0, nullptr,
     "under mpirun: each of R processes has num_experts / R experts of every layer, with their gradients and moments, and computes "
     "them for the rows of all. R must divide num_experts"},
};
// clang-format on

/// Reads one file by the table.
class Reader {
 public:
  Reader(const toml::table& table, std::string file) : file_(std::move(file)) {
    for (const auto& [section, node] : table) {
      const bool known = std::ranges::any_of(kKeys, [&](const Key& k) { return section.str() == k.section; });
      if (!known) fail(node, std::string(section.str()), "a section that `qnext train --explain` lists", "an unknown one");
      if (!node.is_table()) fail(node, std::string(section.str()), "a section", describe(node));
      for (const auto& [name, value] : *node.as_table()) {
        const std::string path = fmt::format("{}.{}", section.str(), name.str());
        const auto key = std::ranges::find_if(kKeys, [&](const Key& k) { return k.path() == path; });
        if (key == std::end(kKeys)) fail(value, path, "a key that `qnext train --explain` lists", "an unknown one");
        given_[path] = &value;
        check(*key, value);
      }
    }
    for (const Key& key : kKeys) {
      const std::string path = key.path();
      if (given_.contains(path)) continue;
      if (key.required) missing(path);
      if (key.fallback == nullptr) continue;
      defaults_.emplace_back(toml::parse(fmt::format("x = {}", key.fallback)));
      fallbacks_[path] = defaults_.back().get("x");
    }
  }

  bool given(const std::string& path) const { return given_.contains(path); }
  /// The node, given or by default; null when neither.
  const toml::node* find(const std::string& path) const {
    if (const auto it = given_.find(path); it != given_.end()) return it->second;
    const auto it = fallbacks_.find(path);
    return it == fallbacks_.end() ? nullptr : it->second;
  }
  int64_t integer(const std::string& path) const { return *find(path)->value<int64_t>(); }
  double number(const std::string& path) const { return *find(path)->value<double>(); }
  bool boolean(const std::string& path) const { return *find(path)->value<bool>(); }
  std::string text(const std::string& path) const {
    const toml::node* node = find(path);
    return node == nullptr ? "" : *node->value<std::string>();
  }
  std::vector<std::string> texts(const std::string& path) const {
    const toml::node* node = find(path);
    if (const auto one = node->value<std::string>()) return {*one};
    std::vector<std::string> list;
    for (const auto& item : *node->as_array()) list.push_back(*item.value<std::string>());
    return list;
  }

  [[noreturn]] void fail(const toml::node& node, const std::string& path, const std::string& expected,
                         const std::string& found) const {
    throw FileError(fmt::format("{}:{}", file_, node.source().begin.line), path, expected, found);
  }
  [[noreturn]] void fail(const std::string& path, const std::string& expected, const std::string& found) const {
    if (const auto it = given_.find(path); it != given_.end()) fail(*it->second, path, expected, found);
    throw FileError(file_, path, expected, found);
  }
  [[noreturn]] void missing(const std::string& path) const { throw FileError(file_, path, "a value", "nothing"); }

  static std::string describe(const toml::node& node) {
    if (node.is_table()) return "a table";
    std::ostringstream out;
    node.visit([&](const auto& value) { out << value; });
    if (node.is_string()) return qnext::quoted(*node.value<std::string>());
    std::string text = qnext::quoted(out.str());  // escaped and cut
    text.erase(text.rfind('"'), 1);
    return text.substr(1);
  }

  std::map<std::string, std::string> values() const {
    std::map<std::string, std::string> result;
    for (const Key& key : kKeys) {
      const toml::node* node = find(key.path());
      if (node == nullptr) continue;
      std::ostringstream out;
      node->visit([&](const auto& value) { out << value; });
      result[key.path()] = out.str();
    }
    return result;
  }

 private:
  void check_number(const Key& key, const toml::node& node, double value) const {
    if (value >= key.min && value <= key.max) return;
    fail(node, key.path(), fmt::format("{} from {} to {}", type_text(key.type), key.min, key.max), describe(node));
  }

  void check(const Key& key, const toml::node& node) const {
    const auto wrong = [&] { fail(node, key.path(), type_text(key.type), describe(node)); };
    switch (key.type) {
      case Type::kInteger:
        if (!node.is_integer()) wrong();
        return check_number(key, node, static_cast<double>(*node.value<int64_t>()));
      case Type::kNumber:
        if (!node.is_number() || !std::isfinite(*node.value<double>())) wrong();
        return check_number(key, node, *node.value<double>());
      case Type::kBoolean:
        if (!node.is_boolean()) wrong();
        return;
      case Type::kText: {
        if (!node.is_string()) wrong();
        if (key.choices == nullptr) return;
        const std::string value = *node.value<std::string>();
        std::string choices = key.choices, one;
        for (std::istringstream in(choices); std::getline(in, one, '|');) {
          if (one == value) return;
        }
        std::ranges::replace(choices, '|', ' ');
        return fail(node, key.path(), fmt::format("one of: {}", choices), describe(node));
      }
      case Type::kTexts:
        if (node.is_string()) return;
        if (!node.is_array()) wrong();
        for (const auto& item : *node.as_array()) {
          if (!item.is_string()) wrong();
        }
        return;
      case Type::kIntegers:
      case Type::kPairs: {
        if (!node.is_array()) wrong();
        for (const auto& item : *node.as_array()) {
          if (key.type == Type::kIntegers ? !item.is_integer() : !item.is_number()) wrong();
          check_number(key, item, *item.value<double>());
        }
        if (key.type == Type::kPairs && node.as_array()->size() != 2) wrong();
        return;
      }
      case Type::kStages:
        if (!node.is_array()) wrong();
        for (const auto& item : *node.as_array()) {
          const toml::table* table = item.as_table();
          if (table == nullptr || table->size() != 2) wrong();
          for (const char* field : {"tokens_seen", "sequence_length"}) {
            const toml::node* value = table->get(field);
            if (value == nullptr || !value->is_integer() || *value->value<int64_t>() < 1) wrong();
          }
        }
        return;
    }
  }

  std::string file_;
  std::map<std::string, const toml::node*> given_, fallbacks_;
  std::deque<toml::table> defaults_;
};

/// Keys of [model] that go into a config.json under their own names.
const char* const kShapeKeys[] = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "full_attention_interval", "num_attention_heads",
    "num_key_value_heads", "head_dim", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
    "linear_value_head_dim", "linear_conv_kernel_dim", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
    "shared_expert_intermediate_size", "norm_topk_prob", "mlp_only_layers", "decoder_sparse_step", "rms_norm_eps",
    "tie_word_embeddings", "max_position_embeddings", "partial_rotary_factor", "rope_theta"};

Json to_json(const toml::node& node) {
  if (node.is_integer()) return *node.value<int64_t>();
  if (node.is_number()) return *node.value<double>();
  if (node.is_boolean()) return *node.value<bool>();
  Json list = Json::array();
  for (const auto& item : *node.as_array()) list.push_back(to_json(item));
  return list;
}

/// The end tokens that the tokenizer's directory states: of generation_config.json, else of tokenizer_config.json's
/// eos_token. Null: none.
Json end_tokens(const fs::path& directory, const Tokenizer& tokenizer) {
  const GenerationConfig generation = load_generation_config(directory);
  if (!generation.eos_token_ids.empty()) return generation.eos_token_ids.front();
  const fs::path path = directory / "tokenizer_config.json";
  if (!fs::exists(path)) return nullptr;
  const std::string name = path.string();
  const nlohmann::json tree = parse_json_object(read_text_file(path, size_t{64} << 20), name);
  const auto it = tree.find("eos_token");
  std::string text;
  if (it != tree.end() && it->is_string()) text = it->get<std::string>();
  if (it != tree.end() && it->is_object() && it->contains("content") && (*it)["content"].is_string()) text = (*it)["content"];
  const auto id = text.empty() ? std::nullopt : tokenizer.token_id(text);
  return id ? Json(*id) : Json(nullptr);
}

Json config_of_keys(const Reader& reader, const fs::path& tokenizer_directory) {
  Json json{{"architectures", {"Qwen3NextForCausalLM"}}, {"model_type", "qwen3_next"}, {"hidden_act", "silu"},
            {"attention_bias", false}, {"attention_dropout", 0.0}};
  for (const char* name : {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}) {
    if (!reader.given(fmt::format("model.{}", name))) reader.missing(fmt::format("model.{}", name));
  }
  for (const char* name : kShapeKeys) {
    if (const toml::node* node = reader.find(fmt::format("model.{}", name))) json[name] = to_json(*node);
  }
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_directory);
  if (!json.contains("vocab_size")) json["vocab_size"] = (tokenizer.vocab_size() + 63) / 64 * 64;
  if (json["vocab_size"].get<int64_t>() < tokenizer.vocab_size()) {
    reader.fail("model.vocab_size", fmt::format("at least the tokenizer's {} ids", tokenizer.vocab_size()),
                json["vocab_size"].dump());
  }
  const int64_t layers = json["num_hidden_layers"], interval = json["full_attention_interval"];
  Json types = Json::array();
  for (int64_t i = 0; i < layers; ++i) types.push_back((i + 1) % interval == 0 ? "full_attention" : "linear_attention");
  json["layer_types"] = types;
  json["rope_parameters"] = {{"rope_type", "default"},
                             {"rope_theta", json["rope_theta"]},
                             {"partial_rotary_factor", json["partial_rotary_factor"]}};
  json["initializer_range"] = reader.number("model.initializer_range");
  json["router_aux_loss_coef"] = reader.number("loss.balance_coefficient");
  json["output_router_logits"] = false;
  json["use_cache"] = true;
  json["bos_token_id"] = nullptr;
  json["eos_token_id"] = end_tokens(tokenizer_directory, tokenizer);
  return json;
}

/// How a config.json's field is called in the table; errors about it name the line of the key.
ModelConfig shape_of(const Json& json, const Reader& reader, const std::string& file, bool from) {
  try {
    return parse_config(json.dump(), file);
  } catch (const FileError& error) {
    const std::string path = "model." + error.field;
    if (from || !reader.given(path)) throw;
    reader.fail(path, error.expected, error.found);
  }
}

/// What `from` is, which [lora] may leave in a GGUF file.
ModelConfig shape_of_base(const fs::path& from) {
  if (from.extension() != ".gguf") return load_config(from);
  const GgufCheckpoint file(from);
  return config_from_gguf(file.metadata(), file, file.file());
}

/// Those that every version of PEFT and transformers loads: see docs/training.md.
constexpr const char* kLoraTargets[] = {"q_proj", "k_proj", "v_proj", "o_proj", "in_proj_qkvz", "out_proj"};

/// The section [lora], for a model of that shape.
TrainConfig::Lora lora_of(const Reader& reader, const ModelConfig& shape) {
  TrainConfig::Lora lora;
  lora.rank = reader.integer("lora.rank");
  lora.alpha = reader.given("lora.alpha") ? reader.number("lora.alpha") : 2.0 * static_cast<double>(lora.rank);
  // Without the head, whose product is part of the loss.
  const std::vector<LoraModule> modules = lora_modules(shape, {.tied_head = true});
  const auto matches = [&](const std::string& target) {
    return std::ranges::any_of(modules, [&](const LoraModule& m) { return lora_target_matches(target, m.name); });
  };
  if (!reader.given("lora.targets")) {
    std::ranges::copy_if(kLoraTargets, std::back_inserter(lora.targets), matches);  // of those that a model like this has
    return lora;
  }
  lora.targets = reader.texts("lora.targets");
  if (lora.targets.empty()) reader.fail("lora.targets", "at least one name", "none");
  std::vector<std::string> known;  // the last parts of the modules' names
  for (const LoraModule& module : modules) {
    const std::string end = module.name.substr(module.name.rfind('.') + 1);
    if (std::ranges::find(known, end) == known.end()) known.push_back(end);
  }
  for (const std::string& target : lora.targets) {
    if (matches(target)) continue;
    reader.fail("lora.targets", fmt::format("names of modules of the model ({})", fmt::join(known, ", ")), qnext::quoted(target));
  }
  return lora;
}

}  // namespace

const TrainConfig::Data::Stage& TrainConfig::stage(int64_t tokens_seen) const {
  size_t i = 0;
  while (i + 1 < data.stages.size() && data.stages[i + 1].tokens_seen <= tokens_seen) ++i;
  return data.stages[i];
}

TrainConfig parse_train_config(std::string_view text, const std::string& file, const fs::path& directory) {
  toml::table table;
  try {
    table = toml::parse(text, file);
  } catch (const toml::parse_error& error) {
    throw Error(fmt::format("{}:{}: {}", file, error.source().begin.line, error.description()));
  }
  const Reader reader(table, file);
  const auto path_of = [&](const std::string& key) {
    const std::string value = reader.text(key);
    return value.empty() ? fs::path() : directory / value;
  };
  const auto paths_of = [&](const std::string& key) {
    std::vector<fs::path> paths;
    for (const std::string& value : reader.texts(key)) paths.push_back(directory / value);
    return paths;
  };
  TrainConfig c;
  c.text = text;
  c.values = reader.values();
  c.run = {path_of("run.output"), reader.integer("run.seed"), reader.integer("run.threads")};
  const std::string products = reader.text("run.products");
  c.run.products = products == "f32" ? ProductsChoice::kF32 : products == "bf16" ? ProductsChoice::kBf16 : ProductsChoice::kAuto;

  c.model.from = path_of("model.from");
  c.model.tokenizer = reader.given("model.tokenizer") ? path_of("model.tokenizer") : c.model.from;
  if (c.model.tokenizer.empty()) reader.missing("model.tokenizer");
  const bool lora = reader.given("lora.rank");
  for (const char* key : {"lora.alpha", "lora.targets"}) {
    if (!lora && reader.given(key)) reader.missing("lora.rank");
  }
  if (lora && c.model.from.empty()) reader.missing("model.from");
  if (!lora && c.model.from.extension() == ".gguf") {
    reader.fail("model.from", "a Hugging Face directory: the weights of a GGUF file can only stay as they are, under [lora]",
                c.model.from.string());
  }
  c.model.mtp_steps = lora && !reader.given("model.mtp_steps") ? 0 : reader.integer("model.mtp_steps");
  if (lora && c.model.mtp_steps > 0) {
    reader.fail("model.mtp_steps", "0 with [lora]: the MTP module is frozen", fmt::format("{}", c.model.mtp_steps));
  }
  c.model.initializer_range = reader.number("model.initializer_range");
  c.model.dt_bias = reader.text("model.dt_bias") == "ones" ? DtBias::kOnes : DtBias::kLogUniform;
  Json json;
  if (c.model.from.empty()) {
    json = config_of_keys(reader, c.model.tokenizer);
  } else {
    for (const char* name : kShapeKeys) {
      const std::string path = fmt::format("model.{}", name);
      if (reader.given(path)) reader.fail(path, "nothing: the shape is that of model.from", Reader::describe(*reader.find(path)));
    }
    c.shape = shape_of_base(c.model.from);  // checks it under its own name
    if (!lora) {
      json = Json::parse(read_text_file(c.model.from / "config.json", kMaxConfigBytes * 4));
      json.erase("quantization_config");
      json.erase("mtp_num_hidden_layers");
    }
  }
  const bool bf16 = reader.text("checkpoint.dtype") == "bf16";
  if (lora) {
    c.lora = lora_of(reader, c.shape);
  } else {
    json["num_nextn_predict_layers"] = c.model.mtp_steps > 0 ? 1 : 0;
    json.erase("torch_dtype");
    json["dtype"] = bf16 ? "bfloat16" : "float32";
    c.shape = shape_of(json, reader, c.model.from.empty() ? file : (c.model.from / "config.json").string(), !c.model.from.empty());
    c.config_json = json.dump(2) + "\n";
  }

  c.data.train = paths_of("data.train");
  c.data.valid = paths_of("data.valid");
  if (c.data.train.empty()) reader.fail("data.train", "at least one directory", "none");
  c.data.seed = reader.integer("data.seed");
  c.data.batch_tokens = reader.integer("data.batch_tokens");
  c.data.micro_batch_tokens = reader.integer("data.micro_batch_tokens");
  c.data.carry_state = reader.boolean("data.carry_state");
  c.data.allow_change = reader.boolean("data.allow_change");
  c.data.max_context = reader.given("data.max_context") ? reader.integer("data.max_context") : c.shape.max_position_embeddings;
  c.data.stages.push_back({0, reader.integer("data.sequence_length")});
  for (const auto& item : *reader.find("data.curriculum")->as_array()) {
    const toml::table& stage = *item.as_table();
    c.data.stages.push_back({*stage.get("tokens_seen")->value<int64_t>(), *stage.get("sequence_length")->value<int64_t>()});
    if (c.data.stages.back().tokens_seen <= c.data.stages[c.data.stages.size() - 2].tokens_seen) {
      reader.fail(item, "data.curriculum", "ascending tokens_seen", fmt::format("{}", c.data.stages.back().tokens_seen));
    }
  }
  for (const auto& stage : c.data.stages) {
    if (stage.sequence_length > c.data.batch_tokens || c.data.batch_tokens % stage.sequence_length != 0) {
      reader.fail("data.batch_tokens", fmt::format("a multiple of the sequence length {}", stage.sequence_length),
                  fmt::format("{}", c.data.batch_tokens));
    }
  }

  TrainConfig::Optimizer& o = c.optimizer;
  o.kind = reader.text("optimizer.kind") == "muon" ? OptimizerKind::kMuon : OptimizerKind::kAdamW;
  o.learning_rate = reader.number("optimizer.learning_rate");
  o.muon_learning_rate = reader.given("optimizer.muon_learning_rate") ? reader.number("optimizer.muon_learning_rate") : o.learning_rate;
  const toml::array& betas = *reader.find("optimizer.betas")->as_array();
  o.beta1 = *betas[0].value<double>();
  o.beta2 = *betas[1].value<double>();
  o.eps = reader.number("optimizer.eps");
  o.momentum = reader.number("optimizer.momentum");
  o.weight_decay = reader.number("optimizer.weight_decay");
  o.clip = reader.number("optimizer.clip");
  const bool steps = reader.given("optimizer.steps"), tokens = reader.given("optimizer.tokens");
  if (steps == tokens) {
    reader.fail("optimizer.steps", "steps or tokens, one of them", steps ? "both" : "neither");
  }
  o.steps = steps ? reader.integer("optimizer.steps")
                  : (reader.integer("optimizer.tokens") + c.data.batch_tokens - 1) / c.data.batch_tokens;
  o.warmup_steps = reader.integer("optimizer.warmup_steps");
  const std::string schedule = reader.text("optimizer.schedule");
  o.schedule = schedule == "wsd" ? ScheduleKind::kWsd : schedule == "constant" ? ScheduleKind::kConstant : ScheduleKind::kCosine;
  o.final_fraction = reader.number("optimizer.final_fraction");
  o.decay_fraction = reader.number("optimizer.decay_fraction");

  const std::string balance = reader.text("loss.balance");
  c.loss.balance = balance == "global" ? BalanceForm::kGlobal : balance == "hf" ? BalanceForm::kHuggingFace : BalanceForm::kNone;
  c.loss.balance_coefficient = reader.number("loss.balance_coefficient");
  c.loss.z_coefficient = reader.number("loss.z_coefficient");
  c.loss.mtp_weight = reader.number("loss.mtp_weight");

  c.checkpoint = {reader.integer("checkpoint.every"), reader.integer("checkpoint.keep_last"),
                  reader.boolean("checkpoint.keep_best"), bf16};
  c.evaluation = {reader.integer("evaluation.every"), reader.integer("evaluation.tokens"), reader.texts("evaluation.prompts"),
                  reader.integer("evaluation.sample_tokens")};
  c.memory.activation_bytes = reader.integer("memory.activations_mib") << 20;
  c.distributed.expert_parallel = reader.boolean("distributed.expert_parallel");
  if (c.distributed.expert_parallel && c.shape.num_experts == 0) {
    reader.fail("distributed.expert_parallel", "false: the model has no experts", "true");
  }
  if (c.distributed.expert_parallel && lora) {
    reader.fail("distributed.expert_parallel", "false with [lora], whose base is mapped and not divided", "true");
  }
  return c;
}

TrainConfig load_train_config(const fs::path& path) {
  return parse_train_config(read_text_file(path, kMaxConfigBytes), path.string(), path.parent_path());
}

std::string explain_train_config() {
  std::string text = "# Every key of `qnext train --config FILE`. A key with a value here has it by default.\n";
  const char* section = "";
  for (const Key& key : kKeys) {
    if (std::string_view(section) != key.section) text += fmt::format("\n[{}]\n", section = key.section);
    std::string what = type_text(key.type);
    if (key.choices != nullptr) {
      what = key.choices;
      for (size_t at = 0; (at = what.find('|', at)) != what.npos;) what.replace(at, 1, ", ");
    } else if (key.max > key.min) {
      what += fmt::format(" from {} to {}", key.min, key.max);
    }
    if (key.required) what += ", required";
    text += fmt::format("# {}{}{}\n", what, *key.doc != '\0' ? ": " : "", key.doc);
    text += key.fallback != nullptr ? fmt::format("{} = {}\n", key.name, key.fallback) : fmt::format("# {} =\n", key.name);
  }
  return text;
}

}  // namespace qnext
