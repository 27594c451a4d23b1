#pragma once
#include <cstdint>

namespace qnext {

/// Independent chains of an arithmetic loop: more than latency times ports of any CPU so far.
inline constexpr int kRoofChains = 12;

// Each does `rounds` steps on each of kRoofChains registers, and returns something that depends on all of them. To be called
// only where the machine has the instructions.
double roof_f32_scalar(int64_t rounds);   ///< 4 products and sums per step
double roof_f32_avx2(int64_t rounds);     ///< 8
double roof_f32_avx512(int64_t rounds);   ///< 16
double roof_int8_avx2(int64_t rounds);    ///< 32
double roof_int8_avx512(int64_t rounds);  ///< 64, with VNNI
double roof_bf16_avx512(int64_t rounds);  ///< 32, with AVX512-BF16
double roof_bf16_amx(int64_t rounds);     ///< 8192: two tiles of 16 x 32, with AMX-BF16, whose tiles the process may use

}  // namespace qnext
