#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace qnext {

/// Element types of tensors in files and in memory. Block-quantised types join this list with their block layout.
enum class DType : uint8_t { kF32, kF16, kBF16, kF8E4M3 };

/// Bytes of one element.
int64_t dtype_size(DType dtype);
/// The safetensors spelling: "F32", "F16", "BF16", "F8_E4M3".
std::string_view dtype_name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);

// Scalar conversions, exact, used wherever speed does not matter. The kernels have vector twins of these.
inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
/// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);
/// OCP E4M3 "FN": bias 7, no infinities, 0x7F and 0xFF are NaN, largest value 448.
float f8e4m3_to_f32(uint8_t bits);

/// Element i of an array of dtype, as float. data may be unaligned.
float load_as_f32(const std::byte* data, DType dtype, int64_t i);

}  // namespace qnext
