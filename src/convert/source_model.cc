#include "convert/source_model.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/safetensors.h"
#include "model/gguf_config.h"
#include "tokenizer/tokenizer.h"

namespace qnext {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kMaxTextBytes = size_t{64} << 20;

std::optional<std::string> chat_template(const fs::path& directory) {
  const fs::path file = directory / "chat_template.jinja", config = directory / "tokenizer_config.json";
  if (fs::exists(file)) return read_text_file(file, kMaxTextBytes);
  if (!fs::exists(config)) return std::nullopt;
  const Json json = Json::parse(read_text_file(config, kMaxTextBytes), nullptr, false);
  const auto found = json.is_object() ? json.find("chat_template") : json.end();
  if (!json.is_object() || found == json.end()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  for (const Json& entry : *found) {
    if (entry.is_object() && entry.value("name", "") == "default") return entry.value("template", "");
  }
  return std::nullopt;
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) throw Error(fmt::format("{}: cannot write", path.string()));
}

}  // namespace

SourceModel open_source_model(const fs::path& path) {
  SourceModel model{.path = path, .config = load_config(path), .weights = {}};
  model.weights = bind_weights(model.config, std::make_shared<const SafetensorsCheckpoint>(path));
  return model;
}

GgufMetadata gguf_metadata(const SourceModel& model, const StoredParts& parts) {
  GgufMetadata metadata;
  const fs::path absolute = fs::absolute(model.path);
  const fs::path name = absolute.has_filename() ? absolute.filename() : absolute.parent_path().filename();
  metadata.set("general.architecture", std::string("qwen3next"));
  metadata.set("general.type", std::string("model"));
  metadata.set("general.name", name.string());
  metadata.set("general.quantization_version", uint32_t{2});
  add_config(model.config, parts, metadata);
  add_generation_config(load_generation_config(model.path), metadata);
  if (fs::exists(model.path / "tokenizer.json")) {
    Tokenizer::load(model.path).add_to_gguf(metadata, model.config.vocab_size);
  }
  if (auto source = chat_template(model.path)) metadata.set("tokenizer.chat_template", std::move(*source));
  return metadata;
}

void write_model_files(const SourceModel& model, const fs::path& directory, bool fp8) {
  Json config = Json::parse(read_text_file(model.path / "config.json", kMaxTextBytes));
  config.erase("quantization_config");
  if (fp8) {
    config["quantization_config"] = {{"quant_method", "fp8"},
                                     {"fmt", "e4m3"},
                                     {"activation_scheme", "dynamic"},
                                     {"weight_block_size", {128, 128}}};
  }
  write_text(directory / "config.json", config.dump(2) + "\n");
  for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
                           "merges.txt", "special_tokens_map.json", "chat_template.jinja"}) {
    std::error_code error;
    if (!fs::exists(model.path / name)) continue;
    fs::copy_file(model.path / name, directory / name, error);
    if (error) throw Error(fmt::format("{}: cannot copy: {}", (model.path / name).string(), error.message()));
  }
}

}  // namespace qnext
