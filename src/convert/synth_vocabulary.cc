#include "convert/synth_vocabulary.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/mapped_file.h"

namespace qnext {

namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;
constexpr const char* kSpecial[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
/// Qwen2's way to cut text into words.
constexpr const char* kSplit =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string utf8(uint32_t code) {  // below U+0800
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 on, in order.
std::vector<std::string> byte_alphabet() {
  std::vector<std::string> alphabet;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    alphabet.push_back(utf8(printable ? byte : next++));
  }
  return alphabet;
}

void pad(SynthVocabulary& v, int64_t vocab_size) {
  for (auto id = static_cast<int64_t>(v.tokens.size()); id < vocab_size; ++id) {
    v.tokens.push_back(fmt::format("[PAD{}]", id));
    v.types.push_back(kUnused);
  }
}

std::string optional_text(const std::filesystem::path& file) {
  constexpr size_t kMaxBytes = 64 << 20;
  return std::filesystem::exists(file) ? read_text_file(file, kMaxBytes) : std::string();
}

}  // namespace

SynthVocabulary filler_vocabulary(int64_t vocab_size) {
  SynthVocabulary v;
  v.tokens = byte_alphabet();
  v.types.assign(v.tokens.size(), kNormal);
  const std::string pair = v.tokens[' '] + v.tokens['t'];  // readers want at least one merge
  v.merges = {v.tokens[' '] + " " + v.tokens['t']};
  v.tokens.push_back(pair);
  v.types.push_back(kNormal);
  Json vocab = Json::object(), added = Json::array();
  for (size_t id = 0; id < v.tokens.size(); ++id) vocab[v.tokens[id]] = id;
  for (const char* name : kSpecial) {
    added.push_back({{"id", v.tokens.size()}, {"content", name}, {"single_word", false}, {"lstrip", false}, {"rstrip", false},
                     {"normalized", false}, {"special", true}});
    v.tokens.push_back(name);
    v.types.push_back(kControl);
  }
  const auto defined = static_cast<int64_t>(v.tokens.size());
  if (vocab_size < defined) throw Error(fmt::format("vocabulary: expected at least {} ids, found {}", defined, vocab_size));
  v.end_of_text = static_cast<int32_t>(defined - 3);
  v.end_of_turn = static_cast<int32_t>(defined - 1);
  pad(v, vocab_size);
  const Json byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const Json split{{"type", "Split"}, {"pattern", {{"Regex", kSplit}}}, {"behavior", "Isolated"}, {"invert", false}};
  Json tokenizer{{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added},
                 {"normalizer", {{"type", "NFC"}}},
                 {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
                 {"post_processor", byte_level}, {"decoder", byte_level},
                 {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", ""},
                            {"end_of_word_suffix", ""}, {"fuse_unk", false}, {"byte_fallback", false},
                            {"ignore_merges", false}, {"vocab", vocab}, {"merges", {v.merges[0]}}}}};
  v.tokenizer_json = tokenizer.dump(1);
  v.tokenizer_config_json = Json{{"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", kSpecial[2]},
                                 {"pad_token", kSpecial[0]}, {"clean_up_tokenization_spaces", false}}.dump(1);
  return v;
}

SynthVocabulary read_vocabulary(const std::filesystem::path& directory, int64_t vocab_size) {
  constexpr size_t kMaxBytes = 256 << 20;
  const std::filesystem::path file = directory / "tokenizer.json";
  SynthVocabulary v;
  v.tokenizer_json = read_text_file(file, kMaxBytes);
  v.tokenizer_config_json = optional_text(directory / "tokenizer_config.json");
  v.chat_template = optional_text(directory / "chat_template.jinja");
  try {
    const Json json = Json::parse(v.tokenizer_json);
    v.tokens.resize(static_cast<size_t>(vocab_size));
    v.types.assign(v.tokens.size(), 0);
    const auto put = [&](int64_t id, const std::string& token, int32_t type) {
      if (id < 0 || id >= vocab_size) throw FileError(file, "token id", fmt::format("below {}", vocab_size), fmt::to_string(id));
      v.tokens[static_cast<size_t>(id)] = token;
      v.types[static_cast<size_t>(id)] = type;
    };
    for (const auto& [token, id] : json.at("model").at("vocab").items()) put(id, token, kNormal);
    for (const Json& token : json.at("added_tokens")) {
      put(token.at("id"), token.at("content"), token.at("special") ? kControl : kUserDefined);
      if (token.at("content") == kSpecial[0]) v.end_of_text = token.at("id");
      if (token.at("content") == kSpecial[2]) v.end_of_turn = token.at("id");
    }
    for (const Json& merge : json.at("model").at("merges")) {
      v.merges.push_back(merge.is_string() ? merge.get<std::string>()
                                           : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>());
    }
    for (size_t id = 0; id < v.tokens.size(); ++id) {
      if (v.types[id] != 0) continue;
      v.tokens[id] = fmt::format("[PAD{}]", id);
      v.types[id] = kUnused;
    }
    if (!v.tokenizer_config_json.empty() && v.chat_template.empty()) {
      const Json config = Json::parse(v.tokenizer_config_json);
      if (config.contains("chat_template") && config["chat_template"].is_string()) v.chat_template = config["chat_template"];
    }
  } catch (const Json::exception& error) {
    throw FileError(file, "tokenizer", "a byte-level BPE tokenizer", quoted(error.what()));
  }
  return v;
}

void add_vocabulary(const SynthVocabulary& v, GgufMetadata& metadata) {
  metadata.set("tokenizer.ggml.model", std::string("gpt2"));
  metadata.set("tokenizer.ggml.pre", std::string("qwen2"));
  metadata.set("tokenizer.ggml.tokens", GgufArray(v.tokens));
  metadata.set("tokenizer.ggml.token_type", GgufArray(v.types));
  metadata.set("tokenizer.ggml.merges", GgufArray(v.merges));
  metadata.set("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(v.end_of_turn));
  metadata.set("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(v.end_of_text));
  metadata.set("tokenizer.ggml.padding_token_id", static_cast<uint32_t>(v.end_of_text));
  metadata.set("tokenizer.ggml.add_bos_token", false);
  if (!v.chat_template.empty()) metadata.set("tokenizer.chat_template", v.chat_template);
}

}  // namespace qnext
