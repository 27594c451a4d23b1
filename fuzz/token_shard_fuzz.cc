// A token shard: whatever the bytes, what is accepted lies inside the file, and its ids are below the vocabulary.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "base/checksum.h"
#include "base/error.h"
#include "data/token_shard.h"

namespace {

void open(std::span<const std::byte> bytes) {
  // A shard is mapped from a file: this one is in memory.
  const int fd = ::memfd_create("fuzz.tokens", MFD_CLOEXEC);
  QNEXT_CHECK(fd >= 0 && ::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  try {
    const qnext::TokenShard shard(fmt::format("/proc/self/fd/{}", fd));
    uint64_t tokens = 0, targets = 0;
    bool ids_good = true;
    for (uint64_t i = 0; i < shard.counts().documents; ++i) {
      tokens += shard.document_size(i);
      try {
        const auto document = shard.document(i);
        QNEXT_CHECK(document.size() == shard.document_size(i) && !document.empty());
        for (const uint32_t word : document) {
          QNEXT_CHECK(qnext::token_id(word) < shard.vocab_size());
          targets += qnext::is_target(word);
        }
      } catch (const qnext::FileError&) {
        ids_good = false;
      }
    }
    QNEXT_CHECK(tokens == shard.counts().tokens);
    shard.verify();
    QNEXT_CHECK(ids_good && targets == shard.counts().targets);
  } catch (const qnext::FileError&) {
  }
  ::close(fd);
}

template <class T>
void put(std::vector<std::byte>& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  open(bytes);
  // Mutations do not keep checksums right. So once more with all of them made right, where the sections can be found.
  if (size < 128) return 0;
  uint64_t tokens;
  std::memcpy(&tokens, bytes.data() + 32, sizeof tokens);
  if (tokens <= (size - 128) / 4 && 128 + (tokens + tokens % 2) * 4 <= size) {
    const auto all = std::span<const std::byte>(bytes);
    put(bytes, 56, qnext::checksum(all.subspan(128, tokens * 4)));
    put(bytes, 64, qnext::checksum(all.subspan(128 + (tokens + tokens % 2) * 4)));
  }
  put(bytes, 120, qnext::checksum(std::span<const std::byte>(bytes).first(120)));
  open(bytes);
  return 0;
}
