#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "backend/cpu/kernels.h"
#include "tensor/blocks.h"

#define QNEXT_ISA_WIDTH 1
namespace qnext {
namespace {
constexpr Isa kIsa = Isa::kScalar;
#include "backend/cpu/simd.h"
#include "backend/cpu/kernels.inl"
}  // namespace

const Kernels& kernels_scalar() { return kTable; }

}  // namespace qnext
