#pragma once
#include <cstdint>

#include "backend/backend.h"

namespace qnext {

/// A zero-centred RMSNorm over n elements, with a rotary embedding of pairs (j, j + pairs) after it; pairs may be 0.
struct NormRope {
  const float* gain;
  float eps;
  int64_t n;
  const float *cos = nullptr, *sin = nullptr;
  int64_t pairs = 0;
};

struct PointwiseGradientKernels {
  /// Of one row or head. d_x = (d_x may be d_out), or += where `add`; d_gain += unless it is null. scratch: n floats.
  void (*norm_rope)(const NormRope& norm, const float* x, const float* d_out, bool add, float* d_x, float* d_gain,
                    float* scratch);
  /// y[c] += sum over r < rows of x[r * n + c].
  void (*add_rows)(float* y, const float* x, int64_t rows, int64_t n);
  /// p = softmax(logits); returns log-sum-exp(logits). p may be logits.
  double (*softmax)(const float* logits, int64_t n, float* p);
  float (*dot)(const float* x, const float* y, int64_t n);
  /// y = p * (x + offset); x null: p * offset. y may be p.
  void (*multiply_offset)(const float* p, const float* x, float offset, float* y, int64_t n);
};

}  // namespace qnext
