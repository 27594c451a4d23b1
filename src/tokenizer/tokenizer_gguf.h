#pragma once
#include <string>

#include "formats/gguf.h"
#include "tokenizer/tokenizer_json.h"

namespace qnext {

/// Reads tokenizer.ggml.*: model "gpt2" (byte-level BPE), pre "qwen2" (the Qwen split pattern; text is brought to
/// NFC, as Qwen's tokenizer.json does, which no key says). Tokens of type normal are the vocabulary, in GPT-2's
/// alphabet; control tokens are special added tokens, user-defined ones added tokens that decoding shows; unused ids
/// have no token. Throws FileError for everything else.
TokenizerDefinition parse_tokenizer_gguf(const GgufMetadata& metadata, const std::string& file);

/// Adds the keys that the reader above needs. See Tokenizer::add_to_gguf.
void add_tokenizer(const TokenizerDefinition& definition, int64_t vocab_size, GgufMetadata& metadata);

}  // namespace qnext
