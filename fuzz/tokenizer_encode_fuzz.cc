// Any bytes as text: what is encoded decodes to the text (up to replacement and NFC), streamed or whole, with special
// tokens parsed or plain; and the pieces of the hand-written scanner are those that PCRE2 finds with the same
// pattern.
#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>

#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

/// Bytes 0 to 255, a few merges and added tokens; without a normalizer, so that decoding gives the text back.
qnext::Tokenizer make_tokenizer() {
  std::string vocab, merges;
  int next = 0x100;
  const auto entry = [&](const std::string& text, int id) {
    vocab +=
        fmt::format("{}\"{}{}\":{}", vocab.empty() ? "" : ",", text == "\"" || text == "\\" ? "\\" : "", text, id);
  };
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    std::string text;
    qnext::append_utf8(printable ? b : next++, text);
    entry(text, b);
  }
  int id = 256;
  for (const char* pair : {"a a", "aa aa", "a b", "\u0120 a", "\u0120 \u0120", "b c", "ab c", "\u00c3 \u00a9"}) {
    std::string token(pair);
    token.erase(token.find(' '), 1);
    entry(token, id++);
    merges += fmt::format("{}\"{}\"", merges.empty() ? "" : ",", pair);
  }
  const std::string json = fmt::format(
      R"({{"added_tokens":[{{"id":300,"content":"<|a|>","special":true}},)"
      R"({{"id":301,"content":"<|a","normalized":true}},{{"id":302,"content":"|>"}}],"normalizer":null,)"
      R"("pre_tokenizer":{{"type":"Sequence","pretokenizers":[{{"type":"Split",)"
      R"("pattern":{{"Regex":"{}"}},"behavior":"Isolated","invert":false}},{{"type":"ByteLevel",)"
      R"("add_prefix_space":false,"use_regex":false}}]}},"decoder":{{"type":"ByteLevel"}},)"
      R"("model":{{"type":"BPE","vocab":{{{}}},"merges":[{}]}}}})",
      [] {
        std::string pattern;
        for (const char c : qnext::kQwenPattern) pattern += c == '\\' ? "\\\\" : std::string(1, c);
        return pattern;
      }(),
      vocab, merges);
  return qnext::Tokenizer::parse(json, "tokenizer.json");
}

/// Text on which the tables and PCRE2's older Unicode agree: characters beyond what Unicode 9 had are left out.
bool old_characters_only(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const qnext::Utf8Character c = qnext::utf8_character(text, i);
    const bool old = c.code < 0x250 || (c.code >= 0x300 && c.code < 0x378) || (c.code >= 0x4E00 && c.code < 0x9FCC) ||
                     (c.code >= 0x2000 && c.code < 0x2065) || (c.code >= 0xAC00 && c.code < 0xD7A4) ||
                     (c.code >= 0x1F600 && c.code < 0x1F650) || c.code == 0xFFFD;
    if (!old) return false;
    i += c.size;
  }
  return true;
}

std::vector<std::string_view> pieces(const qnext::PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<std::string_view> result;
  pre_tokenizer.for_each_piece(text, [&](std::string_view piece) { result.push_back(piece); });
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const qnext::Tokenizer tokenizer = make_tokenizer();
  static const qnext::PreTokenizer scanner{std::string(qnext::kQwenPattern)};
  static const qnext::PreTokenizer regex("(?:" + std::string(qnext::kQwenPattern) + ")");
  std::string text;
  qnext::append_utf8_replacing(std::string_view(reinterpret_cast<const char*>(data), size), text);

  for (const auto special : {qnext::SpecialTokens::kParse, qnext::SpecialTokens::kPlain}) {
    const std::vector<int32_t> ids =
        tokenizer.encode(std::string_view(reinterpret_cast<const char*>(data), size), special);
    require(tokenizer.decode(ids) == text);
    qnext::StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.next(id);
    require(streamed + stream.finish() == text);
  }

  std::string storage, again;
  const std::string normal(qnext::normalize_nfc(text, storage));
  require(qnext::normalize_nfc(normal, again) == normal);

  const std::vector<std::string_view> ours = pieces(scanner, text);
  size_t covered = 0;
  for (const std::string_view piece : ours) {
    require(piece.data() == text.data() + covered && !piece.empty());
    covered += piece.size();
  }
  require(covered == text.size());
  if (size <= 4096 && old_characters_only(text)) require(pieces(regex, text) == ours);
  return 0;
}
