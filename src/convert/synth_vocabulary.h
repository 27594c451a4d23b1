#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/gguf.h"

namespace qnext {

/// The tokens of a checkpoint to be made, in the form of each format.
struct SynthVocabulary {
  std::string tokenizer_json, tokenizer_config_json, chat_template;
  std::vector<std::string> tokens, merges;  ///< as GGUF holds them: GPT-2's alphabet, "left right"
  std::vector<int32_t> types;               ///< 1 normal, 3 control, 4 user defined, 5 unused
  int32_t end_of_text = 0, end_of_turn = 0;
};

/// The 256 bytes, <|endoftext|>, <|im_start|> and <|im_end|>; ids up to vocab_size (at least 260) are unused.
SynthVocabulary filler_vocabulary(int64_t vocab_size);
/// That of `directory`/tokenizer.json, which may define at most vocab_size ids; further ids are unused. Throws
/// Error/FileError.
SynthVocabulary read_vocabulary(const std::filesystem::path& directory, int64_t vocab_size);

/// Adds the tokenizer.* keys.
void add_vocabulary(const SynthVocabulary& vocabulary, GgufMetadata& metadata);

}  // namespace qnext
