#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace qnext {

namespace {

constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

int combining_class(int32_t code) { return utf8proc_get_property(code)->combining_class; }

/// Canonical ordering: each run of marks sorted by combining class, equals in their order. utf8proc's own insertion
/// sort is quadratic in the length of a run, and runs come from users.
void order_marks(std::vector<int32_t>& codes) {
  std::vector<uint64_t> keys;  // class, then place, then code: 8, 35 and 21 bits
  for (size_t i = 0; i < codes.size();) {
    keys.clear();
    const size_t begin = i;
    for (; i < codes.size() && combining_class(codes[i]) != 0; ++i) {
      keys.push_back(static_cast<uint64_t>(combining_class(codes[i])) << 56 | (i - begin) << 21 |
                     static_cast<uint64_t>(codes[i]));
    }
    if (keys.size() > 1) {
      std::sort(keys.begin(), keys.end());
      for (size_t k = 0; k < keys.size(); ++k) codes[begin + k] = static_cast<int32_t>(keys[k] & 0x1FFFFF);
    }
    if (i == begin) ++i;
  }
}

/// Appends NFC(segment), where the segment begins and ends at boundaries that no composition crosses.
void append_composed(std::string_view segment, std::vector<int32_t>& codes, std::string& out) {
  codes.clear();
  for (size_t i = 0; i < segment.size();) {
    const Utf8Character character = utf8_character(segment, i);
    int32_t parts[16];
    const utf8proc_ssize_t count = utf8proc_decompose_char(character.code, parts, 16, kCompose, nullptr);
    QNEXT_CHECK(count >= 0 && count <= 16, "utf8proc: U+{:04X} decomposes into {}", character.code, count);
    codes.insert(codes.end(), parts, parts + count);
    i += character.size;
  }
  order_marks(codes);
  const utf8proc_ssize_t size = utf8proc_normalize_utf32(codes.data(), codes.size(), kCompose);
  QNEXT_CHECK(size >= 0, "utf8proc: {}", utf8proc_errmsg(size));
  for (utf8proc_ssize_t k = 0; k < size; ++k) append_utf8(codes[k], out);
}

/// The first byte at or after i that is not ASCII.
size_t skip_ascii(std::string_view text, size_t i) {
  for (uint64_t word; i + sizeof word <= text.size(); i += sizeof word) {
    std::memcpy(&word, text.data() + i, sizeof word);
    if (word & 0x8080808080808080u) break;
  }
  while (i < text.size() && static_cast<unsigned char>(text[i]) < 0x80) ++i;
  return i;
}

}  // namespace

std::string_view normalize_nfc(std::string_view text, std::string& storage) {
  storage.clear();
  std::vector<int32_t> codes;
  size_t copied = 0;      // text[0, copied) is in `storage`, normalized
  size_t previous = 0;    // where the last stable character begins: an unstable one may join it
  bool joinable = false;  // there is such a character, and it is no barrier
  for (size_t i = 0; i < text.size();) {
    if (const size_t next = skip_ascii(text, i); next != i) {
      previous = next - 1;
      joinable = true;
      i = next;
      continue;
    }
    const Utf8Character character = utf8_character(text, i);
    const unsigned flags = unicode_flags(character.code);
    if (!(flags & kNfcUnstable)) {
      previous = i;
      joinable = !(flags & kNfcBarrier);
      i += character.size;
      continue;
    }
    const size_t begin = joinable ? previous : i;
    while (i < text.size()) {
      const Utf8Character mark = utf8_character(text, i);
      if (!(unicode_flags(mark.code) & kNfcUnstable)) break;
      i += mark.size;
    }
    storage.append(text, copied, begin - copied);
    append_composed(text.substr(begin, i - begin), codes, storage);
    copied = i;
    joinable = false;
  }
  if (copied == 0) return text;
  storage.append(text, copied);
  return storage;
}

}  // namespace qnext
