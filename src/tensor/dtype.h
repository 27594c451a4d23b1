#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace qnext {

/// Element types of tensors in files and in memory. From kQ8_0 on, elements come in blocks that share scales
/// (tensor/blocks.h); a row of such a matrix is a whole number of blocks.
enum class DType : uint8_t {
  kF32, kF16, kBF16, kF8E4M3,
  kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kIQ4_NL, kMXFP4,
  kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K, kIQ4_XS,
};
inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kF8E4M3, DType::kQ8_0, DType::kQ4_0,
                                       DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kIQ4_NL, DType::kMXFP4, DType::kQ2_K,
                                       DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,   DType::kIQ4_XS};

constexpr bool is_block_type(DType dtype) { return dtype >= DType::kQ8_0; }
/// Elements that share a block: 1, 32 or 256.
int64_t block_elements(DType dtype);
/// Bytes of one block (of one element for the plain types).
int64_t block_bytes(DType dtype);
/// Bytes of `count` elements, a multiple of block_elements().
inline int64_t bytes_of(DType dtype, int64_t count) { return count / block_elements(dtype) * block_bytes(dtype); }

/// Bytes of one element of a plain type.
int64_t dtype_size(DType dtype);
/// "F32", "F16", "BF16", "F8_E4M3" as safetensors spells them; "Q4_K", "IQ4_XS", ... as GGUF does.
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

/// Element i of an array of dtype, as float. data may be unaligned. Of a block type this decodes the whole block.
float load_as_f32(const std::byte* data, DType dtype, int64_t i);

}  // namespace qnext
