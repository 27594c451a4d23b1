#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

/// Small tokenizers for tests.
namespace qnext::testing {

/// A byte in GPT-2's printable alphabet.
inline std::string alphabet(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const uint32_t b = static_cast<unsigned char>(c);
    if ((b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE) {
      append_utf8(b, text);
    } else {  // the others follow from U+0100 in order: 0..0x20, 0x7F..0xA0, 0xAD
      append_utf8(0x100 + (b <= 0x20 ? b : b == 0xAD ? 67 : b - 0x7F + 33), text);
    }
  }
  return text;
}

/// A tokenizer.json with the 256 bytes as ids 0 to 255 and then one token per merge, each a pair of byte strings.
inline nlohmann::json tokenizer_json(const std::vector<std::pair<std::string, std::string>>& merges = {},
                                     const std::string& pattern = std::string(kQwenPattern)) {
  nlohmann::json vocab = nlohmann::json::object(), list = nlohmann::json::array();
  for (int b = 0; b < 256; ++b) vocab[alphabet(std::string(1, static_cast<char>(b)))] = b;
  for (const auto& [left, right] : merges) {
    const std::string token = alphabet(left + right);
    if (!vocab.contains(token)) vocab[token] = vocab.size();
    list.push_back({alphabet(left), alphabet(right)});
  }
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  const nlohmann::json split = {
      {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  return {{"version", "1.0"},
          {"added_tokens", nlohmann::json::array()},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
          {"post_processor", byte_level},
          {"decoder", byte_level},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", list}}}};
}

inline nlohmann::json added_token(int64_t id, const std::string& content, bool special = false) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// A tokenizer without merges: id b is byte b, and the added tokens follow from 256 in order, the special ones first.
inline Tokenizer byte_tokenizer(const std::vector<std::string>& special, const std::vector<std::string>& visible = {}) {
  nlohmann::json json = tokenizer_json();
  int64_t id = 256;
  for (const std::string& text : special) json["added_tokens"].push_back(added_token(id++, text, true));
  for (const std::string& text : visible) json["added_tokens"].push_back(added_token(id++, text));
  return Tokenizer::parse(json.dump(), "byte tokenizer");
}

}  // namespace qnext::testing
