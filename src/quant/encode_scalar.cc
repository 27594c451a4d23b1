#include <emmintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/block_search.h"
#include "tensor/blocks.h"

#define QNEXT_QUANT_AVX2 0
namespace qnext {
namespace {
// clang-format off: the order counts
#include "quant/lanes.inl"
#include "quant/search.inl"
#include "quant/encoders.inl"
// clang-format on
}  // namespace

void encode_blocks_scalar(DType dtype, const float* x, int64_t count, const float* importance, std::byte* out) {
  encode_blocks(dtype, x, count, importance, out);
}
}  // namespace qnext
