#include "model/peft.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "tensor/blocks.h"

namespace qnext {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kModel = "adapter_model.safetensors";
constexpr const char* kPrefix = "base_model.model.";
constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr int64_t kMaxRank = 1 << 16;
constexpr double kMaxAlpha = 1e9;

/// Null, false, 0, or empty: an option that is not used.
bool is_off(const Json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number()) return value.get<double>() == 0.0;
  return value.is_string() ? value.get_ref<const std::string&>().empty() : value.empty();
}

/// A key of a pattern that needs no regular expression: letters, digits, '_' and '.', maybe after '^'.
bool is_plain_name(std::string_view key) {
  if (key.starts_with('^')) key.remove_prefix(1);
  return !key.empty() && std::ranges::all_of(key, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  });
}

template <typename T>
const T* find_pattern(const std::vector<std::pair<std::string, T>>& patterns, std::string_view module) {
  for (const auto& [key, value] : patterns) {
    const std::string_view name = key;
    if (name.starts_with('^') ? module == name.substr(1) : lora_target_matches(name, module)) return &value;
  }
  return nullptr;
}

}  // namespace

int64_t PeftConfig::rank_of(std::string_view module) const {
  const int64_t* found = find_pattern(rank_pattern, module);
  return found == nullptr ? rank : *found;
}

double PeftConfig::scale_of(std::string_view module) const {
  const double* found = find_pattern(alpha_pattern, module);
  const auto r = static_cast<double>(rank_of(module));
  return (found == nullptr ? alpha : *found) / (rslora ? std::sqrt(r) : r);
}

PeftConfig parse_peft_config(std::string_view text, const std::string& file) {
  const Json json = parse_json_object(text, file);
  const JsonFields fields(json, file);
  PeftConfig config;
  if (fields.text("peft_type").value_or("") != "LORA") fields.fail("peft_type", "\"LORA\"");
  config.rank = fields.required_integer("r", 1, kMaxRank);
  if (!fields.has("lora_alpha")) fields.fail("lora_alpha", "a number");
  config.alpha = *fields.number("lora_alpha", -kMaxAlpha, kMaxAlpha);
  config.rslora = fields.boolean("use_rslora").value_or(false);
  config.base_model = fields.text("base_model_name_or_path").value_or("");

  const auto off = [&](const char* key, const char* expected) {
    const Json* value = fields.find(key);
    if (value != nullptr && !is_off(*value)) fields.fail(key, expected);
  };
  if (fields.text("bias").value_or("none") != "none") fields.fail("bias", "\"none\": biases cannot be added");
  off("fan_in_fan_out", "false: the matrices are [out, in]");
  off("lora_bias", "false: biases cannot be added");
  off("modules_to_save", "null: whole retrained modules are not read");
  off("target_parameters", "null: an adapter on stacked experts is not read");
  off("trainable_token_indices", "null: retrained embeddings are not read");
  off("layer_replication", "null: layers cannot be repeated");
  off("alora_invocation_tokens", "null: the adapter would have to be switched on by tokens");
  for (const char* key : {"arrow_config", "velora_config", "monteclora_config", "kasa_config"})
    off(key, "null: not LoRA alone");
  for (const auto& [key, value] : json.items()) {  // use_dora, use_qalora, ... and what is still to come
    if (key.starts_with("use_") && key != "use_rslora" && !is_off(value)) fields.fail(key, "false: not LoRA alone");
  }
  // Other initialisations take something away from the base model, which is then another one than the adapter names.
  if (const Json* init = fields.find("init_lora_weights"); init != nullptr && !init->is_boolean()) {
    const std::string name = fields.text("init_lora_weights").value_or("");
    if (name != "gaussian" && name != "eva" && name != "orthogonal") {
      fields.fail("init_lora_weights",
                  "true, false, \"gaussian\", \"eva\" or \"orthogonal\": others change the base model");
    }
  }

  const auto patterns = [&](const char* name, const auto& add) {
    if (!fields.has(name)) return;
    const auto object = fields.object(name);
    for (const auto& [key, value] : json[name].items()) {
      if (!is_plain_name(key)) object->fail(key, "a key that is a name and no regular expression");
      add(*object, key);
    }
  };
  patterns("rank_pattern", [&](const JsonFields& object, const std::string& key) {
    config.rank_pattern.emplace_back(key, object.required_integer(key, 1, kMaxRank));
  });
  patterns("alpha_pattern", [&](const JsonFields& object, const std::string& key) {
    if (!object.has(key)) object.fail(key, "a number");
    config.alpha_pattern.emplace_back(key, *object.number(key, -kMaxAlpha, kMaxAlpha));
  });
  if (const Json* targets = fields.find("target_modules"); targets != nullptr) {
    if (targets->is_string()) {
      config.targets.push_back(targets->get<std::string>());
    } else if (targets->is_array()) {
      for (size_t i = 0; i < targets->size(); ++i) {
        if (!(*targets)[i].is_string()) fields.fail_item("target_modules", i, "a text");
        config.targets.push_back((*targets)[i].get<std::string>());
      }
    } else {
      fields.fail("target_modules", "a text or a list of texts");
    }
  }
  return config;
}

bool is_peft_directory(const fs::path& directory) {
  std::error_code ignored;
  return fs::is_regular_file(directory / kConfig, ignored);
}

PeftConfig load_peft_config(const fs::path& directory) {
  if (!is_peft_directory(directory)) {
    throw Error(fmt::format("{}: not an adapter directory: it has no {}", directory.string(), kConfig));
  }
  const fs::path path = directory / kConfig;
  return parse_peft_config(read_text_file(path, kMaxConfigBytes), path.string());
}

namespace {

/// The two halves of a module's adapter.
struct Halves {
  const FileTensor *a = nullptr, *b = nullptr;
};

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

/// The tensors by module, for one that the model has; throws for every other.
std::map<std::string, Halves> halves_of(const std::vector<FileTensor>& tensors,
                                        const std::vector<LoraModule>& modules, const std::string& file) {
  std::unordered_set<std::string_view> names;
  for (const LoraModule& module : modules) names.insert(module.name);
  std::map<std::string, Halves> found;
  for (const FileTensor& tensor : tensors) {
    std::string_view name = tensor.name;
    const bool a = name.ends_with(".lora_A.weight"), b = name.ends_with(".lora_B.weight");
    if (!name.starts_with(kPrefix) || (!a && !b)) {
      throw FileError(file, tensor.name, fmt::format("{}MODULE.lora_A.weight or .lora_B.weight", kPrefix),
                      "another name");
    }
    name.remove_prefix(std::string_view(kPrefix).size());
    name.remove_suffix(std::string_view(".lora_A.weight").size());
    if (!names.contains(name)) {
      throw FileError(file, tensor.name, "a matrix of the model that an adapter can be on",
                      "no such module in this model");
    }
    Halves& halves = found[std::string(name)];
    (a ? halves.a : halves.b) = &tensor;
  }
  return found;
}

/// Of a tensor that has the shape.
void copy_tensor(const FileTensor& tensor, const std::string& file, std::span<float> out) {
  if (!tensor.dtype ||
      (*tensor.dtype != DType::kF32 && *tensor.dtype != DType::kBF16 && *tensor.dtype != DType::kF16)) {
    throw FileError(file, tensor.name, "F32, BF16 or F16", tensor.dtype_text);
  }
  decode(*tensor.dtype, tensor.bytes.data(), static_cast<int64_t>(out.size()), out.data());
  for (const float x : out) {
    if (!std::isfinite(x)) throw FileError(file, tensor.name, "finite values", fmt::format("{}", x));
  }
}

}  // namespace

std::unique_ptr<LoraArray> load_peft(const fs::path& directory, const ModelConfig& model, const StoredParts& parts,
                                     Backend& backend) {
  const PeftConfig config = load_peft_config(directory);
  const fs::path path = directory / kModel;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    throw Error(fmt::format(
        "{}: expected {} there, found none{}", directory.string(), kModel,
        fs::exists(directory / "adapter_model.bin", ignored) ? " but adapter_model.bin, which is not read" : ""));
  }
  const MappedFile mapped(path);
  const std::string file = path.string();
  const std::vector<FileTensor> tensors = parse_safetensors(mapped.bytes(), file);
  std::vector<LoraModule> modules = lora_modules(model, parts);
  const std::map<std::string, Halves> halves = halves_of(tensors, modules, file);
  if (halves.empty()) throw FileError(file, "tensors", "at least one module's lora_A and lora_B", "none");
  std::vector<LoraSpec> specs;
  for (LoraModule& module : modules) {
    const auto it = halves.find(module.name);
    if (it == halves.end()) continue;
    if (it->second.a == nullptr || it->second.b == nullptr) {
      throw FileError(file, kPrefix + module.name, "lora_A and lora_B",
                      it->second.a == nullptr ? "no lora_A" : "no lora_B");
    }
    const int64_t rank = config.rank_of(module.name);
    // Before anything of that size is allocated.
    const auto check = [&](const FileTensor& tensor, std::vector<int64_t> shape) {
      if (tensor.shape != shape) throw FileError(file, tensor.name, shape_text(shape), shape_text(tensor.shape));
    };
    check(*it->second.a, {rank, module.cols});
    check(*it->second.b, {module.rows, rank});
    const double scale = config.scale_of(module.name);
    specs.push_back({std::move(module), rank, scale});
  }
  auto lora = std::make_unique<LoraArray>(std::move(specs), backend);
  for (size_t i = 0; i < lora->specs().size(); ++i) {
    const Halves& of_module = halves.at(lora->specs()[i].module.name);
    copy_tensor(*of_module.a, file, lora->a(i));
    copy_tensor(*of_module.b, file, lora->b(i));
  }
  return lora;
}

void write_peft(const fs::path& directory, const PeftConfig& config, const LoraArray& lora, DType dtype) {
  QNEXT_CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  std::vector<TensorSpec> specs;
  for (const ParameterInfo& p : lora.parameters()) specs.push_back({kPrefix + p.name, dtype, {p.rows, p.cols}});
  const auto writer = create_safetensors(directory / kModel, specs, {{"format", "pt"}});
  std::vector<uint16_t> halves;
  for (const ParameterInfo& p : lora.parameters()) {
    const std::span<const float> values = lora.of(p);
    if (dtype == DType::kF32) {
      writer->append(std::as_bytes(values));
      continue;
    }
    halves.resize(values.size());
    std::ranges::transform(values, halves.begin(), [](float x) { return f32_to_bf16(x); });
    writer->append(std::as_bytes(std::span(halves)));
  }
  writer->finish();

  nlohmann::ordered_json json{{"peft_type", "LORA"},
                              {"task_type", "CAUSAL_LM"},
                              {"base_model_name_or_path", config.base_model},
                              {"r", config.rank},
                              {"lora_alpha", config.alpha},
                              {"lora_dropout", 0.0},
                              {"target_modules", config.targets},
                              {"bias", "none"},
                              {"fan_in_fan_out", false},
                              {"use_rslora", config.rslora},
                              {"use_dora", false},
                              {"init_lora_weights", true},
                              {"inference_mode", true},
                              {"modules_to_save", nullptr},
                              {"layers_to_transform", nullptr},
                              {"layers_pattern", nullptr},
                              {"rank_pattern", nlohmann::ordered_json::object()},
                              {"alpha_pattern", nlohmann::ordered_json::object()}};
  if (config.alpha == std::floor(config.alpha) && std::abs(config.alpha) < 1e15) {
    json["lora_alpha"] = static_cast<int64_t>(config.alpha);  // as PEFT writes it
  }
  for (const auto& [key, rank] : config.rank_pattern) json["rank_pattern"][key] = rank;
  for (const auto& [key, alpha] : config.alpha_pattern) json["alpha_pattern"][key] = alpha;
  write_text_file(directory / kConfig, json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace qnext
