#include "chat/template_lexer.h"

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "chat/template_text.h"

namespace qnext::jinja {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/// Newlines as \n, one trailing newline dropped (keep_trailing_newline is off).
std::string normalise(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& file) : file_(file), source_(normalise(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) lex_text();
    push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  /// `{%`, `{{` or `{#` with its optional sign, and what follows a raw tag.
  struct Opening {
    size_t begin = std::string::npos;
    size_t end = 0;
    char sign = 0;
    char type = 0;  // % { # or r for raw
  };

  std::string_view view() const { return source_; }
  bool at(std::string_view text) const { return view().substr(at_).starts_with(text); }

  void push(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }
  void count_lines(size_t begin, size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(begin),
                                         source_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
  }
  /// Moves on to byte `end`. Whether the token ended a line decides whether a tag after it begins one.
  void advance(size_t end) {
    count_lines(at_, end);
    if (end > at_) line_starting_ = source_[end - 1] == '\n';
    at_ = end;
  }

  size_t skip_space(size_t i) const {
    while (i < source_.size()) {
      size_t next = i;
      if (!is_space(next_code_point(source_, next))) break;
      i = next;
    }
    return i;
  }
  /// The end of `word` and white space around it, or npos.
  size_t match_word(size_t i, std::string_view word) const {
    i = skip_space(i);
    if (!view().substr(i).starts_with(word)) return std::string::npos;
    return skip_space(i + word.size());
  }
  /// The end of a tag's closing at `i` with its trimming: +X, -X and white space, X and (where `trim`) a newline.
  size_t match_closing(size_t i, std::string_view closing, bool trim, bool plus) const {
    const std::string_view rest = view().substr(i);
    if (rest.starts_with(closing)) {
      const size_t end = i + closing.size();
      return trim && end < source_.size() && source_[end] == '\n' ? end + 1 : end;
    }
    if (rest.empty() || !rest.substr(1).starts_with(closing)) return std::string::npos;
    if (rest.front() == '-') return skip_space(i + 1 + closing.size());
    return plus && rest.front() == '+' ? i + 1 + closing.size() : std::string::npos;
  }

  Opening find_opening(size_t from) const {
    Opening opening;
    for (size_t i = from; (i = source_.find('{', i)) != std::string::npos; ++i) {
      if (i + 1 == source_.size()) break;
      const char type = source_[i + 1];
      if (type != '%' && type != '{' && type != '#') continue;
      opening.begin = i;
      opening.type = type;
      opening.end = i + 2;
      if (opening.end < source_.size() && (source_[opening.end] == '-' || source_[opening.end] == '+')) {
        opening.sign = source_[opening.end++];
      }
      if (type == '%') {
        const size_t word = match_word(opening.end, "raw");
        const size_t end = word == std::string::npos ? word : match_closing(word, "%}", false, false);
        if (end != std::string::npos) opening.type = 'r', opening.end = end;
      }
      break;
    }
    return opening;
  }

  /// The text before a tag without the white space that the tag's sign or lstrip_blocks takes away.
  std::string_view text_before(std::string_view text, char sign, bool is_print) const {
    if (sign == '-') return strip(text, Side::kRight, std::nullopt);
    if (sign == '+' || is_print) return text;
    const size_t newline = text.rfind('\n');
    if (newline == std::string_view::npos && !line_starting_) return text;
    const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
    return strip(text.substr(begin), Side::kBoth, std::nullopt).empty() ? text.substr(0, begin) : text;
  }

  void lex_text() {
    const Opening opening = find_opening(at_);
    const size_t text_end = std::min(opening.begin, source_.size());
    const std::string_view whole = view().substr(at_, text_end - at_);
    const std::string_view kept = opening.type == 0 ? whole : text_before(whole, opening.sign, opening.type == '{');
    if (!kept.empty()) push(TokenKind::kText, std::string(kept));
    if (opening.type == 0) {
      advance(text_end);
      return;
    }
    advance(opening.end);
    switch (opening.type) {
      case '#':
        lex_comment();
        break;
      case 'r':
        lex_raw();
        break;
      case '{':
        lex_tag(TokenKind::kPrintBegin, TokenKind::kPrintEnd);
        break;
      default:
        lex_tag(TokenKind::kTagBegin, TokenKind::kTagEnd);
    }
  }

  void lex_comment() {
    for (size_t i = at_; i < source_.size(); ++i) {
      if (source_[i] != '#' && source_[i] != '-' && source_[i] != '+') continue;
      const size_t end = match_closing(i, "#}", true, true);
      if (end == std::string::npos) continue;
      advance(end);
      return;
    }
    fail_at(file_, line_, "the end of the comment, #}", "the end of the template");
  }

  void lex_raw() {
    for (size_t i = at_; (i = source_.find("{%", i)) != std::string::npos; ++i) {
      size_t inside = i + 2;
      const char sign =
          inside < source_.size() && (source_[inside] == '-' || source_[inside] == '+') ? source_[inside] : 0;
      size_t word = match_word(inside + (sign != 0), "endraw");
      if (word == std::string::npos) continue;
      const size_t end = match_closing(word, "%}", true, true);
      if (end == std::string::npos) continue;
      const std::string_view kept = text_before(view().substr(at_, i - at_), sign, false);
      if (!kept.empty()) push(TokenKind::kText, std::string(kept));
      advance(end);
      return;
    }
    fail_at(file_, line_, "the end of the raw block, {% endraw %}", "the end of the template");
  }

  void lex_tag(TokenKind begin, TokenKind end_kind) {
    push(begin, begin == TokenKind::kPrintBegin ? "{{" : "{%");
    const bool is_print = end_kind == TokenKind::kPrintEnd;
    std::string open;  // brackets not yet closed; inside them, }} and %} are operators
    while (at_ < source_.size()) {
      if (open.empty()) {
        const size_t end = match_closing(at_, is_print ? "}}" : "%}", !is_print, !is_print);
        if (end != std::string::npos) {
          push(end_kind, is_print ? "}}" : "%}");
          advance(end);
          return;
        }
      }
      const size_t after_space = skip_space(at_);
      if (after_space > at_) {
        advance(after_space);
      } else if (is_digit(source_[at_])) {
        lex_number();
      } else if (source_[at_] == '\'' || source_[at_] == '"') {
        lex_string();
      } else if (!lex_name()) {
        lex_operator(open);
      }
    }
    // The parser says what is missing: it knows the construct.
  }

  /// Digits with single underscores between them, from `i`.
  size_t digits(size_t i) const {
    while (i < source_.size() && (is_digit(source_[i]) || (source_[i] == '_' && i + 1 < source_.size() && i > 0 &&
                                                           is_digit(source_[i - 1]) && is_digit(source_[i + 1])))) {
      ++i;
    }
    return i;
  }

  void lex_number() {
    size_t end = digits(at_);
    const auto digit_at = [&](size_t i) { return i < source_.size() && is_digit(source_[i]); };
    bool is_float = false;
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';  // x.0.1 is two item accesses
    if (!after_dot) {
      size_t fraction = end;
      if (fraction < source_.size() && source_[fraction] == '.' && digit_at(fraction + 1)) {
        fraction = digits(fraction + 1);
        is_float = true;
      }
      if (fraction < source_.size() && (source_[fraction] | 0x20) == 'e') {
        size_t exponent = fraction + 1;
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
        if (digit_at(exponent)) {
          fraction = digits(exponent);
          is_float = true;
        }
      }
      if (is_float) end = fraction;
    }
    if (!is_float) end = integer_end();
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    push(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
    advance(end);
  }

  /// 0b1, 0o7, 0xf, 12 or 0; 012 is 0 and then 12, as in jinja2.
  size_t integer_end() const {
    if (source_[at_] != '0') return digits(at_);
    const char base = at_ + 1 < source_.size() ? static_cast<char>(source_[at_ + 1] | 0x20) : '\0';
    const int radix = base == 'x' ? 16 : base == 'o' ? 8 : base == 'b' ? 2 : 1;
    const auto valid = [&](size_t i) {
      if (i >= source_.size()) return false;
      const int value = hex_value(source_[i]);
      return value >= 0 && value < radix;
    };
    size_t i = radix == 1 ? at_ + 1 : at_ + 2;
    const size_t first = i;
    while (valid(i) || (i < source_.size() && source_[i] == '_' && valid(i + 1))) ++i;
    return radix > 1 && i == first ? at_ + 1 : i;
  }

  bool lex_name() {
    size_t end = at_;
    while (end < source_.size()) {
      size_t next = end;
      if (!is_word(next_code_point(source_, next))) break;
      end = next;
    }
    if (end == at_) return false;
    const std::string_view name = view().substr(at_, end - at_);
    if (std::any_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; })) {
      fail_at(file_, line_, "a name of ASCII letters", quoted(name));
    }
    push(TokenKind::kName, std::string(name));
    advance(end);
    return true;
  }

  void lex_operator(std::string& open) {
    constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    std::string op;
    for (const std::string_view two : kTwo) {
      if (at(two)) op = two;
    }
    const char c = source_[at_];
    if (op.empty() && std::string_view("+-/*%~[](){}><=.:|,;").find(c) != std::string_view::npos) op = c;
    if (op.empty()) fail_at(file_, line_, "an expression", quoted(view().substr(at_, 8)));
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail_at(file_, line_, "no closing bracket", quoted(op));
      if (open.back() != c) fail_at(file_, line_, quoted(open.substr(open.size() - 1)), quoted(op));
      open.pop_back();
    }
    push(TokenKind::kOperator, op);
    advance(at_ + op.size());
  }

  void lex_string() {
    const char quote = source_[at_];
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_at(file_, line_, "the end of the string", quoted(view().substr(at_, 16)));
    push(TokenKind::kString, unescape(view().substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
  }

  /// Python's escapes in a string literal; unknown ones stay as they are written.
  std::string unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size();) {
      if (text[i] != '\\') {
        out += text[i++];
        continue;
      }
      const char c = text[i + 1];
      i += 2;
      constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
      if (const size_t named = kNames.find(c); named != std::string_view::npos) {
        out += kValues[named];
      } else if (c == '\n') {
        // a continued line
      } else if (c >= '0' && c <= '7') {
        char32_t code = static_cast<char32_t>(c - '0');
        for (int k = 0; k < 2 && i < text.size() && text[i] >= '0' && text[i] <= '7'; ++k, ++i) {
          code = code * 8 + static_cast<char32_t>(text[i] - '0');
        }
        append_code_point(out, code);
      } else if (c == 'x' || c == 'u' || c == 'U') {
        append_code_point(out, hex_escape(text, i, c == 'x' ? 2 : c == 'u' ? 4 : 8));
      } else if (c == 'N') {
        fail_at(file_, line_, "no \\N{...} escape", quoted(text.substr(i - 2, 16)));
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        // jinja2 spells other characters as escapes before it reads escapes, so this one reads as its own spelling.
        --i;
        const auto code = static_cast<uint32_t>(next_code_point(text, i));
        out += code < 0x100     ? fmt::format("\\x{:02x}", code)
               : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                                : fmt::format("\\U{:08x}", code);
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  char32_t hex_escape(std::string_view text, size_t& i, size_t count) const {
    uint64_t code = 0;
    for (size_t k = 0; k < count; ++k, ++i) {
      const int value = i < text.size() ? hex_value(text[i]) : -1;
      if (value < 0) fail_at(file_, line_, fmt::format("{} hexadecimal digits of an escape", count), quoted(text));
      code = code * 16 + static_cast<uint64_t>(value);
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      fail_at(file_, line_, "an escape of a Unicode character", fmt::format("{:#x}", code));
    }
    return static_cast<char32_t>(code);
  }

  const std::string& file_;
  const std::string source_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
};

}  // namespace

std::string Token::describe() const {
  switch (kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kText:
      return "text " + quoted(text, 20);
    case TokenKind::kString:
      return "string " + quoted(text, 20);
    default:
      return quoted(text, 40);
  }
}

std::vector<Token> tokenize(std::string_view source, const std::string& file) { return Lexer(source, file).run(); }

void fail_at(const std::string& file, int line, const std::string& expected, const std::string& found) {
  throw FileError(file, fmt::format("template line {}", line), expected, found);
}

}  // namespace qnext::jinja
