#pragma once
#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace qnext {

// encode() of the block types, once for each instruction set, with the same results.
void encode_blocks_scalar(DType dtype, const float* x, int64_t count, const float* importance, std::byte* out);
void encode_blocks_avx2(DType dtype, const float* x, int64_t count, const float* importance, std::byte* out);

}  // namespace qnext
