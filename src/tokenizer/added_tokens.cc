#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace qnext {

namespace {
unsigned char byte_at(std::string_view text, size_t i) { return static_cast<unsigned char>(text[i]); }
}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(), [](const Token& a, const Token& b) { return a.text < b.text; });
  for (const Token& token : tokens_) {
    QNEXT_CHECK(!token.text.empty() && token.text.size() <= AddedToken::kMaxBytes, "{}", quoted(token.text));
    ++first_[byte_at(token.text, 0) + 1];
  }
  for (int b = 0; b < 256; ++b) first_[b + 1] += first_[b];
  if (!tokens_.empty() && tokens_.front().text[0] == tokens_.back().text[0]) {
    only_first_byte_ = byte_at(tokens_.front().text, 0);
  }
}

AddedTokenMatcher::Match AddedTokenMatcher::find(std::string_view text, size_t from) const {
  if (tokens_.empty()) return {};
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (only_first_byte_ >= 0) {
      const void* found = std::memchr(text.data() + begin, only_first_byte_, text.size() - begin);
      if (!found) return {};
      begin = static_cast<const char*>(found) - text.data();
    }
    // The tokens that agree with the text so far are neighbours in the sorted list, the shortest first.
    const Token* low = tokens_.data() + first_[byte_at(text, begin)];
    const Token* high = tokens_.data() + first_[byte_at(text, begin) + 1];
    const Token* longest = nullptr;
    for (size_t depth = 1; low != high; ++depth) {
      if (low->text.size() == depth) longest = low++;
      if (begin + depth >= text.size()) break;
      const unsigned char next = byte_at(text, begin + depth);
      low = std::partition_point(low, high, [&](const Token& token) { return byte_at(token.text, depth) < next; });
      high = std::partition_point(low, high, [&](const Token& token) { return byte_at(token.text, depth) == next; });
    }
    if (longest) return {longest, begin};
  }
  return {};
}

size_t AddedTokenMatcher::spaces_before(std::string_view text, size_t end, size_t bound) {
  while (end > bound) {
    size_t i = end - 1;
    while (i > bound && (byte_at(text, i) & 0xC0) == 0x80) --i;
    if ((byte_at(text, i) & 0xC0) == 0x80 || character_class(utf8_character(text, i).code) != CharacterClass::kSpace)
      break;
    end = i;
  }
  return end;
}

size_t AddedTokenMatcher::SpaceRun::end_from(std::string_view text, size_t i) {
  if (begin <= i && i < end) return end;
  begin = end = i;
  while (end < text.size()) {
    const Utf8Character character = utf8_character(text, end);
    if (character_class(character.code) != CharacterClass::kSpace) break;
    end += character.size;
  }
  return end;
}

}  // namespace qnext
