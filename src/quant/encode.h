#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/cpu.h"
#include "tensor/dtype.h"

namespace qnext {

/// Encodes `count` values (a multiple of block_elements(dtype)) as dtype, any type of DType, bytes_of(dtype, count)
/// bytes to `out`. For block types it searches scales and minima so that the sum of importance * (x - decoded)² is
/// small (docs/quantisation.md); importance [count] is >= 0, null for all equal, and all zero in a block counts as
/// equal. The plain types round to nearest, ties to even; F8_E4M3 saturates at 448. Deterministic: a block's bytes
/// depend on its values and importance alone, not on the instruction set. Thread-safe. Every |value| must be at most
/// kMaxEncodable (first_not_encodable); then every decoded value is finite.
void encode(DType dtype, const float* x, int64_t count, const float* importance, std::byte* out);
/// The same with the search of one instruction set (AVX-512 uses AVX2's); for tests.
void encode(Isa isa, DType dtype, const float* x, int64_t count, const float* importance, std::byte* out);

/// Scales are half precision; no weight of a model comes near.
inline constexpr float kMaxEncodable = 65504.0f;
/// Index of the first value that is not finite or larger than kMaxEncodable, or -1.
int64_t first_not_encodable(const float* x, int64_t count);

/// Round to nearest, ties to even, saturating; NaN stays NaN.
uint8_t f32_to_f8e4m3(float value);

}  // namespace qnext
