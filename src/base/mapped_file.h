#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace qnext {

/// A whole file mapped read-only; the mapping lives as long as the object. Moves are cheap, no copies.
/// The file must not be truncated while mapped (a later read would raise SIGBUS).
class MappedFile {
 public:
  /// Throws Error naming the path when it cannot be opened, is not a regular file, or cannot be mapped.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Pipes are for what a user names on the command line; a pipe inside a model directory would only hang the program.
enum class Pipes { kRefused, kAllowed };

/// Reads a small text file (or a pipe) whole. Throws Error when it cannot be read or is larger than max_bytes.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes, Pipes pipes = Pipes::kRefused);

}  // namespace qnext
