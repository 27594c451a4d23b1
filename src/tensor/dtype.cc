#include "tensor/dtype.h"

#include <cmath>

#include "base/error.h"
#include "tensor/blocks.h"

namespace qnext {

namespace {
struct DTypeInfo {
  std::string_view name;
  int64_t elements, bytes;  // of a block
};
constexpr DTypeInfo info(DType dtype) {
  switch (dtype) {
    case DType::kF32: return {"F32", 1, 4};
    case DType::kF16: return {"F16", 1, 2};
    case DType::kBF16: return {"BF16", 1, 2};
    case DType::kF8E4M3: return {"F8_E4M3", 1, 1};
    case DType::kQ8_0: return {"Q8_0", 32, sizeof(BlockQ8_0)};
    case DType::kQ4_0: return {"Q4_0", 32, sizeof(BlockQ4_0)};
    case DType::kQ4_1: return {"Q4_1", 32, sizeof(BlockQ4_1)};
    case DType::kQ5_0: return {"Q5_0", 32, sizeof(BlockQ5_0)};
    case DType::kQ5_1: return {"Q5_1", 32, sizeof(BlockQ5_1)};
    case DType::kIQ4_NL: return {"IQ4_NL", 32, sizeof(BlockIQ4_NL)};
    case DType::kMXFP4: return {"MXFP4", 32, sizeof(BlockMXFP4)};
    case DType::kQ2_K: return {"Q2_K", 256, sizeof(BlockQ2_K)};
    case DType::kQ3_K: return {"Q3_K", 256, sizeof(BlockQ3_K)};
    case DType::kQ4_K: return {"Q4_K", 256, sizeof(BlockQ4_K)};
    case DType::kQ5_K: return {"Q5_K", 256, sizeof(BlockQ5_K)};
    case DType::kQ6_K: return {"Q6_K", 256, sizeof(BlockQ6_K)};
    case DType::kIQ4_XS: return {"IQ4_XS", 256, sizeof(BlockIQ4_XS)};
  }
  return {};
}
DTypeInfo checked_info(DType dtype) {
  const DTypeInfo result = info(dtype);
  QNEXT_CHECK(result.elements > 0, "unknown dtype {}", static_cast<int>(dtype));
  return result;
}
}  // namespace

int64_t block_elements(DType dtype) { return checked_info(dtype).elements; }
int64_t block_bytes(DType dtype) { return checked_info(dtype).bytes; }
std::string_view dtype_name(DType dtype) { return checked_info(dtype).name; }

int64_t dtype_size(DType dtype) {
  QNEXT_CHECK(!is_block_type(dtype), "{} has no element size", dtype_name(dtype));
  return block_bytes(dtype);
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (DType dtype : kAllDTypes) {
    if (dtype_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1F, mantissa = bits & 0x3FF;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000 | (mantissa << 13));
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24 is exact in f32
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7E00;
  if (magnitude >= 65520.0f) return sign | 0x7C00;  // rounds to infinity
  if (magnitude < 0x1p-14f) {                       // subnormal: nearbyint of magnitude / 2^-24, ties to even
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f)));
  }
  const uint32_t rounded = (bits & 0x7FFFFFFF) + 0xFFF + ((bits >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112 << 10)));
}

float f8e4m3_to_f32(uint8_t bits) {
  const uint32_t exponent = (bits >> 3) & 0xF, mantissa = bits & 7;
  const float sign = (bits & 0x80) != 0 ? -1.0f : 1.0f;
  if (exponent == 0xF && mantissa == 7) return std::nanf("");
  if (exponent == 0) return sign * static_cast<float>(mantissa) * 0x1p-9f;
  return sign * std::bit_cast<float>(((exponent + 120) << 23) | (mantissa << 20));
}

float load_as_f32(const std::byte* data, DType dtype, int64_t i) {
  if (is_block_type(dtype)) {
    float block[256];
    decode_block(dtype, data + i / block_elements(dtype) * block_bytes(dtype), block);
    return block[i % block_elements(dtype)];
  }
  const auto load = [&]<typename T>(T) {
    T value;
    std::memcpy(&value, data + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return value;
  };
  switch (dtype) {
    case DType::kF32: return load(float{});
    case DType::kF16: return f16_to_f32(load(uint16_t{}));
    case DType::kBF16: return bf16_to_f32(load(uint16_t{}));
    case DType::kF8E4M3: return f8e4m3_to_f32(load(uint8_t{}));
    default: break;
  }
  QNEXT_CHECK(false, "unknown dtype {}", static_cast<int>(dtype));
}

}  // namespace qnext
