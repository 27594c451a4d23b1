#include "runtime/model_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "model/gguf_config.h"

namespace qnext {

namespace fs = std::filesystem;

namespace {

constexpr size_t kMaxJsonBytes = 64 << 20;

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

/// The one GGUF file of a directory, the first part if it has several; empty when there is none.
fs::path gguf_in(const fs::path& directory) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    if (entry.path().extension() == ".gguf") found.push_back(entry.path());
  }
  if (found.empty()) return {};
  std::ranges::sort(found);
  const std::vector<fs::path> parts = gguf_parts(found.front());
  for (const fs::path& path : found) {
    if (std::ranges::find(parts, path) == parts.end()) {
      throw Error(fmt::format("{}: expected one GGUF file or the parts of one, found {} and {}", directory.string(),
                              found.front().filename().string(), path.filename().string()));
    }
  }
  return parts.front();
}

/// A token id that config.json or generation_config.json names, the first of a list.
std::optional<int64_t> token_id(const fs::path& file, const char* field) {
  if (!is_file(file)) return std::nullopt;
  const std::string name = file.string();
  const nlohmann::json tree = parse_json_object(read_text_file(file, kMaxJsonBytes), name);
  const JsonFields fields(tree, name);
  const nlohmann::json* value = fields.find(field);
  if (value == nullptr || value->is_array()) return std::nullopt;
  return fields.integer(field, 0, INT32_MAX);
}

}  // namespace

bool ModelFiles::holds_model(const fs::path& directory) {
  return is_file(directory / "config.json") || !gguf_in(directory).empty();
}

ModelFiles::ModelFiles(const fs::path& path) : path_(path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) throw Error(fmt::format("{}: no such model", path.string()));
  fs::path file = path;
  if (fs::is_directory(path, ignored)) {
    if (is_file(path / "config.json")) return;
    file = gguf_in(path);
    if (file.empty()) {
      throw Error(fmt::format("{}: not a model directory: it has no config.json and no .gguf file", path.string()));
    }
  }
  gguf_ = std::make_shared<const GgufCheckpoint>(file);
}

std::string ModelFiles::config_file() const { return gguf_ ? gguf_->file() : (path_ / "config.json").string(); }
std::string ModelFiles::tokenizer_file() const { return gguf_ ? gguf_->file() : (path_ / "tokenizer.json").string(); }

ModelConfig ModelFiles::config() const {
  return gguf_ ? config_from_gguf(gguf_->metadata(), *gguf_, gguf_->file()) : load_config(path_);
}

GenerationConfig ModelFiles::generation_config() const {
  return gguf_ ? generation_config_from_gguf(gguf_->metadata(), gguf_->file()) : load_generation_config(path_);
}

Tokenizer ModelFiles::tokenizer() const {
  return gguf_ ? Tokenizer::from_gguf(gguf_->metadata(), gguf_->file()) : Tokenizer::load(path_);
}

ChatFormat ModelFiles::chat_format() const {
  if (!gguf_) return ChatFormat::load(path_);
  const GgufFields fields(gguf_->metadata(), gguf_->file());
  const std::string* source = fields.text("tokenizer.chat_template");
  if (source == nullptr) return ChatFormat::chatml();
  const auto token = [&](const char* key) -> std::string {
    const auto id = fields.integer(key, 0, INT32_MAX);
    const auto* tokens = fields.texts("tokenizer.ggml.tokens");
    return id && tokens && static_cast<size_t>(*id) < tokens->size() ? (*tokens)[static_cast<size_t>(*id)] : "";
  };
  return ChatFormat::from_template(*source, gguf_->file(), token("tokenizer.ggml.bos_token_id"),
                                   token("tokenizer.ggml.eos_token_id"));
}

std::shared_ptr<const Checkpoint> ModelFiles::checkpoint() const {
  if (gguf_) return gguf_;
  return std::make_shared<const SafetensorsCheckpoint>(path_);
}

GgufMetadata ModelFiles::gguf_metadata(const StoredParts& parts) const {
  GgufMetadata metadata;
  const ModelConfig model = config();
  metadata.set("general.architecture", "qwen3next");
  metadata.set("general.type", "model");
  metadata.set("general.quantization_version", uint32_t{2});  // of the block types' layouts
  const fs::path name = fs::weakly_canonical(path_);
  metadata.set("general.name", (gguf_ ? name.stem() : name.filename()).string());
  add_config(model, parts, metadata);
  if (gguf_) {  // what it says of sampling, tokenizer and template stays as it is, its own name too
    for (const auto& [key, value] : gguf_->metadata().entries()) {
      if (key.starts_with("general.sampling.") || key.starts_with("tokenizer.") || key == "general.name") {
        metadata.set(key, value);
      }
    }
    return metadata;
  }
  const GenerationConfig generation = generation_config();
  add_generation_config(generation, metadata);
  if (!is_file(path_ / "tokenizer.json")) return metadata;
  const Tokenizer text = tokenizer();
  text.add_to_gguf(metadata, model.vocab_size);
  const ChatFormat chat = chat_format();

  const auto set_id = [&](const char* key, std::optional<int64_t> id) {
    if (id && *id < model.vocab_size) metadata.set(key, static_cast<uint32_t>(*id));
  };
  // The tokenizer's own end token comes first, then those that only generation_config.json knows.
  std::vector<int32_t> ends = model.eos_token_ids;
  ends.insert(ends.begin(), generation.eos_token_ids.begin(), generation.eos_token_ids.end());
  if (const auto id = text.token_id(chat.eos_token()); id && !chat.eos_token().empty())
    ends.insert(ends.begin(), *id);
  for (const int32_t id : ends) {
    if (id == ends.front()) {
      set_id("tokenizer.ggml.eos_token_id", id);
    } else if (metadata.find("tokenizer.ggml.eot_token_id") == nullptr) {
      set_id("tokenizer.ggml.eot_token_id", id);
    }
  }
  for (const auto& [key, field] : {std::pair("bos", "bos_token_id"), {"padding", "pad_token_id"}}) {
    const auto id = token_id(path_ / "config.json", field);
    set_id(fmt::format("tokenizer.ggml.{}_token_id", key).c_str(),
           id ? id : token_id(path_ / "generation_config.json", field));
  }
  if (const std::string* source = chat.source()) metadata.set("tokenizer.chat_template", *source);
  return metadata;
}

}  // namespace qnext
