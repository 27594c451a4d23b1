#include "backend/backend.h"

namespace qnext {

Rows Arena::rows(int64_t rows, int64_t cols) {
  // Each row starts on a cache line, so that threads which write neighbouring rows do not share one.
  constexpr int64_t kLine = 16;
  const int64_t stride = (cols + kLine - 1) / kLine * kLine;
  float* data = buffer_.data() == nullptr ? nullptr : buffer_.floats() + used_ / static_cast<int64_t>(sizeof(float));
  used_ += rows * stride * static_cast<int64_t>(sizeof(float));
  return {data, rows, cols, stride};
}

}  // namespace qnext
