#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/token_shard.h"

namespace qnext {

class Tokenizer;

/// Tells tokenizers apart: a checksum of every id's bytes and kind. Never 0.
uint64_t tokenizer_fingerprint(const Tokenizer& tokenizer);

/// What `qnext data pack` made: one or more directories of shards (or single shard files), mapped, as one sequence of
/// documents. Immutable and thread-safe once built.
///
/// A directory holds dataset.json, which is written last and lists its shards; a directory without it, or with shards
/// other than it lists, is refused.
class TokenDataset {
 public:
  static constexpr const char* kManifest = "dataset.json";

  /// Throws Error/FileError for what cannot be read or is damaged (see TokenShard: tokens are checked by document()
  /// and verify()), for shards of different vocabularies or tokenizers, and for no paths.
  explicit TokenDataset(const std::vector<std::filesystem::path>& paths);
  explicit TokenDataset(const std::filesystem::path& path) : TokenDataset(std::vector{path}) {}

  uint64_t document_count() const { return counts_.documents; }
  uint64_t token_count() const { return counts_.tokens; }
  uint64_t target_count() const { return counts_.targets; }
  int32_t vocab_size() const { return shards_.front().vocab_size(); }
  uint64_t tokenizer_fingerprint() const { return shards_.front().tokenizer_fingerprint(); }
  /// Stands for the whole content: a resumed run has the same data if it has the same fingerprint.
  uint64_t fingerprint() const { return fingerprint_; }

  /// The words of a document (token_id, is_target of data/token_shard.h), never empty, in the mapped file. Requires
  /// i < document_count(). Throws FileError when an id is not below vocab_size().
  std::span<const uint32_t> document(uint64_t i) const;
  uint64_t document_size(uint64_t i) const;  ///< its number of tokens; reads none

  /// Throws Error when ids of these documents may not be rows of a model's embedding.
  void require_vocabulary(int64_t model_vocab_size) const;
  /// Throws Error when another tokenizer made the ids.
  void require_tokenizer(const Tokenizer& tokenizer) const;
  /// Reads everything: checksums and ids. Throws FileError.
  void verify() const;

  const std::vector<TokenShard>& shards() const { return shards_; }

 private:
  struct Place {
    const TokenShard* shard;
    uint64_t document;  ///< in the shard
  };
  Place place(uint64_t i) const;
  std::string name() const;

  std::vector<TokenShard> shards_;
  std::vector<uint64_t> first_;  ///< document number of each shard's first, and the total
  TokenCounts counts_;
  uint64_t fingerprint_ = 0;
};

/// A pseudo-random permutation of [0, n) that needs no memory: the i-th document of an epoch is order(i). So the
/// position of a training run in its data is (epoch, i), and nothing else need be saved. The same on every machine.
class DocumentOrder {
 public:
  /// Requires n >= 1.
  DocumentOrder(uint64_t n, uint64_t seed, uint64_t epoch);

  uint64_t size() const { return n_; }
  uint64_t operator()(uint64_t i) const;  ///< requires i < size()

 private:
  uint64_t permute(uint64_t x) const;  ///< of [0, 4^half_bits_)

  uint64_t n_, seed_, epoch_;
  int half_bits_;
};

inline DocumentOrder document_order(uint64_t epoch, uint64_t seed, uint64_t n) { return {n, seed, epoch}; }

}  // namespace qnext
