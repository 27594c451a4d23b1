#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/block_search.h"
#include "tensor/blocks.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define QNEXT_QUANT_AVX2 1
namespace qnext {
namespace {
// clang-format off: the order counts
#include "quant/lanes.inl"
#include "quant/search.inl"
#include "quant/encoders.inl"
// clang-format on
}  // namespace

void encode_blocks_avx2(DType dtype, const float* x, int64_t count, const float* importance, std::byte* out) {
  encode_blocks(dtype, x, count, importance, out);
}
}  // namespace qnext

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
