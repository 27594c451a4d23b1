#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace qnext {

/// A file that appears under its name only when complete: written beside it, synced, renamed. Removed when abandoned.
/// Every failure (a full disk among them) is an Error that names the file; what had the name before is then
/// untouched.
class AtomicFile {
 public:
  /// Creates the temporary file. With a size, the file gets it and, where the file system can, its blocks at once, so
  /// that a full disk shows before the work.
  explicit AtomicFile(const std::filesystem::path& path, uint64_t size = 0);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const std::byte* data, size_t size, uint64_t offset);
  /// Syncs the content, gives the file its name, syncs the directory. Called once, last.
  void commit();

 private:
  void reserve(uint64_t size);
  void remove();
  [[noreturn]] void fail(const std::string& action);

  std::filesystem::path path_;
  std::string temporary_;
  int fd_ = -1;
  bool committed_ = false;
};

/// A whole AtomicFile of this text.
void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace qnext
