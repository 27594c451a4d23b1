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
  OpenFile(const std::filesystem::path& path, Pipes pipes) {
    // Opening a pipe that nobody writes to blocks, so only where pipes are welcome.
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (pipes == Pipes::kRefused ? O_NONBLOCK : 0));
    if (fd < 0) throw Error(fmt::format("{}: cannot open: {}", path.string(), std::strerror(errno)));
    struct stat status {};
    const bool known = ::fstat(fd, &status) == 0;
    const bool pipe = known && S_ISFIFO(status.st_mode) && pipes == Pipes::kAllowed;
    if (!pipe && !(known && S_ISREG(status.st_mode))) {
      ::close(fd);
      throw Error(fmt::format("{}: cannot read: not a regular file", path.string()));
    }
    size = pipe ? 0 : static_cast<size_t>(status.st_size);
  }
  ~OpenFile() { ::close(fd); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int fd = -1;
  size_t size = 0;
};
}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const OpenFile file(path, Pipes::kRefused);
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

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes, Pipes pipes) {
  const OpenFile file(path, pipes);
  const auto too_large = [&](const std::string& found) {
    return FileError(path.string(), "file size", fmt::format("at most {} bytes", max_bytes), found);
  };
  if (file.size > max_bytes) throw too_large(fmt::format("{}", file.size));
  // A pipe says nothing of its size, and a file may grow or shrink meanwhile: read to the end, whatever it is.
  constexpr size_t kStep = 1 << 20;
  std::string text(file.size + 1, '\0');
  for (size_t done = 0;;) {
    if (done > max_bytes) throw too_large("more");
    if (done == text.size()) text.resize(done + kStep);
    const ssize_t n = ::read(file.fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(fmt::format("{}: cannot read: {}", path.string(), std::strerror(errno)));
    done += static_cast<size_t>(n);
    if (n == 0) {
      text.resize(done);
      return text;
    }
  }
}

}  // namespace qnext
