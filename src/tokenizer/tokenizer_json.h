#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pre_tokenizer.h"

namespace qnext {

/// What a tokenizer.json says, checked.
struct TokenizerDefinition {
  std::unique_ptr<BytePairEncoder> encoder;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  bool nfc = false;                      ///< text is brought to NFC before it is split
  std::vector<AddedToken> added_tokens;  ///< by id
};

/// Reads the byte-level BPE subset of the format: the components that the Qwen family and GPT-2's successors use,
/// with the settings for which the library's results are reproduced. Throws FileError for everything else.
TokenizerDefinition parse_tokenizer_json(std::string_view json, const std::string& file);

/// The bytes behind text in GPT-2's printable alphabet, appended to `bytes`; false when a character is not of it.
bool append_alphabet_bytes(std::string_view text, std::string& bytes);
/// The reverse: bytes in the alphabet's characters.
std::string alphabet_text(std::string_view bytes);

}  // namespace qnext
