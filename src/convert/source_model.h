#pragma once
#include <filesystem>

#include "formats/gguf.h"
#include "model/config.h"
#include "model/stored_tensors.h"
#include "model/weights.h"

namespace qnext {

/// A model opened for conversion: a Hugging Face directory or a GGUF file.
struct SourceModel {
  std::filesystem::path path;
  ModelConfig config;
  Weights weights;
};

/// Throws Error/FileError.
SourceModel open_source_model(const std::filesystem::path& path);

/// The metadata of a GGUF file with this model: configuration, tokenizer, chat template, sampling.
GgufMetadata gguf_metadata(const SourceModel& model, const StoredParts& parts);

/// Writes what belongs beside model.safetensors: config.json and the tokenizer's and chat template's files, as they
/// are, except that config.json states the weights' quantisation: fp8 with scales of 128 x 128, or none.
void write_model_files(const SourceModel& model, const std::filesystem::path& directory, bool fp8);

}  // namespace qnext
