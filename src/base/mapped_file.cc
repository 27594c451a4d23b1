#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace qnext {

namespace {
/// An open file descriptor of a regular file, with its size.
struct OpenFile {
  explicit OpenFile(const std::filesystem::path& path) {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) throw Error(fmt::format("{}: cannot open: {}", path.string(), std::strerror(errno)));
    struct stat status {};
    const bool regular = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    if (!regular) {
      ::close(fd);
      throw Error(fmt::format("{}: cannot read: not a regular file", path.string()));
    }
    size = static_cast<size_t>(status.st_size);
  }
  ~OpenFile() { ::close(fd); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int fd = -1;
  size_t size = 0;
};
}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const OpenFile file(path);
  if (file.size == 0) return;  // mmap refuses empty mappings; an empty span is right
  void* mapping = ::mmap(nullptr, file.size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (mapping == MAP_FAILED) throw Error(fmt::format("{}: cannot map: {}", path.string(), std::strerror(errno)));
  data_ = static_cast<const std::byte*>(mapping);
  size_ = file.size;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  const OpenFile file(path);
  if (file.size > max_bytes) {
    throw FileError(path.string(), "file size", fmt::format("at most {} bytes", max_bytes), fmt::format("{}", file.size));
  }
  std::string text(file.size, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::read(file.fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(fmt::format("{}: cannot read: {}", path.string(), std::strerror(errno)));
    if (n == 0) break;  // shortened meanwhile: what is there is what the parser judges
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

}  // namespace qnext
