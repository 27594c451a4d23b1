#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qnext {

/// Tokens as byte strings, each with its id. Ids may have gaps.
class Vocabulary {
 public:
  static constexpr int32_t kMaxIds = 1 << 22;  ///< ids are below this: tables indexed by id stay small

  enum class Added { kYes, kBytesTaken, kIdTaken };

  /// `expected` tokens will fit without moving; any number may be added.
  explicit Vocabulary(size_t expected = 0);
  /// Requires 0 <= id < kMaxIds and bytes that are not empty.
  Added add(std::string_view bytes, int32_t id);

  std::optional<int32_t> find(std::string_view bytes) const;
  /// Empty for ids that no token has. The view lives until the next add().
  std::string_view bytes(int32_t id) const {
    if (id < 0 || static_cast<size_t>(id) >= entries_.size()) return {};
    return std::string_view(pool_).substr(entries_[id].begin, entries_[id].size);
  }
  bool has(int32_t id) const { return !bytes(id).empty(); }
  /// One more than the largest id.
  int32_t id_end() const { return static_cast<int32_t>(entries_.size()); }
  size_t size() const { return count_; }

 private:
  struct Entry {
    uint32_t begin = 0, size = 0;  ///< in pool_
  };
  struct Slot {
    uint32_t tag = 0;  ///< upper half of the hash: most mismatches end here
    int32_t id = -1;   ///< -1: empty
  };
  uint64_t hash(std::string_view bytes) const;
  size_t slot_of(std::string_view bytes, uint64_t hash) const;
  void grow();

  std::string pool_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;  ///< open addressing, linear probing, at most half full; a power of two
  size_t count_ = 0;
  uint64_t seed_;  ///< differs per process and object, so that a file cannot be made to collide
};

}  // namespace qnext
