#include "data/dataset.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/philox.h"
#include "formats/json.h"
#include "tokenizer/tokenizer.h"

namespace qnext {

namespace {

constexpr size_t kMaxManifestBytes = 64 << 20;

/// The shards that a directory's manifest lists, checked against it.
void open_directory(const std::filesystem::path& directory, std::vector<TokenShard>& shards) {
  const std::filesystem::path path = directory / TokenDataset::kManifest;
  const std::string file = path.string();
  if (!std::filesystem::exists(path)) {
    throw Error(fmt::format("{}: no {}: not made by `qnext data pack`, or it did not finish", directory.string(),
                            TokenDataset::kManifest));
  }
  const nlohmann::json manifest = parse_json_object(read_text_file(path, kMaxManifestBytes), file);
  const JsonFields fields(manifest, file);
  if (fields.required_integer("version", 0, INT32_MAX) != 1) fields.fail("version", "1");
  const nlohmann::json* list = fields.find("shards");
  if (!list || !list->is_array() || list->empty()) fields.fail("shards", "a list of shards");
  for (size_t i = 0; i < list->size(); ++i) {
    const nlohmann::json& entry = (*list)[i];
    if (!entry.is_object()) fields.fail_item("shards", i, "an object");
    const JsonFields shard(entry, file, fmt::format("shards[{}].", i));
    const std::optional<std::string> name = shard.text("file");
    if (!name || name->empty() || name->find('/') != name->npos) shard.fail("file", "the name of a file");
    const std::optional<std::string> sum = shard.text("checksum");
    TokenShard& opened = shards.emplace_back(directory / *name);
    if (!sum || *sum != fmt::format("{:016x}", opened.header_checksum())) {
      shard.fail("checksum", fmt::format("{:016x}, that of {}", opened.header_checksum(), *name));
    }
  }
}

}  // namespace

uint64_t tokenizer_fingerprint(const Tokenizer& tokenizer) {
  RunningChecksum sum;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    const uint32_t head[2] = {static_cast<uint32_t>(bytes.size()),
                              static_cast<uint32_t>(tokenizer.is_added(id)) | tokenizer.is_special(id) << 1};
    sum.update(std::as_bytes(std::span(head)));
    sum.update(std::as_bytes(std::span(bytes)));
  }
  return std::max<uint64_t>(sum.value(), 1);
}

TokenDataset::TokenDataset(const std::vector<std::filesystem::path>& paths) {
  if (paths.empty()) throw Error("no data: name at least one directory that `qnext data pack` made");
  for (const std::filesystem::path& path : paths) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
      open_directory(path, shards_);
    } else {
      shards_.emplace_back(path);
    }
  }
  RunningChecksum sum;
  first_.push_back(0);
  for (const TokenShard& shard : shards_) {
    const auto same = [&](const char* what, uint64_t expected, uint64_t found) {
      if (expected == found) return;
      throw FileError(shard.path().string(), what,
                      fmt::format("{} as in {}", expected, shards_.front().path().string()),
                      fmt::format("{}", found));
    };
    same("vocabulary size", static_cast<uint64_t>(vocab_size()), static_cast<uint64_t>(shard.vocab_size()));
    same("fingerprint of the tokenizer", tokenizer_fingerprint(), shard.tokenizer_fingerprint());
    counts_.documents += shard.counts().documents;
    counts_.tokens += shard.counts().tokens;
    counts_.targets += shard.counts().targets;
    first_.push_back(counts_.documents);
    const uint64_t header = shard.header_checksum();
    sum.update(std::as_bytes(std::span(&header, 1)));
  }
  fingerprint_ = sum.value();
}

TokenDataset::Place TokenDataset::place(uint64_t i) const {
  QNEXT_CHECK(i < counts_.documents, "document {} of {}", i, counts_.documents);
  const auto after = std::upper_bound(first_.begin(), first_.end(), i);
  const auto shard = static_cast<size_t>(after - first_.begin()) - 1;
  return {&shards_[shard], i - first_[shard]};
}

std::span<const uint32_t> TokenDataset::document(uint64_t i) const {
  const Place at = place(i);
  return at.shard->document(at.document);
}

uint64_t TokenDataset::document_size(uint64_t i) const {
  const Place at = place(i);
  return at.shard->document_size(at.document);
}

std::string TokenDataset::name() const {
  const std::filesystem::path& path = shards_.front().path();
  return (path.has_parent_path() ? path.parent_path() : path).string();
}

void TokenDataset::require_vocabulary(int64_t model_vocab_size) const {
  if (vocab_size() <= model_vocab_size) return;
  throw Error(fmt::format("{}: packed with a vocabulary of {} tokens, and the model's has {}", name(), vocab_size(),
                          model_vocab_size));
}

void TokenDataset::require_tokenizer(const Tokenizer& tokenizer) const {
  if (tokenizer_fingerprint() == qnext::tokenizer_fingerprint(tokenizer)) return;
  throw Error(fmt::format("{}: packed with another tokenizer than this model's", name()));
}

void TokenDataset::verify() const {
  for (const TokenShard& shard : shards_) shard.verify();
}

DocumentOrder::DocumentOrder(uint64_t n, uint64_t seed, uint64_t epoch) : n_(n), seed_(seed), epoch_(epoch) {
  QNEXT_CHECK(n >= 1);
  // At least 256 places: a Feistel network of fewer is a poor shuffle.
  half_bits_ = std::max(4, static_cast<int>(std::bit_width(n - 1) + 1) / 2);
}

/// A balanced Feistel network: whatever the round function is, the rounds can be undone, so this is a permutation.
uint64_t DocumentOrder::permute(uint64_t x) const {
  constexpr uint32_t kRounds = 6;
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = x >> half_bits_, right = x & mask;
  for (uint32_t round = 0; round < kRounds; ++round) {
    const auto bits = philox4x32(
        {static_cast<uint32_t>(right), round, static_cast<uint32_t>(epoch_), static_cast<uint32_t>(epoch_ >> 32)},
        {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
    const uint64_t next = left ^ (bits[0] & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

uint64_t DocumentOrder::operator()(uint64_t i) const {
  QNEXT_CHECK(i < n_);
  // Walking the cycle until it is back inside [0, n) is a permutation of [0, n); four steps on average at most, but
  // for tiny n.
  do {
    i = permute(i);
  } while (i >= n_);
  return i;
}

}  // namespace qnext
