#pragma once
#include <filesystem>
#include <memory>
#include <string>

#include "chat/chat_format.h"
#include "formats/gguf.h"
#include "model/config.h"
#include "model/stored_tensors.h"
#include "tokenizer/tokenizer.h"

namespace qnext {

/// A model on disk, in either form, by what it consists of:
/// - a Hugging Face directory: config.json, *.safetensors, tokenizer.json, ...
/// - a .gguf file, any part of one, or a directory that holds one (or its parts) and no config.json.
/// Each function reads its files when called; a GGUF file is mapped and checked by the constructor.
class ModelFiles {
 public:
  /// Throws Error/FileError when there is no model at `path`.
  explicit ModelFiles(const std::filesystem::path& path);

  /// Whether a directory looks like a model.
  static bool holds_model(const std::filesystem::path& directory);

  const std::filesystem::path& path() const { return path_; }
  bool is_gguf() const { return gguf_ != nullptr; }
  /// The file that says the configuration, for messages.
  std::string config_file() const;
  /// The file that holds the tokenizer, for messages.
  std::string tokenizer_file() const;

  ModelConfig config() const;
  GenerationConfig generation_config() const;
  Tokenizer tokenizer() const;
  ChatFormat chat_format() const;
  std::shared_ptr<const Checkpoint> checkpoint() const;

  /// The metadata of a GGUF file of this model with other weights: general.architecture, type and name, qwen3next.*,
  /// general.sampling.*, tokenizer.* (unless the model has no tokenizer). The caller adds general.file_type.
  GgufMetadata gguf_metadata(const StoredParts& parts) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const GgufCheckpoint> gguf_;
};

}  // namespace qnext
