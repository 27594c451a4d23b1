#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/mapped_file.h"
#include "formats/checkpoint.h"

namespace qnext {

/// Types of metadata values, numbered as in files. The alternatives of GgufValue and GgufArray are in this order.
enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

/// An array of one element type. Arrays of arrays are not supported: no file of this architecture has them.
using GgufArray = std::variant<std::vector<uint8_t>, std::vector<int8_t>, std::vector<uint16_t>, std::vector<int16_t>,
                               std::vector<uint32_t>, std::vector<int32_t>, std::vector<float>, std::vector<bool>,
                               std::vector<std::string>, std::monostate, std::vector<uint64_t>, std::vector<int64_t>,
                               std::vector<double>>;
using GgufValue = std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, float, bool, std::string,
                               GgufArray, uint64_t, int64_t, double>;

/// The key-value pairs of a file, in its order.
class GgufMetadata {
 public:
  /// Null when there is no such key.
  const GgufValue* find(std::string_view key) const;
  /// Appends the pair, or replaces the value of a key that is there.
  void set(std::string_view key, GgufValue value);
  /// Appends a pair whose key is known to be new.
  void append(std::string key, GgufValue value) { entries_.emplace_back(std::move(key), std::move(value)); }
  const std::vector<std::pair<std::string, GgufValue>>& entries() const { return entries_; }

 private:
  std::vector<std::pair<std::string, GgufValue>> entries_;
};

/// Checked access to metadata: each getter throws FileError naming file, key, expected and found when the value has
/// another type or lies outside its range. Any integer type does for an integer, and any number for a number, of
/// which the shortest decimal is taken that means it in its own precision (1e-6 stored as F32 is 1e-6). A view.
class GgufFields {
 public:
  GgufFields(const GgufMetadata& metadata, const std::string& file) : metadata_(&metadata), file_(&file) {}

  const GgufValue* find(std::string_view key) const { return metadata_->find(key); }
  const std::string& file() const { return *file_; }
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max) const;
  std::optional<double> number(std::string_view key, double min, double max) const;
  std::optional<bool> boolean(std::string_view key) const;
  /// Null when there is none.
  const std::string* text(std::string_view key) const;
  const std::vector<std::string>* texts(std::string_view key) const;
  std::optional<std::vector<bool>> booleans(std::string_view key) const;
  std::optional<std::vector<int64_t>> integers(std::string_view key, int64_t min, int64_t max) const;
  /// Throws FileError for this key with the value it has.
  [[noreturn]] void fail(std::string_view key, const std::string& expected) const;

 private:
  const GgufMetadata* metadata_;
  const std::string* file_;
};

/// A value for an error message: scalars as written, strings cut, arrays by type and size.
std::string describe(const GgufValue* value);

/// The number of an element type in files; empty for F8_E4M3, which the format does not have.
std::optional<uint32_t> gguf_type_of(DType dtype);
/// The reverse; empty for types the project does not compute with.
std::optional<DType> dtype_of_gguf_type(uint32_t type);

inline constexpr uint32_t kGgufDefaultAlignment = 32;

/// What a file says. The tensors are views into its bytes; shapes are in Hugging Face order.
struct GgufFile {
  GgufMetadata metadata;
  std::vector<FileTensor> tensors;
};

/// Parses a GGUF file, version 2 or 3, little-endian (docs/formats.md has the grammar). `bytes` is the whole file,
/// `file` its name for messages. Checked before anything is allocated by a number from the file: counts and lengths
/// against the bytes left; keys and names unique; no arrays of arrays; known types; rows of whole blocks; sizes
/// without overflow; an alignment that is a power of two; data aligned, inside the file, without overlap. Throws
/// FileError. `bytes` and `file` must outlive the result.
GgufFile parse_gguf(std::span<const std::byte> bytes, const std::string& file);

/// The parts of the file that this one belongs to, in order: `NAME-00001-of-000NN.gguf` to `NAME-000NN-of-000NN.gguf`
/// for a name of that form, whichever part it is; else the file alone.
std::vector<std::filesystem::path> gguf_parts(const std::filesystem::path& path);

/// A GGUF file, or all parts of one, mapped. Given any part. Throws FileError/Error for a missing part, parts that do
/// not belong together, a tensor in two parts.
class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(const std::filesystem::path& path);
  int64_t file_bytes() const override;
  /// Of the first part.
  const GgufMetadata& metadata() const { return metadata_; }
  /// Name of the first part.
  const std::string& file() const { return *file_names_.front(); }

 private:
  std::vector<std::unique_ptr<std::string>> file_names_;
  std::vector<MappedFile> files_;
  GgufMetadata metadata_;
};

/// Begins a GGUF file, version 3 (see TensorFileWriter). Specs have 1 to 4 dimensions in Hugging Face order (the file
/// holds them reversed), unique names of at most 63 bytes, and types that gguf_type_of() knows. Every tensor begins
/// at a multiple of `alignment` (a power of two from 8 on), which replaces general.alignment of `metadata`. Throws
/// Error when the file cannot be created or the disk has no room for it.
std::unique_ptr<TensorFileWriter> create_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                                              std::span<const TensorSpec> specs,
                                              uint32_t alignment = kGgufDefaultAlignment);

}  // namespace qnext
