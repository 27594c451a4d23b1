// Part of gemm.inl: what the products' operations do element by element.

namespace gemm {

inline Vec square_root(Vec x) {
#if QNEXT_ISA_WIDTH == 16
  return {_mm512_sqrt_ps(x.v)};
#elif QNEXT_ISA_WIDTH == 8
  return {_mm256_sqrt_ps(x.v)};
#else
  return {std::sqrt(x.v)};
#endif
}

void add(float* x, const float* y, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(load_lanes(x + i, lanes) + load_lanes(y + i, lanes), x + i, lanes);
  });
}

void scale_add(float* y, const float* x, float factor, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(Vec::fma(Vec::set(factor), load_lanes(x + i, lanes), load_lanes(y + i, lanes)), y + i, lanes);
  });
}

void scale(float* x, float factor, int64_t n) {
  for_lanes(
      n, [&](int64_t i, int64_t lanes) { store_lanes(load_lanes(x + i, lanes) * Vec::set(factor), x + i, lanes); });
}

void silu_multiply(float* gate, const float* up, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(silu(load_lanes(gate + i, lanes)) * load_lanes(up + i, lanes), gate + i, lanes);
  });
}

void silu_multiply_backward(float* gate, float* up, float* d_h, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec g = load_lanes(gate + i, lanes), u = load_lanes(up + i, lanes), d = load_lanes(d_h + i, lanes);
    const SiluGradient s(g);
    store_lanes(d * u * s.slope, gate + i, lanes);
    store_lanes(d * s.value, up + i, lanes);
    store_lanes(s.value * u, d_h + i, lanes);
  });
}

float maximum(const float* x, int64_t n) {
  Vec most = Vec::set(x[0]);
  int64_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) most = Vec::max(Vec::load(x + i), most);
  float result = most.max();
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

inline constexpr int64_t kSumBlock = 1024;  // terms added in f32 before they meet double

double exp_sum(float* x, float most, int64_t n) {
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    Vec sum = Vec::zero();
    for_lanes(n - begin < kSumBlock ? n - begin : kSumBlock, [&](int64_t i, int64_t lanes) {
      float* at = x + begin + i;
      const Vec value = exp(load_lanes(at, lanes) - Vec::set(most));
      store_lanes(value, at, lanes);
      sum = sum + (lanes == Vec::kLanes ? value : load_lanes(at, lanes));
    });
    total += static_cast<double>(sum.sum());
  }
  return total;
}

double sum_of_squares(const float* x, int64_t n) {
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    const float* at = x + begin;
    const int64_t count = n - begin < kSumBlock ? n - begin : kSumBlock;
    Vec sum[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    int64_t i = 0;
    for (; i + 4 * Vec::kLanes <= count; i += 4 * Vec::kLanes) {
      QNEXT_UNROLL
      for (int k = 0; k < 4; ++k) {
        const Vec value = Vec::load(at + i + k * Vec::kLanes);
        sum[k] = Vec::fma(value, value, sum[k]);
      }
    }
    for_lanes(count - i, [&](int64_t c, int64_t lanes) {
      const Vec value = load_lanes(at + i + c, lanes);
      sum[0] = Vec::fma(value, value, sum[0]);
    });
    total += static_cast<double>(((sum[0] + sum[1]) + (sum[2] + sum[3])).sum());
  }
  return total;
}

void adamw(float* w, const float* gradient, float* m, float* v, const TrainingBackend::AdamW& step, int64_t n) {
  const Vec one = Vec::set(1.0f);
  const Vec beta1 = Vec::set(step.beta1), beta2 = Vec::set(step.beta2), rest1 = one - beta1, rest2 = one - beta2;
  const Vec correction1 = Vec::set(step.correction1), correction2 = Vec::set(step.correction2);
  const Vec rate = Vec::set(step.learning_rate), eps = Vec::set(step.eps), decay = Vec::set(step.weight_decay);
  const Vec factor = Vec::set(step.gradient_scale);
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec g = load_lanes(gradient + i, lanes) * factor, old = load_lanes(w + i, lanes);
    const Vec mean = Vec::fma(beta1, load_lanes(m + i, lanes), rest1 * g);
    const Vec square = Vec::fma(beta2, load_lanes(v + i, lanes), rest2 * (g * g));
    store_lanes(mean, m + i, lanes);
    store_lanes(square, v + i, lanes);
    const Vec move = (mean / correction1) / (square_root(square / correction2) + eps);
    store_lanes(old - rate * Vec::fma(decay, old, move), w + i, lanes);
  });
}

}  // namespace gemm
