#include "formats/streaming_writer.h"

#include <utility>

#include "base/atomic_file.h"
#include "base/error.h"

namespace qnext {

namespace {

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
