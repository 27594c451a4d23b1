// Products of bf16 by the instructions for them, vdpbf16ps and the tiles of AMX: gemm_bf16.inl over their registers.
#if !defined(__clang__)
// g++ 12 warns of the deliberately undefined vectors inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "backend/cpu/training_kernels.h"
#include "tensor/blocks.h"

#if defined(__clang__)
#pragma clang attribute push(                                                                    \
    __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi2")
#endif

#define QNEXT_ISA_WIDTH 16
namespace qnext {
namespace {
// clang-format off
#include "backend/cpu/simd.h"
#include "backend/cpu/gemm.inl"
// clang-format on

/// The register file of AMX: 8 tiles of 16 rows of 64 bytes, of 16 floats or 32 bf16.
struct HardwareTiles {
  HardwareTiles() {
    alignas(64) uint8_t config[64] = {1};  // palette 1
    for (int t = 0; t < 8; ++t) {
      config[16 + 2 * t] = 64;
      config[48 + t] = static_cast<uint8_t>(gemm::kTileLines);
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));  // the intrinsic of g++ 12 can lose the stores above
  }
  ~HardwareTiles() { __asm__ volatile("tilerelease"); }
  HardwareTiles(const HardwareTiles&) = delete;
  HardwareTiles& operator=(const HardwareTiles&) = delete;
  template <int kT>
  void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kT));
  }
  template <int kT>
  void load(const void* p, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kT) : "memory");
  }
  template <int kT>
  void store(void* p, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kT) : "memory");
  }
  template <int kC, int kA, int kB>
  void dot() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
};

/// 16 lanes of vdpbf16ps.
struct HardwareLanes {
  __m512 v;
  using Pairs = __m512i;
  static HardwareLanes zero() { return {_mm512_setzero_ps()}; }
  static HardwareLanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  static Pairs pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static Pairs same_pair(const uint16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static HardwareLanes dot(Pairs a, Pairs b, HardwareLanes c) {
    return {_mm512_dpbf16_ps(c.v, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b))};
  }
};

constexpr ProductKernels kAvx512 = gemm::kProducts<gemm::TilePanels<gemm::PairUnit<HardwareLanes>>>;
constexpr ProductKernels kAmx = gemm::kProducts<gemm::TilePanels<gemm::TileUnit<HardwareTiles>>>;

}  // namespace
}  // namespace qnext

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace qnext {
const ProductKernels& product_kernels_bf16_avx512() { return kAvx512; }
const ProductKernels& product_kernels_bf16_amx() { return kAmx; }
}  // namespace qnext
