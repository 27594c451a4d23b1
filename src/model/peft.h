#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/lora.h"
#include "tensor/dtype.h"

namespace qnext {

/// The adapter_config.json of a PEFT directory, as far as it decides what the adapter computes.
struct PeftConfig {
  int64_t rank = 0;
  double alpha = 0.0;
  bool rslora = false;  ///< the scale is alpha / sqrt(rank)
  /// For modules that the name means (lora_target_matches; after '^' only the whole name), the first that fits.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  std::vector<std::string>
      targets;             ///< target_modules, for people: the tensors decide. One text of PEFT is one entry
  std::string base_model;  ///< base_model_name_or_path, or empty

  int64_t rank_of(std::string_view module) const;
  double scale_of(std::string_view module) const;
};

/// Parses the text of an adapter_config.json; `file` names it in messages. Throws FileError for what is not LoRA on
/// matrices as it stands: other peft_types, DoRA, biases, retrained modules, embeddings or stacked experts
/// (target_parameters), an initialisation that changed the base model, patterns that are regular expressions.
PeftConfig parse_peft_config(std::string_view json, const std::string& file);

/// Whether a directory looks like an adapter of PEFT.
bool is_peft_directory(const std::filesystem::path& directory);

/// Reads DIRECTORY/adapter_config.json and adapter_model.safetensors (F32, BF16 or F16) for a model of that shape.
/// Throws Error/FileError, naming file and tensor, for one that fits no matrix of the model, has another rank than
/// the configuration says, or lacks its other half.
std::unique_ptr<LoraArray> load_peft(const std::filesystem::path& directory, const ModelConfig& config,
                                     const StoredParts& parts, Backend& backend);
PeftConfig load_peft_config(const std::filesystem::path& directory);

/// Writes both files, which PeftModel.from_pretrained() reads. `dtype`: F32 or BF16. Throws Error.
void write_peft(const std::filesystem::path& directory, const PeftConfig& config, const LoraArray& lora, DType dtype);

}  // namespace qnext
