#include "base/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace qnext {

AtomicFile::AtomicFile(const std::filesystem::path& path, uint64_t size)
    : path_(path), temporary_(fmt::format("{}.tmp-{}", path.string(), ::getpid())) {
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd_ < 0) fail("create");
  try {
    reserve(size);
  } catch (...) {
    remove();
    throw;
  }
}

AtomicFile::~AtomicFile() { remove(); }

void AtomicFile::write(const std::byte* data, size_t size, uint64_t offset) {
  while (size > 0) {
    const ssize_t n = ::pwrite(fd_, data, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("write");
    data += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
}

void AtomicFile::commit() {
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

void AtomicFile::reserve(uint64_t size) {
  if (size == 0) return;
  const auto length = static_cast<off_t>(size);
  int result = 0;
  do {
    result = ::fallocate(fd_, 0, 0, length);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) result = ::ftruncate(fd_, length);
  if (result != 0) fail(fmt::format("make room for {} bytes", size));
}

void AtomicFile::remove() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(const std::string& action) {
  throw Error(fmt::format("{}: cannot {}: {}", temporary_, action, std::strerror(errno)));
}

void write_text_file(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path, text.size());
  file.write(reinterpret_cast<const std::byte*>(text.data()), text.size(), 0);
  file.commit();
}

}  // namespace qnext
