#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace qnext {

/// One step through bytes that may or may not be UTF-8.
struct Utf8Step {
  size_t size;      ///< bytes of the character, or of the maximal subpart of an ill-formed one; at least 1
  bool valid;       ///< the bytes are a well-formed character
  bool incomplete;  ///< ill-formed only because the text ends: more bytes could complete it
};

/// Requires i < text.size(). Subparts are those of Unicode 3.9 ("U+FFFD substitution of maximal subparts"), which
/// Python's errors="replace" and Rust's from_utf8_lossy follow.
Utf8Step utf8_step(std::string_view text, size_t i);

/// Appends `bytes` with every ill-formed maximal subpart replaced by U+FFFD.
void append_utf8_replacing(std::string_view bytes, std::string& out);

/// How many bytes at the end begin a character that further bytes could complete (0 to 3).
size_t utf8_incomplete_tail(std::string_view bytes);

void append_utf8(uint32_t code, std::string& out);

struct Utf8Character {
  uint32_t code;
  uint32_t size;
};

/// The character at text[i]. Requires that a well-formed character stands there.
inline Utf8Character utf8_character(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return static_cast<uint32_t>(static_cast<unsigned char>(text[i + k])); };
  const uint32_t b = byte(0);
  if (b < 0x80) return {b, 1};
  if (b < 0xE0) return {(b & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (b < 0xF0) return {(b & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(b & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

}  // namespace qnext
