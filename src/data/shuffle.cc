#include "data/shuffle.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace qnext {

namespace {

/// What stands before a document's words in a bucket: u32 words of key, ordinal and count, low half first.
constexpr size_t kHeadWords = 6;
constexpr size_t kBufferWords = 1 << 14;

uint64_t read_u64(const uint32_t* words) { return words[0] | uint64_t{words[1]} << 32; }

}  // namespace

struct DocumentShuffle::Bucket {
  explicit Bucket(const std::filesystem::path& path) : name(path.string()) {
    fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) fail("create");
    ::unlink(path.c_str());
  }
  ~Bucket() {
    if (fd >= 0) ::close(fd);
  }
  Bucket(const Bucket&) = delete;
  Bucket& operator=(const Bucket&) = delete;

  void append(std::span<const uint32_t> words) {
    if (buffer.size() + words.size() > kBufferWords) flush();
    if (words.size() > kBufferWords) return write(words);
    buffer.insert(buffer.end(), words.begin(), words.end());
  }
  void flush() {
    write(buffer);
    buffer.clear();
  }
  std::vector<uint32_t> read() {
    std::vector<uint32_t> words(size);
    auto* bytes = reinterpret_cast<char*>(words.data());
    for (size_t done = 0, total = size * sizeof(uint32_t); done < total;) {
      const ssize_t n = ::pread(fd, bytes + done, total - done, static_cast<off_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n == 0) errno = EIO;
      if (n <= 0) fail("read");
      done += static_cast<size_t>(n);
    }
    return words;
  }
  /// Gives the disk space back.
  void close() { ::close(std::exchange(fd, -1)); }

  std::mutex mutex;

 private:
  void write(std::span<const uint32_t> words) {
    const auto* bytes = reinterpret_cast<const char*>(words.data());
    for (size_t left = words.size_bytes(); left > 0;) {
      const ssize_t n = ::write(fd, bytes, left);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("write");
      bytes += n;
      left -= static_cast<size_t>(n);
    }
    size += words.size();
  }
  [[noreturn]] void fail(const char* action) {
    throw Error(fmt::format("{}: cannot {}: {}", name, action, std::strerror(errno)));
  }

  std::string name;
  int fd = -1;
  size_t size = 0;  ///< words in the file
  std::vector<uint32_t> buffer;
};

DocumentShuffle::DocumentShuffle(const std::filesystem::path& directory, size_t buckets) {
  QNEXT_CHECK(buckets >= 1);
  for (size_t i = 0; i < buckets; ++i) {
    buckets_.push_back(std::make_unique<Bucket>(directory / fmt::format("bucket-{}.tmp-{}", i, ::getpid())));
  }
}

DocumentShuffle::~DocumentShuffle() = default;

void DocumentShuffle::add(uint64_t key, uint64_t ordinal, std::span<const uint32_t> words) {
  // The upper bits of key * buckets: equal shares of the keys' range, in their order.
  __extension__ using Wide = unsigned __int128;
  Bucket& bucket = *buckets_[static_cast<size_t>(static_cast<Wide>(key) * buckets_.size() >> 64)];
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const uint64_t count = words.size();
  const uint32_t head[kHeadWords] = {low(key), high(key), low(ordinal), high(ordinal), low(count), high(count)};
  const std::scoped_lock lock(bucket.mutex);
  bucket.append(head);
  bucket.append(words);
}

void DocumentShuffle::for_each(const std::function<void(std::span<const uint32_t>)>& use) {
  struct Document {
    uint64_t key, ordinal;
    std::span<const uint32_t> words;
  };
  for (const auto& bucket : buckets_) {
    bucket->flush();
    const std::vector<uint32_t> words = bucket->read();
    bucket->close();
    std::vector<Document> documents;
    for (size_t at = 0; at < words.size();) {
      const uint32_t* head = words.data() + at;
      const auto count = static_cast<size_t>(read_u64(head + 4));
      documents.push_back({read_u64(head), read_u64(head + 2), std::span(words).subspan(at + kHeadWords, count)});
      at += kHeadWords + count;
    }
    std::ranges::sort(documents, [](const Document& a, const Document& b) {
      return a.key != b.key ? a.key < b.key : a.ordinal < b.ordinal;
    });
    for (const Document& document : documents) use(document.words);
  }
}

}  // namespace qnext
