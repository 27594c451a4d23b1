#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/records.h"
#include "data/token_shard.h"

namespace qnext {

struct PackOptions {
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path tokenizer;  ///< directory with tokenizer.json; the chat format is ChatFormat::load's of it
  std::filesystem::path out;        ///< directory, made if absent
  InputFormat format = InputFormat::kAuto;
  std::string separator;            ///< RecordReader's
  std::string end_token;            ///< ends each text; empty: <|endoftext|>, else eos_token of tokenizer_config.json
  uint64_t shard_tokens = 1 << 26;  ///< a shard is closed at the first document that reaches this
  uint64_t seed = 0;                ///< of the shuffle
  bool special_in_text = false;     ///< special-token strings in texts become those tokens
  bool skip_bad = false;            ///< count bad records instead of stopping at the first
  bool overwrite = false;           ///< replace the data set that `out` holds
  int threads = 1;
  uint64_t bucket_bytes = 64 << 20;  ///< memory for the shuffle, about
};

struct PackProgress {
  uint64_t bytes_read = 0, total_bytes = 0;  ///< total 0: not known
  uint64_t documents = 0, tokens = 0;
};

struct PackReport {
  static constexpr size_t kKeptMessages = 20;

  TokenCounts counts;
  uint64_t shards = 0, skipped = 0;
  uint64_t bytes_read = 0;
  std::vector<std::string> bad_records;  ///< the first kKeptMessages messages
  int32_t vocab_size = 0;
};

/// Turns texts and conversations into shards, which TokenDataset opens.
///
/// Documents are shuffled by the seed: each goes where a Philox draw of (seed, number of the record) puts it, through
/// bucket files that are removed as they are opened. The output is the same bytes for the same inputs, seed and
/// options, whatever the number of threads and the memory. Memory: two records per thread and a bucket.
///
/// A text ends with the end token; a conversation with the assistant's last token (data/conversation.h). Documents
/// are kept apart by the shards' offsets and nothing else.
///
/// Throws Error for a bad record ("FILE: line N: ..."; the first one in the order of the inputs), unless skip_bad;
/// for no documents at all; for a directory that holds a data set already, unless overwrite; and when writing fails.
PackReport pack_documents(const PackOptions& options,
                          const std::function<void(const PackProgress&)>& progress = nullptr);

}  // namespace qnext
