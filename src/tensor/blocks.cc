#include "tensor/blocks.h"

#include <cmath>
#include <cstring>

#include "base/error.h"

namespace qnext {

namespace {

/// The 32 nibbles of the 32-element types: i < 16 low, above high.
int nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }
int fifth_bit(const uint8_t* qh, int i) { return (qh[i / 8] >> (i % 8) & 1) << 4; }

void decode_one(const BlockQ8_0& b, float* x) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(b.qs[i]) * d;
}
void decode_one(const BlockQ4_0& b, float* x) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(nibble(b.qs, i) - 8) * d;
}
void decode_one(const BlockQ4_1& b, float* x) {
  const float d = f16_to_f32(b.d), m = f16_to_f32(b.m);
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(nibble(b.qs, i)) * d + m;
}
void decode_one(const BlockQ5_0& b, float* x) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>((nibble(b.qs, i) | fifth_bit(b.qh, i)) - 16) * d;
}
void decode_one(const BlockQ5_1& b, float* x) {
  const float d = f16_to_f32(b.d), m = f16_to_f32(b.m);
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(nibble(b.qs, i) | fifth_bit(b.qh, i)) * d + m;
}
void decode_one(const BlockIQ4_NL& b, float* x) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(kIq4Values[nibble(b.qs, i)]);
}
void decode_one(const BlockMXFP4& b, float* x) {
  const float d = mxfp4_scale(b.e);
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(kMxfp4Values[nibble(b.qs, i)]) * d;
}

int two_bits(const uint8_t* qs, int i) { return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3; }

void decode_one(const BlockQ2_K& b, float* x) {
  const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
  for (int i = 0; i < 256; ++i) {
    const uint8_t s = b.scales[i / 16];
    x[i] = d * static_cast<float>(s & 15) * static_cast<float>(two_bits(b.qs, i)) - dmin * static_cast<float>(s >> 4);
  }
}
void decode_one(const BlockQ3_K& b, float* x) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 256; ++i) {
    const int q = two_bits(b.qs, i) - ((b.hmask[i % 32] >> (i / 32) & 1) != 0 ? 0 : 4);
    x[i] = d * static_cast<float>(q3_scale(b.scales, i / 16) - 32) * static_cast<float>(q);
  }
}
void decode_one(const BlockQ4_K& b, float* x) {
  const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
  for (int s = 0; s < 8; ++s) {
    const ScaleMin sm = k4_scale(b.scales, s);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    for (int i = 0; i < 32; ++i) {
      x[32 * s + i] = scale * static_cast<float>(b.qs[s / 2 * 32 + i] >> (s % 2 * 4) & 15) - min;
    }
  }
}
void decode_one(const BlockQ5_K& b, float* x) {
  const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
  for (int s = 0; s < 8; ++s) {
    const ScaleMin sm = k4_scale(b.scales, s);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    for (int i = 0; i < 32; ++i) {
      const int q = (b.qs[s / 2 * 32 + i] >> (s % 2 * 4) & 15) | (b.qh[i] >> s & 1) << 4;
      x[32 * s + i] = scale * static_cast<float>(q) - min;
    }
  }
}
void decode_one(const BlockQ6_K& b, float* x) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, r = i % 128;
    const int low = b.ql[64 * half + r % 64] >> (r / 64 * 4) & 15, high = b.qh[32 * half + r % 32] >> (r / 32 * 2) & 3;
    x[i] = d * static_cast<float>(b.scales[i / 16]) * static_cast<float>((low | high << 4) - 32);
  }
}
void decode_one(const BlockIQ4_XS& b, float* x) {
  const float d = f16_to_f32(b.d);
  for (int s = 0; s < 8; ++s) {
    const int scale = (b.scales_l[s / 2] >> (s % 2 * 4) & 15) | (b.scales_h >> (2 * s) & 3) << 4;
    const float factor = d * static_cast<float>(scale - 32);
    for (int i = 0; i < 32; ++i) x[32 * s + i] = factor * static_cast<float>(kIq4Values[nibble(b.qs + 16 * s, i)]);
  }
}

template <typename Block>
void decode_as(const std::byte* data, float* out) {
  Block block;
  std::memcpy(&block, data, sizeof block);
  decode_one(block, out);
}

}  // namespace

float mxfp4_scale(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<uint32_t>(e - 1) << 23);
}

void decode_block(DType dtype, const std::byte* block, float* out) {
  switch (dtype) {
    case DType::kQ8_0: return decode_as<BlockQ8_0>(block, out);
    case DType::kQ4_0: return decode_as<BlockQ4_0>(block, out);
    case DType::kQ4_1: return decode_as<BlockQ4_1>(block, out);
    case DType::kQ5_0: return decode_as<BlockQ5_0>(block, out);
    case DType::kQ5_1: return decode_as<BlockQ5_1>(block, out);
    case DType::kIQ4_NL: return decode_as<BlockIQ4_NL>(block, out);
    case DType::kMXFP4: return decode_as<BlockMXFP4>(block, out);
    case DType::kQ2_K: return decode_as<BlockQ2_K>(block, out);
    case DType::kQ3_K: return decode_as<BlockQ3_K>(block, out);
    case DType::kQ4_K: return decode_as<BlockQ4_K>(block, out);
    case DType::kQ5_K: return decode_as<BlockQ5_K>(block, out);
    case DType::kQ6_K: return decode_as<BlockQ6_K>(block, out);
    case DType::kIQ4_XS: return decode_as<BlockIQ4_XS>(block, out);
    default: QNEXT_CHECK(false, "{} has no blocks", dtype_name(dtype));
  }
}

void decode(DType dtype, const std::byte* data, int64_t count, float* out) {
  if (!is_block_type(dtype)) {
    for (int64_t i = 0; i < count; ++i) out[i] = load_as_f32(data, dtype, i);
    return;
  }
  const int64_t elements = block_elements(dtype), bytes = block_bytes(dtype);
  for (int64_t i = 0; i < count; i += elements, data += bytes) decode_block(dtype, data, out + i);
}

}  // namespace qnext
