#include "chat/template_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

namespace qnext::jinja {

namespace {
constexpr size_t kNone = std::string_view::npos;

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
bool is_letter(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
         k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_LO;
}
}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    utf8proc_int32_t c;
    const auto n = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + i),
                                    static_cast<utf8proc_ssize_t>(std::min<size_t>(4, text.size() - i)), &c);
    if (n <= 0) return false;
    i += static_cast<size_t>(n);
  }
  return true;
}

char32_t previous_code_point(std::string_view text, size_t& at) {
  do {
    --at;
  } while (at > 0 && is_continuation(text[at]));
  size_t i = at;
  return next_code_point(text, i);
}

char32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t b = byte(at);
  const size_t n = b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
  char32_t c = n == 1 ? b : b & (0xFF >> (n + 1));
  for (size_t k = 1; k < n; ++k) c = c << 6 | (byte(at + k) & 0x3F);
  at += n;
  return c;
}

void append_code_point(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

size_t code_point_count(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t at = 0;
  while (at < text.size() && (index > 0 || is_continuation(text[at]))) {
    ++at;
    if (at == text.size() || !is_continuation(text[at])) --index;
  }
  return at;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

bool is_word(char32_t c) {
  const auto k = category(c);
  return c == '_' || is_letter(c) || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL ||
         k == UTF8PROC_CATEGORY_NO;
}

std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> characters) {
  const auto drop = [&](std::string_view piece, char32_t c) {
    return characters ? characters->find(piece) != kNone : is_space(c);
  };
  size_t begin = 0, end = text.size();
  while (side != Side::kRight && begin < end) {
    size_t next = begin;
    const char32_t c = next_code_point(text, next);
    if (!drop(text.substr(begin, next - begin), c)) break;
    begin = next;
  }
  while (side != Side::kLeft && begin < end) {
    size_t previous = end;
    const char32_t c = previous_code_point(text, previous);
    if (!drop(text.substr(previous, end - previous), c)) break;
    end = previous;
  }
  return text.substr(begin, end - begin);
}

size_t find_bytes(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return kNone;
  if (part.empty()) return from;
  if (from == text.size()) return kNone;
  // memmem and not string_view::find: the latter is quadratic on texts made for it.
  const void* hit = ::memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return hit == nullptr ? kNone : static_cast<size_t>(static_cast<const char*>(hit) - text.data());
}

size_t rfind_bytes(std::string_view text, std::string_view part, size_t end) {
  if (part.size() > end) return kNone;
  if (part.empty()) return end;
  // Forward search, last hit: linear for hits that do not overlap, and overlapping ones are found one byte further.
  size_t last = kNone;
  const std::string reversed_text(text.substr(0, end).rbegin(), text.substr(0, end).rend());
  const std::string reversed_part(part.rbegin(), part.rend());
  const size_t hit = find_bytes(reversed_text, reversed_part, 0);
  if (hit != kNone) last = end - hit - part.size();
  return last;
}

std::vector<std::string_view> split(Budget& budget, std::string_view text, std::optional<std::string_view> separator,
                                    int64_t limit) {
  std::vector<std::string_view> parts;
  const auto push = [&](std::string_view part) { budget.steps(1), parts.push_back(part); };
  size_t at = 0;
  if (separator) {
    for (size_t hit; limit != 0 && (hit = find_bytes(text, *separator, at)) != kNone; --limit) {
      push(text.substr(at, hit - at));
      at = hit + separator->size();
    }
    push(text.substr(at));
    return parts;
  }
  for (;;) {
    text = strip(text, Side::kLeft, std::nullopt);
    if (text.empty()) return parts;
    if (limit-- == 0) {
      push(text);  // the rest keeps its trailing white space, as in Python
      return parts;
    }
    size_t end = 0;
    while (end < text.size()) {
      size_t next = end;
      if (is_space(next_code_point(text, next))) break;
      end = next;
    }
    push(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::vector<std::string_view> rsplit(Budget& budget, std::string_view text, std::optional<std::string_view> separator,
                                     int64_t limit) {
  if (limit < 0 && !(separator && separator->size() > 1)) return split(budget, text, separator, -1);
  std::vector<std::string_view> parts;
  const auto push = [&](std::string_view part) { budget.steps(1), parts.push_back(part); };
  if (separator) {
    // Occurrences are taken from the right, which differs from taking them from the left when they overlap.
    const std::string reversed_text(text.rbegin(), text.rend());
    const std::string reversed_separator(separator->rbegin(), separator->rend());
    size_t at = 0;
    for (size_t hit; limit != 0 && (hit = find_bytes(reversed_text, reversed_separator, at)) != kNone; --limit) {
      push(text.substr(text.size() - hit, hit - at));
      at = hit + separator->size();
    }
    push(text.substr(0, text.size() - at));
  } else {
    for (;;) {
      text = strip(text, Side::kRight, std::nullopt);
      if (text.empty()) break;
      if (limit-- == 0) {
        push(text);
        break;
      }
      size_t begin = text.size();
      while (begin > 0) {
        size_t previous = begin;
        if (is_space(previous_code_point(text, previous))) break;
        begin = previous;
      }
      push(text.substr(begin));
      text = text.substr(0, begin);
    }
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> splitlines(Budget& budget, std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  const auto push = [&](std::string_view line) { budget.steps(1), lines.push_back(line); };
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_code_point(text, at);
    const bool is_break =
        (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!is_break) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    push(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) push(text.substr(begin));
  return lines;
}

std::string replace(Budget& budget, std::string_view text, std::string_view from, std::string_view to,
                    int64_t limit) {
  budget.scan(text.size() + from.size() + to.size());
  std::string out;
  size_t at = 0;
  const auto append = [&](std::string_view piece) {
    if (piece.size() > budget.max_text_bytes() - out.size()) budget.make(out.size() + piece.size());
    out += piece;
  };
  if (from.empty()) {  // between all code points
    size_t next = 0;
    for (bool first = true; limit != 0 && (first || at < text.size()); --limit, first = false) {
      if (!first) {
        next_code_point(text, next);
        append(text.substr(at, next - at));
        at = next;
      }
      append(to);
    }
  } else {
    for (size_t hit; limit != 0 && (hit = find_bytes(text, from, at)) != kNone; --limit) {
      append(text.substr(at, hit - at));
      append(to);
      at = hit + from.size();
    }
  }
  append(text.substr(at));
  budget.make(out.size());
  return out;
}

void append_string_repr(std::string& out, std::string_view text) {
  const char quote = text.find('\'') != kNone && text.find('"') == kNone ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += text.substr(begin, at - begin);
    } else {
      const auto code = static_cast<uint32_t>(c);
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
  }
  out += quote;
}

void append_json_string(std::string& out, std::string_view text, bool ensure_ascii) {
  out += '"';
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const auto c = static_cast<uint32_t>(next_code_point(text, at));
    switch (c) {
      case '"':
        out += "\\\"";
        continue;
      case '\\':
        out += "\\\\";
        continue;
      case '\n':
        out += "\\n";
        continue;
      case '\r':
        out += "\\r";
        continue;
      case '\t':
        out += "\\t";
        continue;
      case '\f':
        out += "\\f";
        continue;
      case '\b':
        out += "\\b";
        continue;
      default:
        break;
    }
    if (c < 0x20 || (ensure_ascii && c >= 0x7F && c < 0x10000)) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", c);
    } else if (ensure_ascii && c >= 0x10000) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}\\u{:04x}", 0xD7C0 + (c >> 10), 0xDC00 + (c & 0x3FF));
    } else {
      out += text.substr(begin, at - begin);
    }
  }
  out += '"';
}

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const bool negative = text.front() == '-';
  if (negative) text.remove_prefix(1);
  const size_t e = text.find('e');
  int exponent = 0;
  const char* const sign = text.data() + e + 1;
  std::from_chars(*sign == '+' ? sign + 1 : sign, text.data() + text.size(), exponent);
  std::string digits(text.substr(0, 1));
  if (e > 2) digits += text.substr(2, e - 2);
  std::string out = negative ? "-" : "";
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (count > 1) out += "." + digits.substr(1);
    out += fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else if (count <= exponent + 1) {
    out += digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  } else {
    out +=
        digits.substr(0, static_cast<size_t>(exponent) + 1) + "." + digits.substr(static_cast<size_t>(exponent) + 1);
  }
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace qnext::jinja
