#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "backend/cpu/training_kernels.h"
#include "tensor/blocks.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2")
#endif

#define QNEXT_ISA_WIDTH 8
namespace qnext {
namespace {
#include "backend/cpu/simd.h"
#include "backend/cpu/training_kernels.inl"
}  // namespace
}  // namespace qnext

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace qnext {
const TrainingKernels& training_kernels_avx2() { return kTable; }
}  // namespace qnext
