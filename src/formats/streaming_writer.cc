#include "formats/streaming_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace qnext {

namespace {

/// A file that appears under its name only when complete: written beside it, synced, renamed. Removed when abandoned.
class AtomicFile {
 public:
  AtomicFile(const std::filesystem::path& path, uint64_t size)
      : path_(path), temporary_(fmt::format("{}.tmp-{}", path.string(), ::getpid())) {
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) fail("create");
    try {
      reserve(static_cast<off_t>(size));
    } catch (...) {
      remove();
      throw;
    }
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() { remove(); }

  void write(const std::byte* data, size_t size, uint64_t offset) {
    while (size > 0) {
      const ssize_t n = ::pwrite(fd_, data, size, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("write");
      data += n;
      offset += static_cast<uint64_t>(n);
      size -= static_cast<size_t>(n);
    }
  }

  void commit() {
    if (::fsync(fd_) != 0) fail("sync");
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) fail("close");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename");
    committed_ = true;
    // The new name lives in the directory, which is synced too. Some file systems cannot; the file itself is safe.
    const std::filesystem::path parent = path_.has_parent_path() ? path_.parent_path() : ".";
    const int directory = ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return;
    ::fsync(directory);
    ::close(directory);
  }

 private:
  /// Gives the file its size and, where the file system can, its blocks.
  void reserve(off_t size) {
    if (size == 0) return;
    int result = 0;
    do {
      result = ::fallocate(fd_, 0, 0, size);
    } while (result != 0 && errno == EINTR);
    if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) result = ::ftruncate(fd_, size);
    if (result != 0) fail(fmt::format("make room for {} bytes", size).c_str());
  }
  void remove() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    if (!committed_) ::unlink(temporary_.c_str());
  }
  [[noreturn]] void fail(const char* action) {
    throw Error(fmt::format("{}: cannot {}: {}", temporary_, action, std::strerror(errno)));
  }

  std::filesystem::path path_;
  std::string temporary_;
  int fd_ = -1;
  bool committed_ = false;
};

class StreamingWriter final : public TensorFileWriter {
 public:
  StreamingWriter(const std::filesystem::path& path, std::string_view header, std::vector<TensorExtent> extents,
                  uint64_t file_size)
      : file_(path, file_size), extents_(std::move(extents)) {
    file_.write(reinterpret_cast<const std::byte*>(header.data()), header.size(), 0);
    buffer_.reserve(kBufferBytes);
    skip_complete();
  }

  void append(std::span<const std::byte> bytes) override {
    if (bytes.empty()) return;
    QNEXT_CHECK(current_ < extents_.size(), "{} bytes after the last tensor", bytes.size());
    const TensorExtent& extent = extents_[current_];
    QNEXT_CHECK(bytes.size() <= extent.size - done_, "{} bytes too many for {}", bytes.size() - (extent.size - done_),
                extent.name);
    if (buffer_.size() + bytes.size() > kBufferBytes) flush();
    if (bytes.size() >= kBufferBytes) {
      file_.write(bytes.data(), bytes.size(), extent.offset + done_);
    } else {
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    }
    done_ += bytes.size();
    if (done_ < extent.size) return;
    flush();
    skip_complete();
  }

  void finish() override {
    QNEXT_CHECK(current_ == extents_.size(), "{} is not complete", extents_[current_].name);
    file_.commit();
  }

 private:
  static constexpr size_t kBufferBytes = 1 << 20;  // appends may be single rows

  /// Writes the buffer, which holds the bytes of the current tensor that end at done_.
  void flush() {
    file_.write(buffer_.data(), buffer_.size(), extents_[current_].offset + done_ - buffer_.size());
    buffer_.clear();
  }
  /// Moves on to the next tensor that has bytes to come.
  void skip_complete() {
    while (current_ < extents_.size() && extents_[current_].size == done_) {
      ++current_;
      done_ = 0;
    }
  }

  AtomicFile file_;
  std::vector<TensorExtent> extents_;
  size_t current_ = 0;
  uint64_t done_ = 0;  ///< bytes of the current tensor
  std::vector<std::byte> buffer_;
};

}  // namespace

std::unique_ptr<TensorFileWriter> make_streaming_writer(const std::filesystem::path& path, std::string_view header,
                                                        std::vector<TensorExtent> extents, uint64_t file_size) {
  return std::make_unique<StreamingWriter>(path, header, std::move(extents), file_size);
}

}  // namespace qnext
