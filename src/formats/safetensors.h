#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mapped_file.h"
#include "formats/checkpoint.h"

namespace qnext {

/// Bits of one element of a type of the format ("F32" 32, "I64" 64, "F4" 4, ...), or 0 for a name that is none.
int64_t safetensors_element_bits(std::string_view dtype);

/// Parses a safetensors header. `bytes` is the whole file, `file` its name for messages.
///   file := u64 header_size (little endian) | header (JSON object, header_size bytes) | data
///   header := { name: {"dtype": D, "shape": [..], "data_offsets": [begin, end]}, ..., "__metadata__": {str: str} }
/// Checked before anything is allocated by a number from the file: header_size <= 100 MB and inside the file; names
/// unique; shape x dtype equal to end - begin (no overflow); offsets inside the data, without overlap and without
/// holes; data not longer than the last tensor. Throws FileError. The views point into `bytes`, and every tensor's
/// `file` at `file`: both must outlive the result.
std::vector<FileTensor> parse_safetensors(std::span<const std::byte> bytes, const std::string& file);

/// Parses the text of a model.safetensors.index.json into (tensor, shard file name) pairs. Every shard is a plain
/// name: it cannot leave the directory. Throws FileError.
std::vector<std::pair<std::string, std::string>> parse_safetensors_index(std::string_view json,
                                                                         const std::string& file);

/// All tensors of a Hugging Face model directory: `model.safetensors`, or without one the shards that
/// `model.safetensors.index.json` names, mapped. Throws FileError/Error for a missing shard, an index entry whose
/// file lacks the tensor, a tensor in two shards, a shard name that leaves the directory.
class SafetensorsCheckpoint final : public Checkpoint {
 public:
  explicit SafetensorsCheckpoint(const std::filesystem::path& directory);
  int64_t file_bytes() const override;

 private:
  const std::string* add_file(const std::filesystem::path& path);

  std::vector<std::unique_ptr<std::string>> file_names_;
  std::vector<MappedFile> files_;
};

/// A tensor to be written.
struct TensorToWrite {
  std::string name;
  std::string dtype_text;  ///< "F32", "BF16", "I64", ...
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Begins a safetensors file (see TensorFileWriter). Tensors are appended in the order of the specs; in the file they
/// lie by falling element size, which aligns every tensor in a mapping. Names must be unique, types not block types
/// (the format has none). Throws Error when the file cannot be created or the disk has no room for it.
std::unique_ptr<TensorFileWriter> create_safetensors(const std::filesystem::path& path,
                                                     std::span<const TensorSpec> specs,
                                                     const std::map<std::string, std::string>& metadata = {});

/// Writes one safetensors file of tensors in memory, in the same way. Names must be unique and bytes of the size of
/// the shape.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace qnext
