#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace qnext {

/// Sorts documents by their random keys on disk: they go to a bucket by their key's upper bits, and each bucket is
/// sorted in memory. The order is that of (key, ordinal), however many buckets there are.
class DocumentShuffle {
 public:
  /// Bucket files are made in `directory` and unlinked at once: nothing is left, whatever happens.
  DocumentShuffle(const std::filesystem::path& directory, size_t buckets);
  ~DocumentShuffle();

  /// Thread-safe. Throws Error when the disk is full.
  void add(uint64_t key, uint64_t ordinal, std::span<const uint32_t> words);
  /// Calls use(words) for every document, in order. Once, after the last add().
  void for_each(const std::function<void(std::span<const uint32_t>)>& use);

 private:
  struct Bucket;
  std::vector<std::unique_ptr<Bucket>> buckets_;
};

}  // namespace qnext
