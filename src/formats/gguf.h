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

/// Begins a GGUF file, version 3 (see TensorFileWriter). Specs have 1 to 4 dimensions in Hugging Face order (the file
/// holds them reversed), unique names of at most 63 bytes, and types that gguf_type_of() knows. Every tensor begins
/// at a multiple of `alignment` (a power of two from 8 on), which replaces general.alignment of `metadata`. Throws
/// Error when the file cannot be created or the disk has no room for it.
std::unique_ptr<TensorFileWriter> create_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                                              std::span<const TensorSpec> specs,
                                              uint32_t alignment = kGgufDefaultAlignment);

}  // namespace qnext
