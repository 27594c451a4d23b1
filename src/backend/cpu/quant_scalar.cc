// The products of quant_kernels.h in plain C++, block by block: what the vector kernels must equal bit for bit.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/quant_kernels.h"
#include "base/error.h"
#include "tensor/blocks.h"

namespace qnext {

namespace {

/// A block as integers: x = d * scale[s] * w[i] - dmin * min[s]; of the 32-element types scale is 1, and dmin is -m.
struct IntegerBlock {
  int w[256], scale[16], min[16];  ///< scale and min per 16 elements
  float d, dmin;
};

int nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }
int fifth_bit(const uint8_t* qh, int i) { return (qh[i / 8] >> (i % 8) & 1) << 4; }
int two_bits(const uint8_t* qs, int i) { return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3; }

void integers(const BlockQ8_0& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) o.w[i] = b.qs[i];
}
void integers(const BlockQ4_0& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) o.w[i] = nibble(b.qs, i) - 8;
}
void integers(const BlockQ4_1& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  o.dmin = -f16_to_f32(b.m);
  for (int i = 0; i < 32; ++i) o.w[i] = nibble(b.qs, i);
}
void integers(const BlockQ5_0& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) o.w[i] = (nibble(b.qs, i) | fifth_bit(b.qh, i)) - 16;
}
void integers(const BlockQ5_1& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  o.dmin = -f16_to_f32(b.m);
  for (int i = 0; i < 32; ++i) o.w[i] = nibble(b.qs, i) | fifth_bit(b.qh, i);
}
void integers(const BlockIQ4_NL& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) o.w[i] = kIq4Values[nibble(b.qs, i)];
}
void integers(const BlockMXFP4& b, IntegerBlock& o) {
  o.d = mxfp4_scale(b.e);
  for (int i = 0; i < 32; ++i) o.w[i] = kMxfp4Values[nibble(b.qs, i)];
}
void integers(const BlockQ2_K& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  o.dmin = f16_to_f32(b.dmin);
  for (int i = 0; i < 256; ++i) o.w[i] = two_bits(b.qs, i);
  for (int s = 0; s < 16; ++s) o.scale[s] = b.scales[s] & 15, o.min[s] = b.scales[s] >> 4;
}
void integers(const BlockQ3_K& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  for (int i = 0; i < 256; ++i) o.w[i] = two_bits(b.qs, i) - ((b.hmask[i % 32] >> (i / 32) & 1) != 0 ? 0 : 4);
  for (int s = 0; s < 16; ++s) o.scale[s] = q3_scale(b.scales, s) - 32;
}
void integers(const BlockQ4_K& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  o.dmin = f16_to_f32(b.dmin);
  for (int i = 0; i < 256; ++i) o.w[i] = b.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
  for (int s = 0; s < 16; ++s) o.scale[s] = k4_scale(b.scales, s / 2).scale, o.min[s] = k4_scale(b.scales, s / 2).min;
}
void integers(const BlockQ5_K& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  o.dmin = f16_to_f32(b.dmin);
  for (int i = 0; i < 256; ++i) {
    o.w[i] = (b.qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15) | (b.qh[i % 32] >> (i / 32) & 1) << 4;
  }
  for (int s = 0; s < 16; ++s) o.scale[s] = k4_scale(b.scales, s / 2).scale, o.min[s] = k4_scale(b.scales, s / 2).min;
}
void integers(const BlockQ6_K& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, r = i % 128;
    const int low = b.ql[64 * half + r % 64] >> (r / 64 * 4) & 15,
              high = b.qh[32 * half + r % 32] >> (r / 32 * 2) & 3;
    o.w[i] = (low | high << 4) - 32;
  }
  for (int s = 0; s < 16; ++s) o.scale[s] = b.scales[s];
}
void integers(const BlockIQ4_XS& b, IntegerBlock& o) {
  o.d = f16_to_f32(b.d);
  for (int i = 0; i < 256; ++i) o.w[i] = kIq4Values[nibble(b.qs + 16 * (i / 32), i % 32)];
  for (int s = 0; s < 16; ++s) {
    o.scale[s] = ((b.scales_l[s / 4] >> (s / 2 % 2 * 4) & 15) | (b.scales_h >> (s / 2 * 2) & 3) << 4) - 32;
  }
}

template <typename Block, DType kType>
float dot(const QuantRows& x, int64_t row, const std::byte* weights) {
  const QuantUnit* unit = x.units + row;
  float y = 0.0f;
  IntegerBlock b;
  for (int64_t c = 0; c < x.cols; c += is_k_type(kType) ? 256 : 32, weights += sizeof(Block)) {
    const QuantUnit& u = unit[c / kUnitCols * x.rows];
    Block block;
    std::memcpy(&block, weights, sizeof block);
    integers(block, b);
    if constexpr (is_k_type(kType)) {
      int sum1 = 0, sum2 = 0;
      for (int s = 0; s < 16; ++s) {
        int sum = 0;
        for (int i = 0; i < 16; ++i) sum += b.w[16 * s + i] * u.q[16 * s + i];
        sum1 += b.scale[s] * sum;
        if (has_minima(kType)) sum2 += b.min[s] * u.sums[s];
      }
      y = std::fma(static_cast<float>(sum1), b.d * u.scale[0], y);
      if (has_minima(kType)) y = std::fma(-static_cast<float>(sum2), b.dmin * u.scale[0], y);
    } else {
      const auto j = static_cast<size_t>(c % kUnitCols / 32);
      int sum = 0;
      for (size_t i = 0; i < 32; ++i) sum += b.w[i] * u.q[32 * j + i];
      y = std::fma(static_cast<float>(sum), b.d * u.scale[j], y);
      if (has_minima(kType)) y = std::fma(-b.dmin, u.scaled_sums[j], y);
    }
  }
  return y;
}

void matmul(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin, int64_t end,
            float* y, int64_t ldy, const int32_t* y_index, std::byte*) {
  float (*product)(const QuantRows&, int64_t, const std::byte*) = nullptr;
  switch (w.dtype) {
    case DType::kQ8_0:
      product = dot<BlockQ8_0, DType::kQ8_0>;
      break;
    case DType::kQ4_0:
      product = dot<BlockQ4_0, DType::kQ4_0>;
      break;
    case DType::kQ4_1:
      product = dot<BlockQ4_1, DType::kQ4_1>;
      break;
    case DType::kQ5_0:
      product = dot<BlockQ5_0, DType::kQ5_0>;
      break;
    case DType::kQ5_1:
      product = dot<BlockQ5_1, DType::kQ5_1>;
      break;
    case DType::kIQ4_NL:
      product = dot<BlockIQ4_NL, DType::kIQ4_NL>;
      break;
    case DType::kMXFP4:
      product = dot<BlockMXFP4, DType::kMXFP4>;
      break;
    case DType::kQ2_K:
      product = dot<BlockQ2_K, DType::kQ2_K>;
      break;
    case DType::kQ3_K:
      product = dot<BlockQ3_K, DType::kQ3_K>;
      break;
    case DType::kQ4_K:
      product = dot<BlockQ4_K, DType::kQ4_K>;
      break;
    case DType::kQ5_K:
      product = dot<BlockQ5_K, DType::kQ5_K>;
      break;
    case DType::kQ6_K:
      product = dot<BlockQ6_K, DType::kQ6_K>;
      break;
    case DType::kIQ4_XS:
      product = dot<BlockIQ4_XS, DType::kIQ4_XS>;
      break;
    default:
      QNEXT_CHECK(false, "{} has no blocks", dtype_name(w.dtype));
  }
  for (int64_t i = 0; i < tokens; ++i) {
    float* out = y + (y_index == nullptr ? i : y_index[i]) * ldy;
    for (int64_t r = begin; r < end; ++r) out[r] = product(x, x_index == nullptr ? i : x_index[i], w.row(r));
  }
}

/// Columns [c, c + n) with one scale: largest magnitude to 127. Magnitudes below 2^-120 count as zero, so that 127 /
/// largest cannot overflow.
float round_group(const float* x, int64_t n, int8_t* q) {
  float largest = 0.0f;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
    finite = finite && std::fabs(x[i]) <= std::numeric_limits<float>::max();
  }
  const bool zero = !finite || largest < 0x1p-120f;
  const float inverse = zero ? 0.0f : 127.0f / largest;
  for (int64_t i = 0; i < n; ++i) q[i] = zero ? int8_t{0} : static_cast<int8_t>(std::lrintf(x[i] * inverse));
  return !finite ? std::numeric_limits<float>::quiet_NaN() : zero ? 0.0f : largest / 127.0f;
}

void round_row(const float* x, int64_t cols, int64_t group, QuantUnit* units, int64_t stride) {
  for (int64_t c = 0; c < cols; c += kUnitCols, units += stride) {
    QuantUnit& u = *units;
    u = {};
    const int64_t n = std::min(kUnitCols, cols - c);
    for (int64_t g = 0; g < n; g += group) u.scale[g / group] = round_group(x + c + g, group, u.q + g);
    for (int64_t i = 0; i < kUnitCols; ++i) {
      u.offset[i] = static_cast<uint8_t>(u.q[i] + 128);
      u.sums[i / 16] = static_cast<int16_t>(u.sums[i / 16] + u.q[i]);
      u.sums32[i / 32] = static_cast<int16_t>(u.sums32[i / 32] + u.q[i]);
    }
    for (int j = 0; group == 32 && j < 8; ++j) u.scaled_sums[j] = u.scale[j] * static_cast<float>(u.sums32[j]);
  }
}

constexpr QuantKernels kTable{Isa::kScalar, round_row, matmul};

}  // namespace

const QuantKernels& quant_kernels_scalar() { return kTable; }

}  // namespace qnext
