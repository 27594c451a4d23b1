#include "tokenizer/utf8.h"

#include <algorithm>

namespace qnext {

Utf8Step utf8_step(std::string_view text, size_t i) {
  const unsigned lead = static_cast<unsigned char>(text[i]);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
  unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t k = 1; k < size; ++k) {
    if (i + k >= text.size()) return {k, false, true};
    const unsigned byte = static_cast<unsigned char>(text[i + k]);
    if (byte < low || byte > high) return {k, false, false};
    low = 0x80, high = 0xBF;
  }
  return {size, true, false};
}

void append_utf8_replacing(std::string_view bytes, std::string& out) {
  size_t copied = 0;
  for (size_t i = 0; i < bytes.size();) {
    const Utf8Step step = utf8_step(bytes, i);
    if (!step.valid) {
      out.append(bytes, copied, i - copied);
      out += "\xEF\xBF\xBD";
      copied = i + step.size;
    }
    i += step.size;
  }
  out.append(bytes, copied, bytes.size() - copied);
}

size_t utf8_incomplete_tail(std::string_view bytes) {
  for (size_t back = 1; back <= std::min<size_t>(3, bytes.size()); ++back) {
    const size_t i = bytes.size() - back;
    if ((static_cast<unsigned char>(bytes[i]) & 0xC0) == 0x80) continue;  // a tail byte: its lead stands further left
    const Utf8Step step = utf8_step(bytes, i);
    return step.incomplete && step.size == back ? back : 0;
  }
  return 0;
}

void append_utf8(uint32_t code, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6), tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12), tail(6), tail(0);
  } else {
    out += static_cast<char>(0xF0 | code >> 18), tail(12), tail(6), tail(0);
  }
}

}  // namespace qnext
