#include "data/token_shard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace qnext {

static_assert(std::endian::native == std::endian::little, "shards are mapped as they are");

namespace {

constexpr std::array<char, 8> kMagic = {'Q', 'N', 'E', 'X', 'T', 'T', 'O', 'K'};
constexpr uint32_t kVersion = 1;
constexpr size_t kBufferTokens = 1 << 18;

struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t flags = 0;
  uint32_t vocab_size = 0;
  uint32_t zero = 0;
  uint64_t documents = 0, tokens = 0, targets = 0;
  uint64_t tokenizer_fingerprint = 0;
  uint64_t tokens_checksum = 0, offsets_checksum = 0;
  std::array<uint64_t, 6> zeros = {};
  uint64_t header_checksum = 0;

  uint64_t expected_checksum() const {
    return checksum(std::as_bytes(std::span(this, 1)).first(offsetof(Header, header_checksum)));
  }
};
static_assert(sizeof(Header) == 128 && std::has_unique_object_representations_v<Header>);

/// Bytes of the tokens section with its padding. Requires tokens < 2^61.
uint64_t padded_token_bytes(uint64_t tokens) { return (tokens + (tokens & 1)) * sizeof(uint32_t); }

}  // namespace

TokenShardWriter::TokenShardWriter(const std::filesystem::path& path, int32_t vocab_size,
                                   uint64_t tokenizer_fingerprint)
    : file_(path),
      path_(path),
      vocab_size_(static_cast<uint32_t>(vocab_size)),
      tokenizer_fingerprint_(tokenizer_fingerprint) {
  QNEXT_CHECK(vocab_size > 0);
  buffer_.reserve(kBufferTokens);
}

void TokenShardWriter::append(std::span<const uint32_t> document) {
  QNEXT_CHECK(!document.empty());
  uint64_t targets = 0;
  uint32_t largest = 0;
  for (const uint32_t word : document) {
    targets += is_target(word);
    largest = std::max(largest, word & ~kNoTargetBit);
  }
  if (largest >= vocab_size_) {
    throw Error(fmt::format("{}: token id {} is beyond the vocabulary of {}", path_.string(), largest, vocab_size_));
  }
  while (!document.empty()) {
    const auto part = document.first(std::min(document.size(), kBufferTokens - buffer_.size()));
    buffer_.insert(buffer_.end(), part.begin(), part.end());
    document = document.subspan(part.size());
    counts_.tokens += part.size();
    if (buffer_.size() == kBufferTokens) flush();
  }
  counts_.targets += targets;
  ++counts_.documents;
  offsets_.push_back(counts_.tokens);
}

void TokenShardWriter::flush() {
  const auto bytes = std::as_bytes(std::span(buffer_));
  tokens_checksum_.update(bytes);
  file_.write(bytes.data(), bytes.size(), sizeof(Header) + written_ * sizeof(uint32_t));
  written_ += buffer_.size();
  buffer_.clear();
}

void TokenShardWriter::finish() {
  QNEXT_CHECK(counts_.documents > 0);
  flush();
  const auto offsets = std::as_bytes(std::span(offsets_));
  file_.write(offsets.data(), offsets.size(), sizeof(Header) + padded_token_bytes(counts_.tokens));
  Header header;
  header.vocab_size = vocab_size_;
  header.documents = counts_.documents;
  header.tokens = counts_.tokens;
  header.targets = counts_.targets;
  header.tokenizer_fingerprint = tokenizer_fingerprint_;
  header.tokens_checksum = tokens_checksum_.value();
  header.offsets_checksum = checksum(offsets);
  header.header_checksum = header.expected_checksum();
  file_.write(std::as_bytes(std::span(&header, 1)).data(), sizeof header, 0);
  file_.commit();
}

TokenShard::TokenShard(const std::filesystem::path& path) : file_(path) {
  const auto fail = [&](const char* field, std::string expected, std::string found) {
    throw FileError(path.string(), field, std::move(expected), std::move(found));
  };
  const std::span<const std::byte> bytes = file_.bytes();
  Header header;
  if (bytes.size() < sizeof header) {
    fail("header", fmt::format("{} bytes", sizeof header), fmt::format("a file of {}", bytes.size()));
  }
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic) {
    fail("magic", "QNEXTTOK, a token shard", quoted({header.magic.data(), header.magic.size()}));
  }
  if (header.version != kVersion) fail("version", fmt::format("{}", kVersion), fmt::format("{}", header.version));
  if (header.header_checksum != header.expected_checksum()) {
    fail("header checksum", fmt::format("{:016x}", header.expected_checksum()),
         fmt::format("{:016x}", header.header_checksum));
  }
  if (header.flags != 0) fail("flags", "0", fmt::format("{:#x}", header.flags));
  constexpr auto kMaxVocabulary = static_cast<uint32_t>(std::numeric_limits<int32_t>::max());
  if (header.vocab_size == 0 || header.vocab_size > kMaxVocabulary) {
    fail("vocabulary size", fmt::format("1 to {}", kMaxVocabulary), fmt::format("{}", header.vocab_size));
  }
  // Both counts are below the file's size before anything is computed from them, so no sum overflows.
  if (header.tokens > bytes.size() / sizeof(uint32_t)) {
    fail("tokens", "no more than the file holds", fmt::format("{}", header.tokens));
  }
  if (header.documents == 0 || header.documents > header.tokens) {
    fail("documents", fmt::format("1 to {}, the number of tokens", header.tokens),
         fmt::format("{}", header.documents));
  }
  if (header.targets > header.tokens) {
    fail("targets", fmt::format("at most {}", header.tokens), fmt::format("{}", header.targets));
  }
  const uint64_t offsets_begin = sizeof header + padded_token_bytes(header.tokens);
  const uint64_t size = offsets_begin + (header.documents + 1) * sizeof(uint64_t);
  if (bytes.size() != size) {
    fail("size", fmt::format("{} bytes", size), fmt::format("{}", bytes.size()));
  }
  if (header.tokens % 2 != 0) {
    uint32_t padding;
    std::memcpy(&padding, bytes.data() + offsets_begin - sizeof padding, sizeof padding);
    if (padding != 0) fail("padding of the tokens", "0", fmt::format("{:#x}", padding));
  }
  tokens_ = {reinterpret_cast<const uint32_t*>(bytes.data() + sizeof header), header.tokens};
  offsets_ = {reinterpret_cast<const uint64_t*>(bytes.data() + offsets_begin), header.documents + 1};
  if (const uint64_t found = checksum(std::as_bytes(offsets_)); found != header.offsets_checksum) {
    fail("checksum of the offsets", fmt::format("{:016x}", header.offsets_checksum), fmt::format("{:016x}", found));
  }
  if (offsets_.front() != 0) fail("offsets[0]", "0", fmt::format("{}", offsets_.front()));
  if (offsets_.back() != header.tokens) {
    fail("last offset", fmt::format("{}", header.tokens), fmt::format("{}", offsets_.back()));
  }
  for (size_t i = 1; i < offsets_.size(); ++i) {
    if (offsets_[i] <= offsets_[i - 1]) {
      fail("offsets", "increasing numbers", fmt::format("{} after {} at {}", offsets_[i], offsets_[i - 1], i));
    }
  }
  counts_ = {header.documents, header.tokens, header.targets};
  vocab_size_ = header.vocab_size;
  tokenizer_fingerprint_ = header.tokenizer_fingerprint;
  tokens_checksum_ = header.tokens_checksum;
  header_checksum_ = header.header_checksum;
}

void TokenShard::check_ids(std::span<const uint32_t> words, uint64_t first) const {
  uint32_t largest = 0;
  for (const uint32_t word : words) largest = std::max(largest, word & ~kNoTargetBit);
  if (largest < vocab_size_) return;
  size_t i = 0;
  while ((words[i] & ~kNoTargetBit) < vocab_size_) ++i;
  throw FileError(path().string(), fmt::format("token {}", first + i), fmt::format("an id below {}", vocab_size_),
                  fmt::format("{}", token_id(words[i])));
}

std::span<const uint32_t> TokenShard::document(uint64_t i) const {
  QNEXT_CHECK(i < counts_.documents);
  const auto words = tokens_.subspan(offsets_[i], document_size(i));
  check_ids(words, offsets_[i]);
  return words;
}

void TokenShard::verify() const {
  const uint64_t found = checksum(std::as_bytes(tokens_));
  if (found != tokens_checksum_) {
    throw FileError(path().string(), "checksum of the tokens", fmt::format("{:016x}", tokens_checksum_),
                    fmt::format("{:016x}", found));
  }
  check_ids(tokens_, 0);
  const auto targets = static_cast<uint64_t>(std::count_if(tokens_.begin(), tokens_.end(), is_target));
  if (targets != counts_.targets) {
    throw FileError(path().string(), "targets", fmt::format("{}", counts_.targets), fmt::format("{}", targets));
  }
}

}  // namespace qnext
