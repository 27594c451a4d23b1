#include "tokenizer/tokenizer.h"

#include <simdjson.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/mapped_file.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/tokenizer_gguf.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/utf8.h"

namespace qnext {

namespace {
constexpr size_t kMaxFileBytes = 512u << 20;
constexpr size_t kMaxTextBytes = 1u << 30;  // replaced or normalized it triples at most: positions fit 32 bits

/// The matcher of the added tokens that are looked for before (or after) normalization.
AddedTokenMatcher matcher_of(const TokenizerDefinition& definition, bool normalized) {
  std::vector<AddedTokenMatcher::Token> tokens;
  for (const AddedToken& token : definition.added_tokens) {
    if (token.normalized == normalized) {
      tokens.push_back({token.text, token.id, token.strip_left, token.strip_right});
    }
  }
  return AddedTokenMatcher(std::move(tokens));
}
}  // namespace

struct Tokenizer::Impl {
  struct Added {
    std::string bytes;  ///< what it decodes to
    bool special;
  };

  explicit Impl(TokenizerDefinition definition_)
      : definition(std::move(definition_)),
        raw_matcher(matcher_of(definition, false)),
        normalized_matcher(matcher_of(definition, true)),
        id_end(definition.encoder->vocabulary().id_end()) {
    for (const AddedToken& token : definition.added_tokens) {
      // The library's decoder takes any token for byte-level text and falls back to its UTF-8. So an added token
      // made of the alphabet's characters alone ("Ġé") decodes to other bytes than it was matched with.
      std::string bytes;
      if (!append_alphabet_bytes(token.text, bytes)) bytes = token.text;
      added.emplace(token.id, Added{std::move(bytes), token.special});
      added_ids.emplace(token.content, token.id);
      id_end = std::max(id_end, token.id + 1);
      sorted_added_ids.push_back(token.id);
    }
    std::sort(sorted_added_ids.begin(), sorted_added_ids.end());
  }

  /// Text without added tokens, normalized.
  void encode_ordinary(std::string_view text, std::vector<int32_t>& ids) const {
    definition.pre_tokenizer->for_each_piece(text,
                                             [&](std::string_view piece) { definition.encoder->encode(piece, ids); });
  }

  std::string_view normalize(std::string_view text, std::string& storage) const {
    return definition.nfc ? normalize_nfc(text, storage) : text;
  }

  const Added* find_added(int32_t id) const {
    const auto found = added.find(id);
    return found == added.end() ? nullptr : &found->second;
  }

  TokenizerDefinition definition;
  AddedTokenMatcher raw_matcher, normalized_matcher;
  std::unordered_map<int32_t, Added> added;
  std::unordered_map<std::string_view, int32_t> added_ids;  ///< by content, which `definition` owns
  std::vector<int32_t> sorted_added_ids;
  int32_t id_end;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::parse(std::string_view json, const std::string& file) {
  return Tokenizer(std::make_unique<Impl>(parse_tokenizer_json(json, file)));
}

Tokenizer Tokenizer::from_gguf(const GgufMetadata& metadata, const std::string& file) {
  return Tokenizer(std::make_unique<Impl>(parse_tokenizer_gguf(metadata, file)));
}

void Tokenizer::add_to_gguf(GgufMetadata& metadata, int64_t vocab_size) const {
  add_tokenizer(impl_->definition, vocab_size, metadata);
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  std::error_code ignored;  // read_text_file says what is wrong with the path
  const std::filesystem::path file = std::filesystem::is_directory(path, ignored) ? path / "tokenizer.json" : path;
  return parse(read_text_file(file, kMaxFileBytes), file.string());
}

void Tokenizer::encode(std::string_view text, std::vector<int32_t>& ids, SpecialTokens special) const {
  if (text.size() > kMaxTextBytes)
    throw Error(fmt::format("a text of {} bytes is more than can be encoded", text.size()));
  std::string replaced;
  if (!simdjson::validate_utf8(text)) {
    append_utf8_replacing(text, replaced);
    text = replaced;
  }
  std::string storage;
  if (special == SpecialTokens::kPlain) return impl_->encode_ordinary(impl_->normalize(text, storage), ids);
  const auto use_token = [&](int32_t id) { ids.push_back(id); };
  const auto use_text = [&](std::string_view part) { impl_->encode_ordinary(part, ids); };
  impl_->raw_matcher.split(
      text,
      [&](std::string_view part) {
        impl_->normalized_matcher.split(impl_->normalize(part, storage), use_text, use_token);
      },
      use_token);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens special) const {
  std::vector<int32_t> ids;
  encode(text, ids, special);
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!(skip_special && is_special(id))) bytes += token_bytes(id);
  }
  if (simdjson::validate_utf8(bytes)) return bytes;
  std::string text;
  append_utf8_replacing(bytes, text);
  return text;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (const Impl::Added* added = impl_->find_added(id)) return added->bytes;
  return impl_->definition.encoder->vocabulary().bytes(id);
}

std::optional<int32_t> Tokenizer::token_id(std::string_view text) const {
  if (const auto found = impl_->added_ids.find(text); found != impl_->added_ids.end()) return found->second;
  return impl_->definition.encoder->vocabulary().find(text);
}

bool Tokenizer::is_special(int32_t id) const {
  const Impl::Added* added = impl_->find_added(id);
  return added && added->special;
}
const std::vector<int32_t>& Tokenizer::added_ids() const { return impl_->sorted_added_ids; }
bool Tokenizer::is_added(int32_t id) const { return impl_->find_added(id) != nullptr; }
int32_t Tokenizer::vocab_size() const { return impl_->id_end; }
bool Tokenizer::has_token(int32_t id) const { return !token_bytes(id).empty(); }

std::string StreamDecoder::next(int32_t id) {
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  pending_ += tokenizer_->token_bytes(id);
  const size_t complete = pending_.size() - utf8_incomplete_tail(pending_);
  std::string text;
  append_utf8_replacing(std::string_view(pending_).substr(0, complete), text);
  pending_.erase(0, complete);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_utf8_replacing(pending_, text);
  pending_.clear();
  return text;
}

}  // namespace qnext
