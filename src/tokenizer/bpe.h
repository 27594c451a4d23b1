#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace qnext {

/// Byte-pair encoding of one piece at a time: starting from its bytes, the pair of lowest rank is merged, the
/// leftmost of equals first, until no pair has a rank. Thread-safe once built.
class BytePairEncoder {
 public:
  struct Merge {
    int32_t left, right, result;
  };

  /// Requires a vocabulary that has all 256 single bytes, and merges of ids it has, in order of rank.
  explicit BytePairEncoder(Vocabulary vocabulary);
  /// Gives the next rank to a pair; false when the pair has one already.
  bool add_merge(const Merge& merge);

  const Vocabulary& vocabulary() const { return vocabulary_; }
  size_t merge_count() const { return merge_count_; }
  /// All merges, in order of rank.
  std::vector<Merge> merges() const;

  /// Appends the ids of a piece, which is not empty. Time O(n log n) in its size.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  struct Slot {
    uint64_t pair = UINT64_MAX;  ///< left id in the upper half, right id in the lower
    uint32_t rank = kNoRank;     ///< kNoRank: empty
    int32_t result = -1;
  };
  /// What the merges make of a token's own bytes. Found on first use and remembered: most pieces of real text are one
  /// token, and for those the answer is one look-up. Most tokens are whole, but not all are, and no file says which.
  enum Whole : uint8_t { kUnknown, kYes, kNo };

  const Slot& find_merge(int32_t left, int32_t right) const;
  size_t slot_index(uint64_t pair) const;
  void merge_short(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge(std::string_view piece, std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
  std::array<int32_t, 256> byte_ids_;
  std::vector<Slot> slots_;  ///< open addressing, linear probing, at most half full; a power of two
  size_t merge_count_ = 0;
  uint64_t seed_;
  std::unique_ptr<std::atomic<uint8_t>[]> whole_;  ///< per id; every thread that writes an entry writes the same
};

}  // namespace qnext
