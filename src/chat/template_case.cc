// Upper and lower case, and the classes of characters, as Python's str has them.
#include <utf8proc.h>

#include "chat/template_text.h"

namespace qnext::jinja {

namespace {
utf8proc_category_t category(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
bool is_letter(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
         k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_LO;
}
bool is_cased_upper(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LU || utf8proc_isupper(c); }
bool is_cased_lower(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LL || utf8proc_islower(c); }
bool is_cased(char32_t c) { return is_cased_upper(c) || is_cased_lower(c) || category(c) == UTF8PROC_CATEGORY_LT; }

/// Upper case may be longer than the letter itself (SpecialCasing.txt; the letters that occur in running text).
void append_upper(std::string& out, char32_t c) {
  switch (c) {
    case U'ß':
      out += "SS";
      return;
    case U'ŉ':
      out += "ʼN";
      return;
    case U'ﬀ':
      out += "FF";
      return;
    case U'ﬁ':
      out += "FI";
      return;
    case U'ﬂ':
      out += "FL";
      return;
    case U'ﬃ':
      out += "FFI";
      return;
    case U'ﬄ':
      out += "FFL";
      return;
    case U'ﬅ':
    case U'ﬆ':
      out += "ST";
      return;
    default:
      append_code_point(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}
void append_title(std::string& out, char32_t c) {
  std::string whole;
  append_upper(whole, c);
  size_t at = 0;
  next_code_point(whole, at);
  if (at < whole.size()) {  // "SS" begins a word as "Ss"
    out += whole.substr(0, at) + lower(std::string_view(whole).substr(at));
  } else {
    append_code_point(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}
/// Lower case of the code point at byte `at` (moved behind it); a capital sigma that ends a word becomes a final one.
void append_lower(std::string& out, std::string_view text, size_t& at) {
  const size_t begin = at;
  const char32_t c = next_code_point(text, at);
  if (c == U'İ') {
    out += "i̇";
    return;
  }
  if (c != U'Σ') {
    append_code_point(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    return;
  }
  const auto cased_before = [&](size_t i) {
    while (i > 0) {
      const char32_t p = previous_code_point(text, i);
      if (is_cased(p)) return true;
      if (category(p) != UTF8PROC_CATEGORY_MN && p != U'\'' && p != U'.' && p != U':') return false;
    }
    return false;
  };
  const auto cased_after = [&](size_t i) {
    while (i < text.size()) {
      const char32_t n = next_code_point(text, i);
      if (is_cased(n)) return true;
      if (category(n) != UTF8PROC_CATEGORY_MN && n != U'\'' && n != U'.' && n != U':') return false;
    }
    return false;
  };
  out += cased_before(begin) && !cased_after(at) ? "ς" : "σ";
}
}  // namespace

std::string upper(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) append_upper(out, next_code_point(text, at));
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) append_lower(out, text, at);
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  size_t at = 0;
  if (!text.empty()) append_title(out, next_code_point(text, at));
  while (at < text.size()) append_lower(out, text, at);
  return out;
}

std::string title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    size_t next = at;
    const char32_t c = next_code_point(text, next);
    if (in_word) {
      append_lower(out, text, at);
    } else {
      append_title(out, c);
      at = next;
    }
    in_word = is_cased(c);
  }
  return out;
}

std::string title_filter(std::string_view text) {
  std::string out;
  bool at_begin = true;
  for (size_t at = 0; at < text.size();) {
    size_t next = at;
    const char32_t c = next_code_point(text, next);
    const bool separator = c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c);
    if (at_begin && !separator) {
      append_upper(out, c);
      at = next;
    } else {
      append_lower(out, text, at);
    }
    at_begin = separator;
  }
  return out;
}

namespace {
bool cased_only(std::string_view text, bool want_upper) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (want_upper ? (is_cased_lower(c) || category(c) == UTF8PROC_CATEGORY_LT)
                   : (is_cased_upper(c) || category(c) == UTF8PROC_CATEGORY_LT)) {
      return false;
    }
    any = any || (want_upper ? is_cased_upper(c) : is_cased_lower(c));
  }
  return any;
}
}  // namespace

bool is_upper(std::string_view text) { return cased_only(text, true); }
bool is_lower(std::string_view text) { return cased_only(text, false); }

bool all_of_class(std::string_view text, std::string_view method) {
  if (text.empty()) return method == "isascii" || method == "isprintable";
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    const auto k = category(c);
    const bool decimal = k == UTF8PROC_CATEGORY_ND;
    const bool superscript = c == 0xB2 || c == 0xB3 || c == 0xB9 || (c >= 0x2070 && c <= 0x2089);
    const bool numeric = decimal || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
    const bool yes = method == "isdigit"       ? decimal || superscript
                     : method == "isdecimal"   ? decimal
                     : method == "isnumeric"   ? numeric
                     : method == "isalpha"     ? is_letter(c)
                     : method == "isalnum"     ? is_letter(c) || numeric
                     : method == "isspace"     ? is_space(c)
                     : method == "isprintable" ? is_printable(c)
                                               : c < 0x80;  // isascii
    if (!yes) return false;
  }
  return true;
}

}  // namespace qnext::jinja
