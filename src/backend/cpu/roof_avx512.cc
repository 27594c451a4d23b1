// Loops for every instruction set, each function with a target of its own.
#include "backend/cpu/roof_loops.h"

#include <immintrin.h>

#include <cstring>

namespace qnext {

#define QNEXT_CHAINS(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)

/// One multiply-add chain per accumulator, `rounds` times. Every accumulator is a variable: g++ -O2 leaves an array that a loop
/// fills in memory, and then measures the stores.
#define QNEXT_ARITHMETIC(name, target_text, vector, zero, step)      \
  __attribute__((target(target_text))) double name(int64_t rounds) { \
    const vector b = zero;                                           \
    vector a0 = b, a1 = b, a2 = b, a3 = b, a4 = b, a5 = b;           \
    vector a6 = b, a7 = b, a8 = b, a9 = b, a10 = b, a11 = b;         \
    QNEXT_CHAINS(QNEXT_OPAQUE)                                       \
    for (int64_t r = 0; r < rounds; ++r) {                           \
      QNEXT_CHAINS(step)                                             \
      asm volatile("" ::: "memory");                                 \
    }                                                                \
    double sum = 0;                                                  \
    QNEXT_CHAINS(QNEXT_ADD_FIRST)                                    \
    return sum;                                                      \
  }
#define QNEXT_OPAQUE(i) asm volatile("" : "+x"(a##i));  // else equal chains become one
#define QNEXT_ADD_FIRST(i)                   \
  {                                          \
    float first;                             \
    std::memcpy(&first, &a##i, sizeof first); \
    sum += first;                            \
  }
#define QNEXT_BF16_512(i) a##i = _mm512_dpbf16_ps(a##i, reinterpret_cast<__m512bh>(b), reinterpret_cast<__m512bh>(b));
#define QNEXT_F32_512(i) a##i = _mm512_fmadd_ps(a##i, b, b);
#define QNEXT_F32_256(i) a##i = _mm256_fmadd_ps(a##i, b, b);
#define QNEXT_F32_128(i) a##i = _mm_add_ps(_mm_mul_ps(a##i, b), b);
#define QNEXT_I8_512(i) a##i = _mm512_dpbusd_epi32(a##i, b, b);
#define QNEXT_I8_256(i) \
  a##i = _mm256_add_epi32(a##i, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_xor_si256(a##i, b), b), b));
QNEXT_ARITHMETIC(roof_f32_avx512, "avx512f", __m512, _mm512_set1_ps(0.5f), QNEXT_F32_512)
QNEXT_ARITHMETIC(roof_f32_avx2, "avx2,fma", __m256, _mm256_set1_ps(0.5f), QNEXT_F32_256)
QNEXT_ARITHMETIC(roof_f32_scalar, "sse2", __m128, _mm_set1_ps(0.5f), QNEXT_F32_128)
QNEXT_ARITHMETIC(roof_int8_avx512, "avx512f,avx512vnni", __m512i, _mm512_set1_epi8(1), QNEXT_I8_512)
QNEXT_ARITHMETIC(roof_int8_avx2, "avx2", __m256i, _mm256_set1_epi8(1), QNEXT_I8_256)
QNEXT_ARITHMETIC(roof_bf16_avx512, "avx512f,avx512bf16", __m512, _mm512_set1_ps(0.5f), QNEXT_BF16_512)

double roof_bf16_amx(int64_t rounds) {
  alignas(64) uint8_t config[64] = {1};  // palette 1, all tiles of 16 rows of 64 bytes
  for (int t = 0; t < 8; ++t) {
    config[16 + 2 * t] = 64;
    config[48 + t] = 16;
  }
  alignas(64) float sums[16][16] = {};
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  __asm__ volatile(
      "tilezero %tmm0\n\ttilezero %tmm1\n\ttilezero %tmm2\n\ttilezero %tmm3\n\t"
      "tilezero %tmm4\n\ttilezero %tmm5\n\ttilezero %tmm6\n\ttilezero %tmm7");
  for (int64_t r = 0; r < rounds; ++r) {
    // Six chains, each twice.
    for (int twice = 0; twice < kRoofChains / 6; ++twice) {
      __asm__ volatile(
          "tdpbf16ps %tmm7, %tmm6, %tmm0\n\ttdpbf16ps %tmm7, %tmm6, %tmm1\n\ttdpbf16ps %tmm7, %tmm6, %tmm2\n\t"
          "tdpbf16ps %tmm7, %tmm6, %tmm3\n\ttdpbf16ps %tmm7, %tmm6, %tmm4\n\ttdpbf16ps %tmm7, %tmm6, %tmm5");
    }
  }
  __asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n\ttilerelease" : : "r"(sums), "r"(int64_t{64}) : "memory");
  return static_cast<double>(sums[0][0]);
}

}  // namespace qnext
