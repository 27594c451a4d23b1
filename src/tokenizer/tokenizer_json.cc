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

/// A place in the file: its path for messages and the value there, if any. A member that is null counts as absent.
class Field {
 public:
  Field(const std::string& file, std::string path, element value)
      : file_(&file), path_(std::move(path)), value_(value) {}

  [[noreturn]] void fail(std::string expected, std::string found) const {
    throw FileError(*file_, path_, std::move(expected), std::move(found));
  }
  [[noreturn]] void fail(std::string expected) const { fail(std::move(expected), found()); }

  bool present() const { return value_.has_value(); }
  Field operator[](const char* key) const {
    Field member(*file_, path_.empty() ? key : fmt::format("{}.{}", path_, key));
    element value;
    const simdjson::error_code absent = members()[key].get(value);
    if (!absent && !value.is_null()) member.value_ = value;
    member.null_ = !absent && value.is_null();
    return member;
  }
  Field at(size_t index, element value) const { return {*file_, fmt::format("{}[{}]", path_, index), value}; }

  object members() const { return get<object>("an object"); }
  array elements() const { return get<array>("an array"); }
  std::string_view string() const { return get<std::string_view>("a string"); }
  bool flag(bool absent) const { return present() ? get<bool>("true or false") : absent; }
  int32_t id() const {
    int64_t id = -1;
    if (!present() || value_->get(id) || id < 0 || id >= Vocabulary::kMaxIds) {
      fail(fmt::format("an id from 0 to {}", Vocabulary::kMaxIds - 1));
    }
    return static_cast<int32_t>(id);
  }

  void require(std::string_view text) const {
    if (!present() || string() != text) fail(quoted(text));
  }
  void require_false(bool absent) const {
    if (flag(absent)) fail("false (the other is not implemented)", "true");
  }

  /// The value in few words.
  std::string found() const {
    if (!present()) return null_ ? "null" : "nothing";
    switch (value_->type()) {
      case element_type::OBJECT:
        return "an object";
      case element_type::ARRAY:
        return "an array";
      case element_type::STRING:
        return quoted(std::string_view(*value_));
      default:
        return simdjson::minify(*value_);
    }
  }

 private:
  Field(const std::string& file, std::string path) : file_(&file), path_(std::move(path)) {}

  template <class T>
  T get(const char* expected) const {
    T result{};
    if (!present() || value_->get(result)) fail(expected);
    return result;
  }

  const std::string* file_;
  std::string path_;
  std::optional<element> value_;
  bool null_ = false;
};

/// One parse: a method per part of the file.
class Parser {
 public:
  Parser(std::string_view json, const std::string& file) : file_(file) {
    const simdjson::error_code error = parser_.parse(simdjson::padded_string(json)).get(root_);
    if (error) throw FileError(file_, "JSON", "a well-formed document", simdjson::error_message(error));
    if (!root_.is_object()) Field(file_, "JSON", root_).fail("an object");
  }

  TokenizerDefinition parse() {
    TokenizerDefinition definition;
    check_model();
    parse_normalizer(definition);
    parse_pre_tokenizer(definition);
    field("decoder")["type"].require("ByteLevel");
    check_post_processor();
    parse_added_tokens(definition);
    definition.encoder = std::make_unique<BytePairEncoder>(parse_vocabulary(definition.added_tokens));
    parse_merges(*definition.encoder);
    return definition;
  }

 private:
  Field field(const char* key) const { return Field(file_, "", root_)[key]; }

  void check_model() const {
    const Field model = field("model");
    // Files of old have no type; what tells a BPE from the others then are its merges.
    if (const Field type = model["type"]; type.present()) type.require("BPE");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (const Field affix = model[key]; affix.present() && !affix.string().empty()) affix.fail("null or \"\"");
    }
    if (const Field dropout = model["dropout"];
        dropout.present() && dropout.found() != "0" && dropout.found() != "0.0") {
      dropout.fail("null or 0");
    }
    model["ignore_merges"].require_false(false);
    model["byte_fallback"].require_false(false);
    // unk_token and fuse_unk do not matter: with a token for every byte nothing is unknown.
  }

  void parse_normalizer(TokenizerDefinition& definition) const {
    const Field normalizer = field("normalizer");
    if (!normalizer.present()) return;
    normalizer["type"].require("NFC");
    definition.nfc = true;
  }

  /// Sequence [Split by regex, ByteLevel without its own regex].
  void parse_pre_tokenizer(TokenizerDefinition& definition) const {
    const Field sequence = field("pre_tokenizer");
    sequence["type"].require("Sequence");
    const Field steps = sequence["pretokenizers"];
    const array list = steps.elements();
    if (list.size() != 2) steps.fail("2 elements, Split and ByteLevel", fmt::format("{}", list.size()));

    const Field split = steps.at(0, list.at(0));
    split["type"].require("Split");
    split["behavior"].require("Isolated");
    split["invert"].require_false(false);
    const Field regex = split["pattern"]["Regex"];
    const std::string pattern(regex.string());
    constexpr size_t kMaxPattern = 4096;
    if (pattern.size() > kMaxPattern) {
      regex.fail(fmt::format("at most {} bytes", kMaxPattern), fmt::format("{}", pattern.size()));
    }
    try {
      definition.pre_tokenizer = std::make_unique<PreTokenizer>(pattern);
    } catch (const Error& error) {
      regex.fail("a regular expression", fmt::format("{} ({})", qnext::quoted(pattern), error.what()));
    }

    const Field byte_level = steps.at(1, list.at(1));
    byte_level["type"].require("ByteLevel");
    byte_level["add_prefix_space"].require_false(true);
    byte_level["use_regex"].require_false(true);
  }

  /// Only those that add no token: chat formats add what they need themselves.
  void check_post_processor() const {
    const Field processor = field("post_processor");
    if (!processor.present() || processor["type"].string() == "ByteLevel") return;
    if (processor["type"].string() != "TemplateProcessing") {
      processor["type"].fail("\"ByteLevel\", \"TemplateProcessing\" or no post-processor");
    }
    const Field single = processor["single"];
    size_t i = 0;
    for (const element piece : single.elements()) {
      const Field sequence = single.at(i++, piece)["Sequence"];
      if (!sequence.present()) sequence.fail("a template that adds no tokens");
    }
  }

  void parse_added_tokens(TokenizerDefinition& definition) const {
    const Field list = field("added_tokens");
    if (!list.present()) return;
    std::unordered_set<int32_t> ids;
    std::unordered_set<std::string> contents, normalized_texts;
    std::string storage;
    size_t i = 0;
    for (const element item : list.elements()) {
      const Field entry = list.at(i++, item);
      const Field content = entry["content"];
      AddedToken token;
      token.id = entry["id"].id();
      token.content = content.string();
      if (token.content.empty() || token.content.size() > AddedToken::kMaxBytes) {
        content.fail(fmt::format("1 to {} bytes", AddedToken::kMaxBytes), fmt::format("{}", token.content.size()));
      }
      entry["single_word"].require_false(false);
      token.special = entry["special"].flag(false);
      token.normalized = entry["normalized"].flag(!token.special);
      token.strip_left = entry["lstrip"].flag(false);
      token.strip_right = entry["rstrip"].flag(false);
      token.text = token.normalized && definition.nfc ? normalize_nfc(token.content, storage) : token.content;
      if (!ids.insert(token.id).second) entry["id"].fail("an id of its own", fmt::format("{} again", token.id));
      if (!contents.insert(token.content).second ||
          (token.normalized && !normalized_texts.insert(token.text).second)) {
        content.fail("a content of its own", qnext::quoted(token.content) + " again");
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
    const Field vocab = field("model")["vocab"];
    const object entries = vocab.members();
    Vocabulary vocabulary(entries.size());
    std::string bytes;
    for (const auto [text, value] : entries) {
      const auto entry = [&, key = text, id = value] {  // made only to complain: there are 150,000 entries
        return Field(file_, fmt::format("model.vocab[{}]", quoted(key)), id);
      };
      int64_t id = -1;
      if (value.get(id) || id < 0 || id >= Vocabulary::kMaxIds) entry().id();  // throws
      if (text.empty()) entry().fail("a token that is not empty", "\"\"");
      const auto added = added_ids.find(text);
      if (added != added_ids.end() && added->second != id) {
        entry().fail(fmt::format("id {} as in added_tokens", added->second));
      }
      const auto same_id = added_contents.find(static_cast<int32_t>(id));
      if (same_id != added_contents.end() && same_id->second != text) {
        entry().fail("an id that no added token has", fmt::format("{}, the id of {}", id, quoted(same_id->second)));
      }
      bytes.clear();
      if (!append_alphabet_bytes(text, bytes)) {
        if (added != added_ids.end()) continue;  // no merge can produce it: it is an added token only
        entry().fail("characters of the byte-level alphabet", "others");
      }
      switch (vocabulary.add(bytes, static_cast<int32_t>(id))) {
        case Vocabulary::Added::kYes:
          break;
        case Vocabulary::Added::kBytesTaken:
          entry().fail("each token once", "it again");
        case Vocabulary::Added::kIdTaken:
          entry().fail("an id of its own", fmt::format("{} again", id));
      }
    }
    for (int b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(b);
      if (!vocabulary.find(std::string_view(&byte, 1))) {
        vocab.fail("a token for each of the 256 bytes", fmt::format("none for byte 0x{:02x}", b));
      }
    }
    return vocabulary;
  }

  void parse_merges(BytePairEncoder& encoder) const {
    const Field merges = field("model")["merges"];
    const Vocabulary& vocabulary = encoder.vocabulary();
    std::string bytes;
    size_t i = 0;
    for (const element item : merges.elements()) {
      const auto entry = [&, index = i] { return merges.at(index, item); };
      ++i;
      std::string_view text, parts[2];
      array pair;
      if (item.get(text) == simdjson::SUCCESS) {
        if (text.starts_with("#version")) continue;  // the first line of merges.txt, as the library skips it
        const size_t space = text.find(' ');
        if (space == text.npos || text.find(' ', space + 1) != text.npos) {
          entry().fail("two tokens with a space between");
        }
        parts[0] = text.substr(0, space);
        parts[1] = text.substr(space + 1);
      } else if (item.get(pair) || pair.size() != 2 || pair.at(0).get(parts[0]) || pair.at(1).get(parts[1])) {
        entry().fail("a string or two strings");
      }
      bytes.clear();
      const auto token = [&](std::string_view part, size_t from) {
        const bool of_alphabet = append_alphabet_bytes(part, bytes);
        const auto id = of_alphabet ? vocabulary.find(std::string_view(bytes).substr(from)) : std::nullopt;
        if (!id) entry().fail("two tokens of the vocabulary", quoted(part));
        return *id;
      };
      const int32_t left = token(parts[0], 0);
      const int32_t right = token(parts[1], bytes.size());
      const auto result = vocabulary.find(bytes);
      const auto both = [&] { return fmt::format("{} and {}", quoted(parts[0]), quoted(parts[1])); };
      if (!result) entry().fail("tokens that make one of the vocabulary", both());
      if (!encoder.add_merge({left, right, *result})) entry().fail("each pair once", both() + " again");
    }
  }

  std::string file_;
  simdjson::dom::parser parser_;
  element root_;
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

std::string alphabet_text(std::string_view bytes) {
  static const std::array<uint16_t, 256> kCodes = [] {
    std::array<uint16_t, 256> codes{};
    for (size_t code = 0; code < kAlphabet.size(); ++code) {
      if (kAlphabet[code] >= 0) codes[static_cast<size_t>(kAlphabet[code])] = static_cast<uint16_t>(code);
    }
    return codes;
  }();
  std::string text;
  for (const char byte : bytes) append_utf8(kCodes[static_cast<unsigned char>(byte)], text);
  return text;
}

TokenizerDefinition parse_tokenizer_json(std::string_view json, const std::string& file) {
  return Parser(json, file).parse();
}

}  // namespace qnext
