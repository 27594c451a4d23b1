#pragma once
#include <cstdint>

namespace qnext {

#include "tokenizer/unicode_tables.inc"

/// The four classes that the split patterns of the Qwen family tell apart.
enum class CharacterClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };

inline constexpr unsigned kNfcUnstable = 4;  ///< NFC may change it, move it, or join it to what stands before it
inline constexpr unsigned kNfcBarrier = 8;   ///< a starter that composes with nothing, but not so in a newer Unicode

/// Class and NFC flags of a code point; 0 for what the table does not reach.
inline unsigned unicode_flags(uint32_t code) {
  if (code >= kUnicodeTableEnd) return 0;
  return kUnicodeBlocks[kUnicodeBlockIndex[code / 128] * 128u + code % 128] & 0xFu;
}

inline CharacterClass character_class(uint32_t code) { return static_cast<CharacterClass>(unicode_flags(code) & 3); }

}  // namespace qnext
