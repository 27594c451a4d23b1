#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qnext {

class GgufMetadata;

/// What special-token strings in the text mean.
enum class SpecialTokens {
  kParse,  ///< they become their single ids (prompts that the program itself rendered)
  kPlain,  ///< they are ordinary text (what a user typed)
};

/// Byte-level BPE as in a Hugging Face tokenizer.json. Immutable after construction; every method is thread-safe.
class Tokenizer {
 public:
  /// Parses a tokenizer.json. `file` names it in messages. Throws FileError for a model that is not byte-level BPE, a
  /// merge of unknown parts, duplicate or out-of-range ids, a normalizer/pre-tokenizer/decoder it does not implement.
  static Tokenizer parse(std::string_view json, const std::string& file);
  /// Reads `directory/tokenizer.json` (or the file itself).
  static Tokenizer load(const std::filesystem::path& path);

  /// From a GGUF file's metadata (tokenizer.ggml.*, model gpt2 of kind qwen2), with the ids of the tokenizer.json
  /// that it was made from. Throws FileError as parse() does.
  static Tokenizer from_gguf(const GgufMetadata& metadata, const std::string& file);
  /// Adds tokenizer.ggml.model, pre, tokens, token_type and merges. Ids up to vocab_size that have no token get
  /// filler names. Throws Error for what those keys cannot say (another split pattern, no NFC, tokens that take
  /// spaces).
  void add_to_gguf(GgufMetadata& metadata, int64_t vocab_size) const;

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Text to ids, appended to `ids`. Text may be any bytes: invalid UTF-8 is replaced as the `tokenizers` library's
  /// callers do (U+FFFD per maximal invalid subpart, as Python's errors="replace"). Throws Error for more than 1 GiB,
  /// or when the file's own split pattern (not Qwen's) exceeds PCRE2's limits on this text.
  void encode(std::string_view text, std::vector<int32_t>& ids, SpecialTokens special = SpecialTokens::kParse) const;
  std::vector<int32_t> encode(std::string_view text, SpecialTokens special = SpecialTokens::kParse) const;

  /// Ids to text: the tokens' bytes joined, invalid UTF-8 replaced by U+FFFD. Ids without a token are skipped.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special = false) const;

  /// The bytes that a token decodes to; empty for ids that have none. For added tokens that is their text (except, as
  /// in the library, where it consists of the byte-level alphabet's characters alone and these are not all ASCII).
  std::string_view token_bytes(int32_t id) const;
  /// The id of a token given as its text (added tokens) or bytes.
  std::optional<int32_t> token_id(std::string_view text) const;
  bool is_special(int32_t id) const;  ///< added with special=true: hidden by skip_special
  bool is_added(int32_t id) const;
  const std::vector<int32_t>& added_ids() const;  ///< all of them, ascending
  /// One more than the largest id: ids from here on are padding rows of the embedding and must never be sampled.
  int32_t vocab_size() const;
  bool has_token(int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Decoding one token at a time: an incomplete UTF-8 sequence at the end is held back until it is complete or known
/// to be invalid (then U+FFFD). The concatenation of all next() and the final finish() equals Tokenizer::decode.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}
  std::string next(int32_t id);
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace qnext
