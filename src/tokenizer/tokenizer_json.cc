#include "tokenizer/tokenizer_json.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/utf8.h"

namespace qnext {

namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::element_type;
using simdjson::dom::object;

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up in order.
constexpr std::array<int16_t, 0x144> kAlphabet = [] {
  std::array<int16_t, 0x144> bytes{};
  bytes.fill(-1);
  int next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    bytes[printable ? b : next++] = static_cast<int16_t>(b);
  }
  return bytes;
}();

std::string describe(element value) {
  switch (value.type()) {
    case element_type::OBJECT:
      return "an object";
    case element_type::ARRAY:
      return "an array";
    case element_type::STRING:
      return quoted(std::string_view(value));
    default:
      return simdjson::minify(value);
  }
}

/// One parse: the file's name for messages, and a method per part of the file.
class Parser {
 public:
  Parser(std::string_view json, const std::string& file) : file_(file) {
    element root;
    const simdjson::padded_string padded(json);
    const simdjson::error_code error = parser_.parse(padded).get(root);
    if (error) throw FileError(file_, "JSON", "a well-formed document", simdjson::error_message(error));
    root_ = as_object(root, "JSON");
  }

  TokenizerDefinition parse() {
    TokenizerDefinition definition;
    check_model();
    parse_normalizer(definition);
    parse_pre_tokenizer(definition);
    check_decoder();
    check_post_processor();
    parse_added_tokens(definition);
    definition.encoder = std::make_unique<BytePairEncoder>(parse_vocabulary(definition.added_tokens));
    parse_merges(*definition.encoder);
    return definition;
  }

 private:
  [[noreturn]] void fail(std::string field, std::string expected, std::string found) const {
    throw FileError(file_, std::move(field), std::move(expected), std::move(found));
  }

  object as_object(element value, const std::string& field) const {
    object result;
    if (value.get(result)) fail(field, "an object", describe(value));
    return result;
  }
  array as_array(element value, const std::string& field) const {
    array result;
    if (value.get(result)) fail(field, "an array", describe(value));
    return result;
  }
  std::string_view as_string(element value, const std::string& field) const {
    std::string_view result;
    if (value.get(result)) fail(field, "a string", describe(value));
    return result;
  }
  int32_t as_id(element value, const std::string& field) const {
    int64_t id = 0;
    if (value.get(id) || id < 0 || id >= Vocabulary::kMaxIds) {
      fail(field, fmt::format("an id from 0 to {}", Vocabulary::kMaxIds - 1), describe(value));
    }
    return static_cast<int32_t>(id);
  }

  /// A member that is there and not null.
  static std::optional<element> member(object parent, std::string_view key) {
    element value;
    if (parent[key].get(value) || value.is_null()) return std::nullopt;
    return value;
  }
  element required(object parent, std::string_view key, const std::string& field, const char* expected) const {
    const std::optional<element> value = member(parent, key);
    if (!value) fail(field, expected, parent[key].error() ? "nothing" : "null");
    return *value;
  }
  bool flag(object parent, std::string_view key, bool absent, const std::string& field) const {
    const std::optional<element> value = member(parent, key);
    bool result = absent;
    if (value && value->get(result)) fail(field, "true or false", describe(*value));
    return result;
  }
  /// Requires a flag to have the one value that is implemented.
  void require_flag(object parent, const char* key, bool absent, bool implemented, const std::string& field) const {
    if (flag(parent, key, absent, field) != implemented) {
      fail(field, implemented ? "true" : "false (the other is not implemented)", implemented ? "false" : "true");
    }
  }
  std::string_view type_of(object component, const std::string& field) const {
    return as_string(required(component, "type", field + ".type", "a string"), field + ".type");
  }

  object model() const { return as_object(required(root_, "model", "model", "an object"), "model"); }

  void check_model() const {
    const object bpe = model();
    // Files of old have no type; what tells a BPE from the others then are its merges.
    if (const auto type = member(bpe, "type"); type && as_string(*type, "model.type") != "BPE") {
      fail("model.type", "\"BPE\"", describe(*type));
    }
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const std::string field = fmt::format("model.{}", affix);
      const auto value = member(bpe, affix);
      if (value && !as_string(*value, field).empty()) fail(field, "null or \"\"", describe(*value));
    }
    if (const auto dropout = member(bpe, "dropout")) {
      double rate = 1;
      if (dropout->get(rate) || rate != 0) fail("model.dropout", "null or 0", describe(*dropout));
    }
    require_flag(bpe, "ignore_merges", false, false, "model.ignore_merges");
    require_flag(bpe, "byte_fallback", false, false, "model.byte_fallback");
    // unk_token and fuse_unk do not matter: with a token for every byte nothing is unknown.
  }

  void parse_normalizer(TokenizerDefinition& definition) const {
    const auto value = member(root_, "normalizer");
    if (!value) return;
    const std::string_view type = type_of(as_object(*value, "normalizer"), "normalizer");
    if (type != "NFC") fail("normalizer.type", "\"NFC\", or no normalizer", quoted(type));
    definition.nfc = true;
  }

  /// Sequence [Split by regex, ByteLevel without its own regex].
  void parse_pre_tokenizer(TokenizerDefinition& definition) const {
    const char* form = "a Sequence of Split and ByteLevel";
    const object sequence = as_object(required(root_, "pre_tokenizer", "pre_tokenizer", form), "pre_tokenizer");
    const std::string_view type = type_of(sequence, "pre_tokenizer");
    if (type != "Sequence") fail("pre_tokenizer.type", "\"Sequence\" (of Split and ByteLevel)", quoted(type));
    const std::string list_field = "pre_tokenizer.pretokenizers";
    const array list = as_array(required(sequence, "pretokenizers", list_field, "an array"), list_field);
    if (list.size() != 2) fail(list_field, "2 elements, Split and ByteLevel", fmt::format("{}", list.size()));

    const std::string split_field = list_field + "[0]", bytes_field = list_field + "[1]";
    const object split = as_object(list.at(0), split_field);
    if (type_of(split, split_field) != "Split")
      fail(split_field + ".type", "\"Split\"", quoted(type_of(split, split_field)));
    const std::string behavior_field = split_field + ".behavior";
    const std::string_view behavior =
        as_string(required(split, "behavior", behavior_field, "\"Isolated\""), behavior_field);
    if (behavior != "Isolated") fail(behavior_field, "\"Isolated\"", quoted(behavior));
    require_flag(split, "invert", false, false, split_field + ".invert");
    const std::string pattern_field = split_field + ".pattern.Regex";
    const object pattern =
        as_object(required(split, "pattern", split_field + ".pattern", "an object"), split_field + ".pattern");
    const std::string_view regex =
        as_string(required(pattern, "Regex", pattern_field, "a regular expression"), pattern_field);
    constexpr size_t kMaxPattern = 4096;
    if (regex.size() > kMaxPattern) {
      fail(pattern_field, fmt::format("at most {} bytes", kMaxPattern), fmt::format("{}", regex.size()));
    }
    try {
      definition.pre_tokenizer = std::make_unique<PreTokenizer>(std::string(regex));
    } catch (const Error& error) {
      fail(pattern_field, "a regular expression", fmt::format("{} ({})", quoted(regex), error.what()));
    }

    const object bytes = as_object(list.at(1), bytes_field);
    if (type_of(bytes, bytes_field) != "ByteLevel") {
      fail(bytes_field + ".type", "\"ByteLevel\"", quoted(type_of(bytes, bytes_field)));
    }
    require_flag(bytes, "add_prefix_space", true, false, bytes_field + ".add_prefix_space");
    require_flag(bytes, "use_regex", true, false, bytes_field + ".use_regex");
  }

  void check_decoder() const {
    const element decoder = required(root_, "decoder", "decoder", "a ByteLevel decoder");
    const std::string_view type = type_of(as_object(decoder, "decoder"), "decoder");
    if (type != "ByteLevel") fail("decoder.type", "\"ByteLevel\"", quoted(type));
  }

  /// Only those that add no token: chat formats add what they need themselves.
  void check_post_processor() const {
    const auto value = member(root_, "post_processor");
    if (!value) return;
    const object processor = as_object(*value, "post_processor");
    const std::string_view type = type_of(processor, "post_processor");
    if (type == "ByteLevel") return;
    if (type != "TemplateProcessing") {
      fail("post_processor.type", "\"ByteLevel\", \"TemplateProcessing\" or no post-processor", quoted(type));
    }
    const std::string field = "post_processor.single";
    for (const element piece : as_array(required(processor, "single", field, "an array"), field)) {
      element sequence;
      if (as_object(piece, field)["Sequence"].get(sequence)) {
        fail(field, "no added tokens", fmt::format("{}", fmt::to_string(simdjson::minify(piece)).substr(0, 120)));
      }
    }
  }

  void parse_added_tokens(TokenizerDefinition& definition) const {
    const auto value = member(root_, "added_tokens");
    if (!value) return;
    std::unordered_set<int32_t> ids;
    std::unordered_set<std::string> contents, normalized_texts;
    std::string storage;
    size_t i = 0;
    for (const element item : as_array(*value, "added_tokens")) {
      const std::string field = fmt::format("added_tokens[{}]", i++);
      const object entry = as_object(item, field);
      AddedToken token;
      token.id = as_id(required(entry, "id", field + ".id", "an id"), field + ".id");
      const std::string_view content =
          as_string(required(entry, "content", field + ".content", "a string"), field + ".content");
      if (content.empty() || content.size() > AddedToken::kMaxBytes) {
        fail(field + ".content", fmt::format("1 to {} bytes", AddedToken::kMaxBytes),
             fmt::format("{}", content.size()));
      }
      token.content = content;
      require_flag(entry, "single_word", false, false, field + ".single_word");
      token.special = flag(entry, "special", false, field + ".special");
      token.normalized = flag(entry, "normalized", !token.special, field + ".normalized");
      token.strip_left = flag(entry, "lstrip", false, field + ".lstrip");
      token.strip_right = flag(entry, "rstrip", false, field + ".rstrip");
      if (!ids.insert(token.id).second) fail(field + ".id", "an id of its own", fmt::format("{} again", token.id));
      token.text = token.normalized && definition.nfc ? normalize_nfc(content, storage) : content;
      if (!contents.insert(token.content).second ||
          (token.normalized && !normalized_texts.insert(token.text).second)) {
        fail(field + ".content", "a content of its own", quoted(content) + " again");
      }
      definition.added_tokens.push_back(std::move(token));
    }
    std::sort(definition.added_tokens.begin(), definition.added_tokens.end(),
              [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  }

  Vocabulary parse_vocabulary(const std::vector<AddedToken>& added_tokens) const {
    std::unordered_map<std::string_view, int32_t> added_ids;
    std::unordered_map<int32_t, std::string_view> added_contents;
    for (const AddedToken& token : added_tokens) {
      added_ids.emplace(token.content, token.id);
      added_contents.emplace(token.id, token.content);
    }
    Vocabulary vocabulary;
    std::string bytes;
    const object entries = as_object(required(model(), "vocab", "model.vocab", "an object"), "model.vocab");
    for (const auto [text, value] : entries) {
      const auto field = [&, key = text] { return fmt::format("model.vocab[{}]", quoted(key)); };
      int64_t id = 0;
      if (value.get(id) || id < 0 || id >= Vocabulary::kMaxIds) as_id(value, field());
      if (text.empty()) fail(field(), "a token that is not empty", "\"\"");
      const auto added = added_ids.find(text);
      if (added != added_ids.end() && added->second != id) {
        fail(field(), fmt::format("id {} as in added_tokens", added->second), fmt::format("{}", id));
      }
      const auto same_id = added_contents.find(static_cast<int32_t>(id));
      if (same_id != added_contents.end() && same_id->second != text) {
        fail(field(), fmt::format("an id that no added token has"),
             fmt::format("{}, the id of {}", id, quoted(same_id->second)));
      }
      bytes.clear();
      if (!append_alphabet_bytes(text, bytes)) {
        if (added != added_ids.end()) continue;  // no merge can produce it: it is an added token only
        fail(field(), "characters of the byte-level alphabet", "others");
      }
      switch (vocabulary.add(bytes, static_cast<int32_t>(id))) {
        case Vocabulary::Added::kYes:
          break;
        case Vocabulary::Added::kBytesTaken:
          fail(field(), "each token once", "it again");
        case Vocabulary::Added::kIdTaken:
          fail(field(), "an id of its own", fmt::format("{} again", id));
      }
    }
    for (int b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(b);
      if (!vocabulary.find(std::string_view(&byte, 1))) {
        fail("model.vocab", "a token for each of the 256 bytes", fmt::format("none for byte 0x{:02x}", b));
      }
    }
    return vocabulary;
  }

  void parse_merges(BytePairEncoder& encoder) const {
    const array merges = as_array(required(model(), "merges", "model.merges", "an array"), "model.merges");
    const Vocabulary& vocabulary = encoder.vocabulary();
    std::string bytes;
    size_t i = 0;
    for (const element item : merges) {
      const auto field = [&, index = i] { return fmt::format("model.merges[{}]", index); };
      ++i;
      std::string_view parts[2];
      std::string_view text;
      array pair;
      if (item.get(text) == simdjson::SUCCESS) {
        if (text.starts_with("#version")) continue;  // the first line of merges.txt, as the library skips it
        const size_t space = text.find(' ');
        if (space == text.npos || text.find(' ', space + 1) != text.npos) {
          fail(field(), "two tokens with a space between", quoted(text));
        }
        parts[0] = text.substr(0, space);
        parts[1] = text.substr(space + 1);
      } else if (item.get(pair) == simdjson::SUCCESS && pair.size() == 2) {
        parts[0] = as_string(pair.at(0), field());
        parts[1] = as_string(pair.at(1), field());
      } else {
        fail(field(), "a string or an array of two", describe(item));
      }
      bytes.clear();
      const auto token = [&](std::string_view part, size_t from) {
        const bool of_alphabet = append_alphabet_bytes(part, bytes);
        const auto id = of_alphabet ? vocabulary.find(std::string_view(bytes).substr(from)) : std::nullopt;
        if (!id) fail(field(), "two tokens of the vocabulary", quoted(part));
        return *id;
      };
      const int32_t left = token(parts[0], 0);
      const int32_t right = token(parts[1], bytes.size());
      const auto result = vocabulary.find(bytes);
      if (!result) {
        fail(field(), "tokens that make one of the vocabulary",
             fmt::format("{} and {}", quoted(parts[0]), quoted(parts[1])));
      }
      if (!encoder.add_merge({left, right, *result})) {
        fail(field(), "each pair once", fmt::format("{} and {} again", quoted(parts[0]), quoted(parts[1])));
      }
    }
  }

  std::string file_;
  simdjson::dom::parser parser_;
  object root_;
};

}  // namespace

bool append_alphabet_bytes(std::string_view text, std::string& bytes) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Character character = utf8_character(text, i);
    const int byte = character.code < kAlphabet.size() ? kAlphabet[character.code] : -1;
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
    i += character.size;
  }
  return true;
}

TokenizerDefinition parse_tokenizer_json(std::string_view json, const std::string& file) {
  return Parser(json, file).parse();
}

}  // namespace qnext
