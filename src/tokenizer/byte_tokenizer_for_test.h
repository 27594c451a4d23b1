#pragma once
#include <fmt/format.h>

#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace qnext {

/// For tests: the smallest byte-level tokenizer. Id b is byte b for b < 256, without any merge; the added tokens follow
/// from 256 in order, the special ones first.
inline Tokenizer byte_tokenizer_for_test(const std::vector<std::string>& special_tokens,
                                         const std::vector<std::string>& visible_tokens = {}) {
  const auto utf8 = [](int code) {
    return code < 0x80 ? std::string(1, static_cast<char>(code))
                       : std::string{static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  };
  std::string vocabulary, added;
  int next_code = 256;  // GPT-2's byte alphabet: unprintable bytes are shown as characters from 256 on
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const std::string character = utf8(printable ? byte : next_code++);
    const bool escaped = character == "\"" || character == "\\";
    vocabulary += fmt::format("{}\"{}{}\":{}", byte ? "," : "", escaped ? "\\" : "", character, byte);
  }
  int id = 256;
  for (const auto* tokens : {&special_tokens, &visible_tokens}) {
    for (const std::string& token : *tokens) {
      added += fmt::format(
          R"({}{{"id":{},"content":"{}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,)"
          R"("special":{}}})",
          added.empty() ? "" : ",", id++, token, tokens == &special_tokens);
    }
  }
  return Tokenizer::parse(
      fmt::format(R"({{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{}],)"
                  R"("normalizer":{{"type":"NFC"}},)"
                  R"("pre_tokenizer":{{"type":"Sequence","pretokenizers":[)"
                  R"({{"type":"Split","pattern":{{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?\\p{{L}}+|)"
                  R"(\\p{{N}}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},)"
                  R"("behavior":"Isolated","invert":false}},)"
                  R"({{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}}]}},)"
                  R"("post_processor":null,)"
                  R"("decoder":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}},)"
                  R"("model":{{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":"",)"
                  R"("end_of_word_suffix":"","fuse_unk":false,"byte_fallback":false,"vocab":{{{}}},"merges":[]}}}})",
                  added, vocabulary),
      "byte tokenizer");
}

}  // namespace qnext
