#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "base/atomic_file.h"
#include "base/checksum.h"
#include "base/mapped_file.h"

// A token shard: documents as token ids, one after the other, ready to be mapped. All numbers are little-endian.
//
//   offset  size
//        0     8  magic "QNEXTTOK"
//        8     4  version, 1
//       12     4  flags, 0
//       16     4  vocabulary size V: every token id is below it
//       20     4  zero
//       24     8  documents D, at least 1
//       32     8  tokens T
//       40     8  targets: tokens whose top bit is clear
//       48     8  fingerprint of the tokenizer that made the ids (data/dataset.h)
//       56     8  checksum of the tokens section
//       64     8  checksum of the offsets section
//       72    48  zero
//      120     8  checksum of the bytes 0 to 119
//      128   4 T  tokens: u32 each. The low 31 bits are the id; the top bit set means "not a target": no loss is
//      taken on
//                 predicting this token (what a user or the system said in a conversation)
//            0-4  zeros up to a multiple of 8
//         8(D+1)  offsets: u64 each. Document i is the tokens [offsets[i], offsets[i + 1]); offsets[0] is 0,
//                 offsets[D] is T, and no document is empty
//
// Checksums are XXH3-64 (base/checksum.h). A document is what a model is trained on as one: attention and recurrent
// state begin anew at its first token, which nothing predicts.

namespace qnext {

inline constexpr uint32_t kNoTargetBit = 0x80000000;

constexpr int32_t token_id(uint32_t word) { return static_cast<int32_t>(word & ~kNoTargetBit); }
constexpr bool is_target(uint32_t word) { return (word & kNoTargetBit) == 0; }
constexpr uint32_t token_word(int32_t id, bool target) {
  return static_cast<uint32_t>(id) | (target ? 0 : kNoTargetBit);
}

/// Counts of a shard, or of a set of them.
struct TokenCounts {
  uint64_t documents = 0, tokens = 0, targets = 0;
};

/// Writes a shard as its documents come. Nothing is seen under `path` before finish(), which needs at least one
/// document; a writer that is destroyed before leaves nothing. Memory: 8 bytes per document.
class TokenShardWriter {
 public:
  TokenShardWriter(const std::filesystem::path& path, int32_t vocab_size, uint64_t tokenizer_fingerprint);

  /// One document, not empty. Throws Error for an id that is not below vocab_size, and when writing fails.
  void append(std::span<const uint32_t> document);
  void finish();

  const TokenCounts& counts() const { return counts_; }

 private:
  void flush();

  AtomicFile file_;
  std::filesystem::path path_;
  uint32_t vocab_size_;
  uint64_t tokenizer_fingerprint_;
  TokenCounts counts_;
  std::vector<uint64_t> offsets_{0};
  std::vector<uint32_t> buffer_;
  uint64_t written_ = 0;  ///< tokens that have left the buffer
  RunningChecksum tokens_checksum_;
};

/// A shard, mapped. The constructor checks everything but the tokens themselves: sizes, header, offsets, their
/// checksums; document() checks that ids are below vocab_size(), and verify() the tokens' checksum. Throws FileError.
/// Thread-safe once built.
class TokenShard {
 public:
  explicit TokenShard(const std::filesystem::path& path);

  const TokenCounts& counts() const { return counts_; }
  int32_t vocab_size() const { return static_cast<int32_t>(vocab_size_); }
  uint64_t tokenizer_fingerprint() const { return tokenizer_fingerprint_; }
  /// Stands for the whole content, since the header holds the sections' checksums.
  uint64_t header_checksum() const { return header_checksum_; }
  const std::filesystem::path& path() const { return file_.path(); }

  /// Requires i < counts().documents. The view lives as long as the shard. Throws FileError for ids out of range.
  std::span<const uint32_t> document(uint64_t i) const;
  uint64_t document_size(uint64_t i) const { return offsets_[i + 1] - offsets_[i]; }  ///< reads no tokens

  /// Reads the whole file: checksum of the tokens, ids, number of targets. Throws FileError.
  void verify() const;

 private:
  void check_ids(std::span<const uint32_t> words, uint64_t first) const;

  MappedFile file_;
  TokenCounts counts_;
  uint32_t vocab_size_ = 0;
  uint64_t tokenizer_fingerprint_ = 0, tokens_checksum_ = 0, header_checksum_ = 0;
  std::span<const uint32_t> tokens_;
  std::span<const uint64_t> offsets_;  ///< documents + 1
};

}  // namespace qnext
