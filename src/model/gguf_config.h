#pragma once
#include <string>

#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "model/config.h"
#include "model/stored_tensors.h"

namespace qnext {

/// The configuration that the metadata of a GGUF file of architecture qwen3next says (docs/formats.md). What no key
/// says, the tensors do: which layers are dense, whether the head is tied, and the vocabulary size where the file has
/// no tokenizer. Throws FileError naming the key.
ModelConfig config_from_gguf(const GgufMetadata& metadata, const Checkpoint& checkpoint, const std::string& file);
/// The same of general.sampling.* and the ids that end a text (eos, eot, eom).
GenerationConfig generation_config_from_gguf(const GgufMetadata& metadata, const std::string& file);

/// Adds the keys that the two above read. Throws Error for a configuration that GGUF has no words for.
void add_config(const ModelConfig& config, const StoredParts& parts, GgufMetadata& metadata);
void add_generation_config(const GenerationConfig& generation, GgufMetadata& metadata);

}  // namespace qnext
