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
