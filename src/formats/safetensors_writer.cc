#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/error.h"
#include "formats/safetensors.h"

namespace qnext {

namespace {

/// A file that appears under its name only when complete: written beside it, synced, renamed. Removed when abandoned.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path)
      : path_(path), temporary_(fmt::format("{}.tmp-{}", path.string(), ::getpid())) {
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) fail("create");
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!committed_) ::unlink(temporary_.c_str());
  }

  void write(const void* data, size_t size) {
    const char* next = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t n = ::write(fd_, next, size);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("write");
      next += n;
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
  [[noreturn]] void fail(const char* action) {
    throw Error(fmt::format("{}: cannot {}: {}", temporary_, action, std::strerror(errno)));
  }

  std::filesystem::path path_;
  std::string temporary_;
  int fd_ = -1;
  bool committed_ = false;
};

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  for (const TensorToWrite& tensor : tensors) {
    int64_t bits = safetensors_element_bits(tensor.dtype_text);
    for (int64_t dim : tensor.shape) bits *= dim;
    QNEXT_CHECK(bits == static_cast<int64_t>(tensor.bytes.size()) * 8, "size of {}", tensor.name);
  }
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    const auto key = [](const TensorToWrite* t) { return std::pair(-safetensors_element_bits(t->dtype_text), t); };
    return key(a) < key(b);  // the tensors lie in one span, so that pointers are their order
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  std::set<std::string_view> names;
  std::string text = header.dump();
  text.pop_back();  // the closing brace: tensors are appended as text, since ordered_json searches linearly
  for (const TensorToWrite* tensor : order) {
    QNEXT_CHECK(names.insert(tensor->name).second && tensor->name != "__metadata__", "tensor {} twice", tensor->name);
    if (text.size() > 1) text += ',';
    text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        nlohmann::json(tensor->name).dump(), tensor->dtype_text, fmt::join(tensor->shape, ","),
                        offset, offset + tensor->bytes.size());
    offset += tensor->bytes.size();
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');

  AtomicFile file(path);
  const uint64_t header_size = text.size();
  file.write(&header_size, sizeof(header_size));
  file.write(text.data(), text.size());
  for (const TensorToWrite* tensor : order) file.write(tensor->bytes.data(), tensor->bytes.size());
  file.commit();
}

}  // namespace qnext
