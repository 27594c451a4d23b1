#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "backend/cpu/training_kernels.h"
#include "tensor/blocks.h"

#define QNEXT_ISA_WIDTH 1
namespace qnext {
namespace {
#include "backend/cpu/simd.h"
#include "backend/cpu/training_kernels.inl"
}  // namespace

const TrainingKernels& training_kernels_scalar() { return kTable; }

}  // namespace qnext
