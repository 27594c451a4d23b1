#include "backend/backend.h"

#include <algorithm>

namespace qnext {

Rows Arena::rows(int64_t rows, int64_t cols) {
  // Each row starts on a cache line, so that threads which write neighbouring rows do not share one.
  constexpr int64_t kLine = 16;
  int64_t stride = (cols + kLine - 1) / kLine * kLine;
  // Rows a multiple of 2 KB apart would compete for the same few sets of a cache.
  if (stride % 512 == 0) stride += kLine;
  float* data = buffer_.data() == nullptr ? nullptr : buffer_.floats() + used_ / static_cast<int64_t>(sizeof(float));
  used_ += rows * stride * static_cast<int64_t>(sizeof(float));
  most_ = std::max(most_, used_);
  return {data, rows, cols, stride};
}

}  // namespace qnext
