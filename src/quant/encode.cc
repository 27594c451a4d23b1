#include "quant/encode.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "quant/block_search.h"

namespace qnext {

namespace {

template <typename T, typename Convert>
void convert_all(const float* x, int64_t count, std::byte* out, Convert convert) {
  for (int64_t i = 0; i < count; ++i, out += sizeof(T)) {
    const T value = convert(x[i]);
    std::memcpy(out, &value, sizeof value);
  }
}

}  // namespace

uint8_t f32_to_f8e4m3(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7F;
  const float magnitude = std::fabs(value);
  if (magnitude >= 448.0f) return sign | 0x7E;
  if (magnitude < 0x1p-6f)
    return static_cast<uint8_t>(sign | static_cast<uint8_t>(std::nearbyint(magnitude * 512.0f)));
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = bits + 0x7FFFF + ((bits >> 20) & 1);
  const uint32_t code = (rounded >> 20) - (120 << 3);
  return static_cast<uint8_t>(sign | (code > 0x7E ? 0x7E : code));
}

int64_t first_not_encodable(const float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!(std::fabs(x[i]) <= kMaxEncodable)) return i;
  }
  return -1;
}

void encode(Isa isa, DType dtype, const float* x, int64_t count, const float* importance, std::byte* out) {
  QNEXT_CHECK(count % block_elements(dtype) == 0, "{} values of {}", count, dtype_name(dtype));
  switch (dtype) {
    case DType::kF32:
      return convert_all<float>(x, count, out, [](float v) { return v; });
    case DType::kF16:
      return convert_all<uint16_t>(x, count, out, f32_to_f16);
    case DType::kBF16:
      return convert_all<uint16_t>(x, count, out, f32_to_bf16);
    case DType::kF8E4M3:
      return convert_all<uint8_t>(x, count, out, f32_to_f8e4m3);
    default:
      break;
  }
  if (isa == Isa::kScalar) return encode_blocks_scalar(dtype, x, count, importance, out);
  encode_blocks_avx2(dtype, x, count, importance, out);
}

void encode(DType dtype, const float* x, int64_t count, const float* importance, std::byte* out) {
  static const Isa isa = chosen_isa();
  encode(isa, dtype, x, count, importance, out);
}

}  // namespace qnext
