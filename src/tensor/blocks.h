#pragma once
// Block-quantised element types, bit for bit as GGUF files hold them. A block is 32 or 256 consecutive elements of a row;
// `x` in the comments is a decoded element, `i` its index in the block, d and m the block's half-precision scale and
// minimum. Structs are packed: a row of blocks has no gaps, and blocks lie at any even (or odd: MXFP4) address.
#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace qnext {

/// 8.5 bits. x = d * qs[i].
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[32];
};
/// 4.5 bits. x = d * (q - 8), q = low nibble of qs[i] for i < 16, high nibble of qs[i - 16] above.
struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};
/// 5 bits. x = d * q + m, nibbles as in Q4_0.
struct BlockQ4_1 {
  uint16_t d, m;
  uint8_t qs[16];
};
/// 5.5 bits. x = d * (q - 16), q = nibble (as in Q4_0) + 16 * bit i of qh (little endian).
struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4], qs[16];
};
/// 6 bits. x = d * q + m, q as in Q5_0.
struct BlockQ5_1 {
  uint16_t d, m;
  uint8_t qh[4], qs[16];
};
/// 4.5 bits. x = d * kIq4Values[nibble], nibbles as in Q4_0.
struct BlockIQ4_NL {
  uint16_t d;
  uint8_t qs[16];
};
/// 4.25 bits, OCP microscaling. x = 2^(e - 127) * E2M1 value of the nibble (= 2^(e - 128) * kMxfp4Values[nibble]).
struct BlockMXFP4 {
  uint8_t e;
  uint8_t qs[16];
};

// The K types: 256 elements in sub-blocks of 16 or 32 whose scales are themselves integers times d.

/// 2.625 bits. Sub-blocks of 16: x = d * (scales[s] & 15) * q - dmin * (scales[s] >> 4), s = i / 16.
/// q is 2 bits: of qs[i / 128 * 32 + i % 32], shifted right by 2 * (i % 128 / 32).
struct BlockQ2_K {
  uint8_t scales[16], qs[64];
  uint16_t d, dmin;
};
/// 3.4375 bits. Sub-blocks of 16: x = d * (scale(s) - 32) * (q - 4), q = 2 bits as in Q2_K + 4 * bit (i / 32) of hmask[i % 32].
/// scales: 16 of 6 bits. Low 4 bits of s: nibble s / 8 of scales[s % 8]; high 2: scales[8 + s % 4] >> 2 * (s / 4).
struct BlockQ3_K {
  uint8_t hmask[32], qs[64], scales[12];
  uint16_t d;
};
/// 4.5 bits. Sub-blocks of 32: x = d * scale(s) * q - dmin * min(s), s = i / 32; q = nibble (s % 2) of
/// qs[i / 64 * 32 + i % 32]. scales: 8 pairs of 6 bits (k4_scale).
struct BlockQ4_K {
  uint16_t d, dmin;
  uint8_t scales[12], qs[128];
};
/// 5.5 bits. As Q4_K with q + 16 * bit s of qh[i % 32].
struct BlockQ5_K {
  uint16_t d, dmin;
  uint8_t scales[12], qh[32], qs[128];
};
/// 6.5625 bits. Sub-blocks of 16: x = d * scales[i / 16] * (q - 32). With h = i / 128, r = i % 128: low 4 bits of q are
/// nibble r / 64 of ql[64 h + r % 64], high 2 bits are qh[32 h + r % 32] >> 2 * (r / 32).
struct BlockQ6_K {
  uint8_t ql[128], qh[64];
  int8_t scales[16];
  uint16_t d;
};
/// 4.25 bits. Sub-blocks of 32: x = d * (scale(s) - 32) * kIq4Values[nibble], nibbles of sub-block s as in Q4_0, from
/// qs[16 s]. scale(s): low 4 bits nibble s % 2 of scales_l[s / 2], high 2 bits scales_h >> 2 s.
struct BlockIQ4_XS {
  uint16_t d, scales_h;
  uint8_t scales_l[4], qs[128];
};
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 &&
              sizeof(BlockQ5_1) == 24 && sizeof(BlockIQ4_NL) == 18 && sizeof(BlockMXFP4) == 17);
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 &&
              sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_XS) == 136);

inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/// Twice the E2M1 values 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
inline constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// Scale and minimum of sub-block s of Q4_K and Q5_K: pairs 0 to 3 are the low 6 bits of scales[s] and scales[s + 4]; of
/// pairs 4 to 7 the low 4 bits are in scales[s + 4] and the high 2 in the top of the first eight bytes.
struct ScaleMin {
  uint8_t scale, min;
};
inline ScaleMin k4_scale(const uint8_t* scales, int s) {
  if (s < 4) return {static_cast<uint8_t>(scales[s] & 63), static_cast<uint8_t>(scales[s + 4] & 63)};
  return {static_cast<uint8_t>((scales[s + 4] & 15) | (scales[s - 4] >> 6 << 4)),
          static_cast<uint8_t>((scales[s + 4] >> 4) | (scales[s] >> 6 << 4))};
}
/// Scale of sub-block s (0 to 15) of Q3_K, before 32 is subtracted.
inline int q3_scale(const uint8_t* scales, int s) {
  return (scales[s % 8] >> (s / 8 * 4) & 15) | (scales[8 + s % 4] >> (s / 4 * 2) & 3) << 4;
}
/// 2^(e - 128), the factor of kMxfp4Values. e = 0 and 1 give subnormal numbers.
float mxfp4_scale(uint8_t e);

/// Decodes one block of a block type, block_elements(dtype) floats. `block` may be unaligned. The operations are those of
/// the formulas above in f32, so results equal ggml's bit for bit.
void decode_block(DType dtype, const std::byte* block, float* out);
/// `count` elements of any type, a multiple of block_elements(dtype).
void decode(DType dtype, const std::byte* data, int64_t count, float* out);

}  // namespace qnext
