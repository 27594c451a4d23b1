// Part of training_kernels.inl: backward of norms, of the router and of the shared expert's gate.

namespace pointwise_gradient {

inline Vec dot_vector(const float* x, const float* y, int64_t n) {
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) { sum = Vec::fma(load_lanes(x + i, lanes), load_lanes(y + i, lanes), sum); });
  return sum;
}

float dot(const float* x, const float* y, int64_t n) { return dot_vector(x, y, n).sum(); }

/// With s = 1 / sqrt(mean(x²) + eps), x' = x s and u = d * (1 + gain): d_x = s (u - x' mean(u x')), d_gain = d x'.
void norm_rope(const NormRope& norm, const float* x, const float* d_out, bool add, float* d_x, float* d_gain,
               float* scratch) {
  const int64_t n = norm.n, pairs = norm.pairs;
  const float* d = d_out;
  if (pairs > 0) {  // the rotation's transpose
    for_lanes(pairs, [&](int64_t i, int64_t lanes) {
      const Vec a = load_lanes(d_out + i, lanes), b = load_lanes(d_out + pairs + i, lanes);
      const Vec c = load_lanes(norm.cos + i, lanes), s = load_lanes(norm.sin + i, lanes);
      store_lanes(a * c + b * s, scratch + i, lanes);
      store_lanes(b * c - a * s, scratch + pairs + i, lanes);
    });
    for_lanes(n - 2 * pairs, [&](int64_t i, int64_t lanes) {
      store_lanes(load_lanes(d_out + 2 * pairs + i, lanes), scratch + 2 * pairs + i, lanes);
    });
    d = scratch;
  }
  const Vec one = Vec::set(1.0f);
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec u = load_lanes(d + i, lanes) * (load_lanes(norm.gain + i, lanes) + one);
    sum = Vec::fma(u, load_lanes(x + i, lanes), sum);
  });
  const float scale = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + norm.eps);
  const Vec s = Vec::set(scale), along = Vec::set(sum.sum() * scale * scale / static_cast<float>(n));
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec gradient = load_lanes(d + i, lanes), value = load_lanes(x + i, lanes);
    if (d_gain != nullptr) store_lanes(Vec::fma(gradient, value * s, load_lanes(d_gain + i, lanes)), d_gain + i, lanes);
    const Vec u = gradient * (load_lanes(norm.gain + i, lanes) + one);
    const Vec result = s * (u - value * along);
    store_lanes(add ? load_lanes(d_x + i, lanes) + result : result, d_x + i, lanes);
  });
}

void add_rows(float* y, const float* x, int64_t rows, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    Vec sum = Vec::zero();
    for (int64_t r = 0; r < rows; ++r) sum = sum + load_lanes(x + r * n + i, lanes);
    store_lanes(load_lanes(y + i, lanes) + sum, y + i, lanes);
  });
}

double softmax(const float* logits, int64_t n, float* p) {
  float largest = logits[0];
  for (int64_t i = 1; i < n; ++i) largest = logits[i] > largest ? logits[i] : largest;
  const Vec shift = Vec::set(largest);
  for_lanes(n, [&](int64_t i, int64_t lanes) { store_lanes(exp(load_lanes(logits + i, lanes) - shift), p + i, lanes); });
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) { sum = sum + load_lanes(p + i, lanes); });
  const float total = sum.sum();
  const Vec factor = Vec::set(1.0f) / Vec::set(total);
  for_lanes(n, [&](int64_t i, int64_t lanes) { store_lanes(load_lanes(p + i, lanes) * factor, p + i, lanes); });
  return static_cast<double>(largest) + std::log(static_cast<double>(total));
}

void multiply_offset(const float* p, const float* x, float offset, float* y, int64_t n) {
  const Vec shift = Vec::set(offset);
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec factor = x == nullptr ? shift : load_lanes(x + i, lanes) + shift;
    store_lanes(load_lanes(p + i, lanes) * factor, y + i, lanes);
  });
}

}  // namespace pointwise_gradient

inline constexpr PointwiseGradientKernels kPointwiseGradient{.norm_rope = pointwise_gradient::norm_rope,
                                                             .add_rows = pointwise_gradient::add_rows,
                                                             .softmax = pointwise_gradient::softmax,
                                                             .dot = pointwise_gradient::dot,
                                                             .multiply_offset = pointwise_gradient::multiply_offset};
