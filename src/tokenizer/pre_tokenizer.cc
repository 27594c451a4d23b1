#include "tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace qnext {

namespace {

using enum CharacterClass;

struct Character {
  uint32_t code;
  CharacterClass type;
  size_t end;
};

inline Character character_at(std::string_view text, size_t i) {
  const Utf8Character character = utf8_character(text, i);
  return {character.code, character_class(character.code), i + character.size};
}

/// The end of the run of `type` at i.
template <CharacterClass type>
inline size_t skip(std::string_view text, size_t i) {
  while (i < text.size()) {
    const Character character = character_at(text, i);
    if (character.type != type) break;
    i = character.end;
  }
  return i;
}

bool is_newline(uint32_t code) { return code == '\r' || code == '\n'; }

/// Length of (?i:'s|'t|'re|'ve|'m|'ll|'d) at text[i], an apostrophe; 0 when there is none. U+017F folds to s.
size_t contraction_size(std::string_view text, size_t i) {
  const auto lower = [&](size_t k) { return i + k < text.size() ? text[i + k] | 0x20 : 0; };
  switch (lower(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return lower(2) == 'e' ? 3 : 0;
    case 'l':
      return lower(2) == 'l' ? 3 : 0;
    default:
      return text.substr(i + 1, 2) == "\xC5\xBF" ? 3 : 0;
  }
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` at text[begin], a space: up to the last line end of the run if it has one; else all of
/// a run that ends the text; else all but the last space, which belongs to the next word.
size_t whitespace_end(std::string_view text, size_t begin) {
  size_t end = begin, last = begin, newline_end = 0;
  while (end < text.size()) {
    const Character character = character_at(text, end);
    if (character.type != kSpace) break;
    last = end;
    end = character.end;
    if (is_newline(character.code)) newline_end = end;
  }
  if (newline_end != 0) return newline_end;
  return end == text.size() || last == begin ? end : last;
}

}  // namespace

size_t qwen_piece_end(std::string_view text, size_t begin) {
  const Character first = character_at(text, begin);
  if (first.type == kLetter) return skip<kLetter>(text, first.end);
  if (first.type == kNumber) return first.end;
  if (first.code == '\'') {
    if (const size_t size = contraction_size(text, begin)) return begin + size;
  }
  // [^\r\n\p{L}\p{N}]?\p{L}+
  if (first.end < text.size() && !is_newline(first.code)) {
    const Character second = character_at(text, first.end);
    if (second.type == kLetter) return skip<kLetter>(text, second.end);
  }
  // ` ?[^\s\p{L}\p{N}]+[\r\n]*`
  if (first.type == kOther || first.code == ' ') {
    const size_t others_end = skip<kOther>(text, first.end);
    if (first.type == kOther || others_end != first.end) {
      size_t end = others_end;
      while (end < text.size() && is_newline(static_cast<unsigned char>(text[end]))) ++end;
      return end;
    }
  }
  return whitespace_end(text, begin);
}

struct PreTokenizer::Regex {
  struct Deleter {
    void operator()(pcre2_code* p) const { pcre2_code_free(p); }
    void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
    void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
    void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
  };
  template <class T>
  using Owned = std::unique_ptr<T, Deleter>;

  static std::string message(int code) {
    PCRE2_UCHAR text[256] = {};
    pcre2_get_error_message(code, text, sizeof text);
    return reinterpret_cast<const char*>(text);
  }

  explicit Regex(const std::string& pattern) {
    int error = 0;
    size_t offset = 0;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
    if (!code) throw Error(fmt::format("{} at offset {}", message(error), offset));
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without JIT the interpreter gives the same result
  }

  Owned<pcre2_code> code;
};

PreTokenizer::PreTokenizer(std::string pattern) : pattern_(std::move(pattern)) {
  if (pattern_ != kQwenPattern) regex_ = std::make_unique<Regex>(pattern_);
}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

std::vector<size_t> PreTokenizer::regex_piece_ends(std::string_view text) const {
  constexpr size_t kJitStackMin = 32 << 10, kJitStackMax = 8 << 20;
  const Regex::Owned<pcre2_match_data> match(pcre2_match_data_create_from_pattern(regex_->code.get(), nullptr));
  const Regex::Owned<pcre2_match_context> context(pcre2_match_context_create(nullptr));
  const Regex::Owned<pcre2_jit_stack> stack(pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr));
  if (!match || !context) throw std::bad_alloc();
  pcre2_jit_stack_assign(context.get(), nullptr, stack.get());

  std::vector<size_t> ends;
  const auto cut = [&](size_t end) {
    if (end > (ends.empty() ? 0 : ends.back())) ends.push_back(end);
  };
  for (size_t from = 0; from < text.size();) {
    const int count = pcre2_match(regex_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                  PCRE2_NO_UTF_CHECK, match.get(), context.get());
    if (count == PCRE2_ERROR_NOMATCH) break;
    if (count < 0) {
      throw Error(
          fmt::format("split pattern {} at byte {} of the text: {}", quoted(pattern_), from, Regex::message(count)));
    }
    const size_t* offsets = pcre2_get_ovector_pointer(match.get());
    if (offsets[0] > offsets[1]) throw Error(fmt::format("split pattern {}: \\K in a lookahead", quoted(pattern_)));
    cut(offsets[0]);
    cut(offsets[1]);
    from = offsets[1] > from ? offsets[1] : from + utf8_character(text, from).size;  // empty matches only cut
  }
  cut(text.size());
  return ends;
}

}  // namespace qnext
