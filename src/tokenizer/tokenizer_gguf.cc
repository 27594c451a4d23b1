#include "tokenizer/tokenizer_gguf.h"

#include <simdjson.h>

#include <unordered_set>

#include "base/error.h"

namespace qnext {

namespace {

enum TokenType : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kMerges = "tokenizer.ggml.merges";

/// One parse: a method per part.
class Parser {
 public:
  Parser(const GgufMetadata& metadata, const std::string& file) : fields_(metadata, file) {}

  TokenizerDefinition parse() {
    require("tokenizer.ggml.model", "gpt2");
    require("tokenizer.ggml.pre", "qwen2");
    // Chat formats add what they need themselves.
    for (const char* key : {"add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix"}) {
      const std::string full = fmt::format("tokenizer.ggml.{}", key);
      if (fields_.boolean(full).value_or(false)) fields_.fail(full, "false");
    }
    TokenizerDefinition definition;
    definition.nfc = true;
    definition.pre_tokenizer = std::make_unique<PreTokenizer>(std::string(kQwenPattern));
    definition.encoder = std::make_unique<BytePairEncoder>(parse_tokens(definition.added_tokens));
    parse_merges(*definition.encoder);
    return definition;
  }

 private:
  void require(const char* key, std::string_view value) const {
    const std::string* text = fields_.text(key);
    if (text == nullptr || *text != value) fields_.fail(key, qnext::quoted(value));
  }
  [[noreturn]] void fail(const char* key, size_t i, std::string expected, std::string found) const {
    throw FileError(fields_.file(), fmt::format("{}[{}]", key, i), std::move(expected), std::move(found));
  }
  const std::vector<std::string>& required_texts(const char* key) const {
    const std::vector<std::string>* list = fields_.texts(key);
    if (list == nullptr) fields_.fail(key, "an array of strings");
    return *list;
  }

  Vocabulary parse_tokens(std::vector<AddedToken>& added_tokens) const {
    const std::vector<std::string>& tokens = required_texts(kTokens);
    if (tokens.size() > static_cast<size_t>(Vocabulary::kMaxIds)) {
      fields_.fail(kTokens, fmt::format("at most {} tokens", Vocabulary::kMaxIds));
    }
    const char* kTypes = "tokenizer.ggml.token_type";
    const auto types = fields_.integers(kTypes, INT32_MIN, INT32_MAX);
    if (!types || types->size() != tokens.size()) {
      fields_.fail(kTypes, fmt::format("an array of {} integers, one for each token", tokens.size()));
    }
    Vocabulary vocabulary(tokens.size());
    std::unordered_set<std::string_view> added;
    std::string bytes;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const std::string& text = tokens[i];
      const auto id = static_cast<int32_t>(i);
      switch ((*types)[i]) {
        case kNormal:
          bytes.clear();
          // Strings of metadata may be any bytes.
          if (text.empty() || !simdjson::validate_utf8(text) || !append_alphabet_bytes(text, bytes)) {
            fail(kTokens, i, "characters of the byte-level alphabet", qnext::quoted(text));
          }
          if (vocabulary.add(bytes, id) != Vocabulary::Added::kYes) {
            fail(kTokens, i, "each token once", qnext::quoted(text) + " again");
          }
          break;
        case kControl:
        case kUserDefined:
          if (text.empty() || text.size() > AddedToken::kMaxBytes || !simdjson::validate_utf8(text)) {
            fail(kTokens, i, fmt::format("1 to {} bytes of UTF-8", AddedToken::kMaxBytes), qnext::quoted(text));
          }
          if (!added.insert(text).second) fail(kTokens, i, "each token once", qnext::quoted(text) + " again");
          added_tokens.push_back({.content = text, .text = text, .id = id, .special = (*types)[i] == kControl});
          break;
        case kUnused:
          break;
        default:
          fail(kTypes, i, "1 (normal), 3 (control), 4 (user defined) or 5 (unused)", fmt::format("{}", (*types)[i]));
      }
    }
    for (int b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(b);
      if (!vocabulary.find(std::string_view(&byte, 1))) {
        throw FileError(fields_.file(), kTokens, "a token for each of the 256 bytes",
                        fmt::format("none for byte 0x{:02x}", b));
      }
    }
    return vocabulary;
  }

  void parse_merges(BytePairEncoder& encoder) const {
    const std::vector<std::string>& merges = required_texts(kMerges);
    const Vocabulary& vocabulary = encoder.vocabulary();
    std::string bytes;
    for (size_t i = 0; i < merges.size(); ++i) {
      const std::string_view text = merges[i];
      const size_t space = text.find(' ');
      if (space == text.npos || text.find(' ', space + 1) != text.npos || !simdjson::validate_utf8(text)) {
        fail(kMerges, i, "two tokens with a space between", qnext::quoted(text));
      }
      bytes.clear();
      const auto token = [&](std::string_view part) {
        const size_t from = bytes.size();
        const bool of_alphabet = append_alphabet_bytes(part, bytes);
        const auto id = of_alphabet ? vocabulary.find(std::string_view(bytes).substr(from)) : std::nullopt;
        if (!id) fail(kMerges, i, "two tokens of the vocabulary", qnext::quoted(text));
        return *id;
      };
      const int32_t left = token(text.substr(0, space)), right = token(text.substr(space + 1));
      const auto result = vocabulary.find(bytes);
      if (!result) fail(kMerges, i, "tokens that make one of the vocabulary", qnext::quoted(text));
      if (!encoder.add_merge({left, right, *result})) fail(kMerges, i, "each pair once", qnext::quoted(text) + " again");
    }
  }

  GgufFields fields_;
};

}  // namespace

TokenizerDefinition parse_tokenizer_gguf(const GgufMetadata& metadata, const std::string& file) {
  return Parser(metadata, file).parse();
}

void add_tokenizer(const TokenizerDefinition& definition, int64_t vocab_size, GgufMetadata& metadata) {
  if (definition.pre_tokenizer->pattern() != kQwenPattern) {
    throw Error("the tokenizer's split pattern is not Qwen's, and GGUF has no name for it");
  }
  if (!definition.nfc) throw Error("the tokenizer does not bring text to NFC, which GGUF has no key for");
  const Vocabulary& vocabulary = definition.encoder->vocabulary();
  std::vector<std::string> tokens;
  std::vector<int32_t> types(static_cast<size_t>(vocab_size), kUnused);
  tokens.reserve(types.size());
  for (int64_t i = 0; i < vocab_size; ++i) {
    const auto id = static_cast<int32_t>(i);
    const bool known = vocabulary.has(id);
    tokens.push_back(known ? alphabet_text(vocabulary.bytes(id)) : fmt::format("[PAD{}]", id));
    if (known) types[static_cast<size_t>(i)] = kNormal;
  }
  int32_t last = vocabulary.id_end() - 1;
  for (const AddedToken& token : definition.added_tokens) {
    last = std::max(last, token.id);
    if (token.id >= vocab_size) break;
    if (token.strip_left || token.strip_right) {
      throw Error(
          fmt::format("the token {} takes the spaces beside it, which GGUF has no key for", qnext::quoted(token.content)));
    }
    tokens[static_cast<size_t>(token.id)] = token.content;
    types[static_cast<size_t>(token.id)] = token.special ? kControl : kUserDefined;
  }
  if (last >= vocab_size) {
    throw Error(fmt::format("vocabulary: expected at most {} ids (vocab_size), found {}", vocab_size, last + 1));
  }
  std::vector<std::string> merges;
  for (const BytePairEncoder::Merge& merge : definition.encoder->merges()) {
    merges.push_back(alphabet_text(vocabulary.bytes(merge.left)) + ' ' +
                     alphabet_text(vocabulary.bytes(merge.right)));
  }
  metadata.set("tokenizer.ggml.model", "gpt2");
  metadata.set("tokenizer.ggml.pre", "qwen2");
  metadata.set(kTokens, GgufArray(std::move(tokens)));
  metadata.set("tokenizer.ggml.token_type", GgufArray(std::move(types)));
  metadata.set(kMerges, GgufArray(std::move(merges)));
  metadata.set("tokenizer.ggml.add_bos_token", false);
}

}  // namespace qnext
