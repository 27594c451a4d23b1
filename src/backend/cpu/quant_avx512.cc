#if !defined(__clang__)
// g++ 12 warns of the deliberately undefined vectors inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "backend/cpu/quant_kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,bmi2")
#endif

namespace qnext {
namespace {
constexpr Isa kIsa = Isa::kAvx512;
#include "backend/cpu/quant_common.inl"
#include "backend/cpu/quant_unpack_avx512.inl"
#include "backend/cpu/quant_few_avx512.inl"
#include "backend/cpu/quant_many_avx512.inl"
#include "backend/cpu/quant_round.inl"
#include "backend/cpu/quant_matmul.inl"
}  // namespace
}  // namespace qnext

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace qnext {
const QuantKernels& quant_kernels_avx512() { return kTable; }
}  // namespace qnext
