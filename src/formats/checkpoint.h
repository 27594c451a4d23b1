#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/dtype.h"

namespace qnext {

/// One tensor of a file: a view into the mapping. dtype is empty for element types the project does not compute with
/// (I64, BOOL, ...); dtype_text is the file's own spelling.
struct FileTensor {
  std::string name;
  std::string dtype_text;
  std::optional<DType> dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  const std::string* file = nullptr;  ///< the file it came from, for messages; lives as long as its owner
};

/// The tensors of a model on disk, whatever its format, mapped.
class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  const std::map<std::string, FileTensor, std::less<>>& tensors() const { return tensors_; }
  /// Null when there is no such tensor.
  const FileTensor* find(std::string_view name) const {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
  }
  /// The directory or file it was opened from.
  const std::filesystem::path& path() const { return path_; }
  /// Sum of the sizes of all files.
  virtual int64_t file_bytes() const = 0;

 protected:
  explicit Checkpoint(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
  std::map<std::string, FileTensor, std::less<>> tensors_;
};

/// A tensor that a file being written will hold. Shape as in Hugging Face files: the last dimension is contiguous.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

/// Writes a file tensor by tensor, in the order of the specs it was made with, with memory for no tensor. The data goes
/// to a temporary name beside the target; finish() syncs and renames, so the name holds the old file or the whole new
/// one. Destroyed before that, it removes what it wrote. Throws Error (path, reason) when the disk is full.
class TensorFileWriter {
 public:
  virtual ~TensorFileWriter() = default;
  /// The next bytes: of the current tensor, and when it is complete of the next one. Never of two at once.
  virtual void append(std::span<const std::byte> bytes) = 0;
  virtual void finish() = 0;
};

}  // namespace qnext
