// Backward of norms over rows, of the router and of the shared expert's gate.
#include <cmath>

#include "backend/cpu/row_blocks.h"
#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

void CpuTrainingBackend::rms_norm_backward(Rows x, Vector gain, double eps, Rows d_out, Rows d_x, float* d_gain) {
  const int64_t n = x.cols;
  QNEXT_CHECK(gain.size == n && d_out.cols == n && d_x.cols == n, "gain {} of {}", gain.size, n);
  const int64_t blocks = row_blocks(x.rows);
  float* partial = d_gain == nullptr ? nullptr : shared_scratch_.floats(blocks * n);
  const NormRope norm{.gain = gain.data, .eps = static_cast<float>(eps), .n = n};
  for_row_blocks(pool_, x.rows, kRowBlock, [&](int64_t block, int64_t begin, int64_t end, int) {
    float* sum = partial == nullptr ? nullptr : partial + block * n;
    if (sum != nullptr) std::fill_n(sum, n, 0.0f);
    for (int64_t t = begin; t < end; ++t) {
      k_.pointwise.norm_rope(norm, x.row(t), d_out.row(t), true, d_x.row(t), sum, nullptr);
    }
  });
  if (d_gain != nullptr) k_.pointwise.add_rows(d_gain, partial, blocks, n);
}

void CpuTrainingBackend::router_statistics(Rows logits, std::span<double> probability_sums, double* squared_lse) {
  const int64_t n = logits.cols;
  QNEXT_CHECK(static_cast<int64_t>(probability_sums.size()) == n, "{} sums of {} experts", probability_sums.size(), n);
  constexpr int64_t kBlock = 64;
  const int64_t blocks = row_blocks(logits.rows, kBlock);
  auto* partial = reinterpret_cast<double*>(shared_scratch_.bytes(blocks * (n + 1) * static_cast<int64_t>(sizeof(double))));
  for_row_blocks(pool_, logits.rows, kBlock, [&](int64_t block, int64_t begin, int64_t end, int thread) {
    double* sums = partial + block * (n + 1);
    std::fill_n(sums, n + 1, 0.0);
    float* p = scratch(thread, n);
    for (int64_t t = begin; t < end; ++t) {
      const double lse = k_.pointwise.softmax(logits.row(t), n, p);
      for (int64_t e = 0; e < n; ++e) sums[e] += static_cast<double>(p[e]);
      sums[n] += lse * lse;
    }
  });
  for (int64_t block = 0; block < blocks; ++block) {
    const double* sums = partial + block * (n + 1);
    for (int64_t e = 0; e < n; ++e) probability_sums[static_cast<size_t>(e)] += sums[e];
    *squared_lse += sums[n];
  }
}

void CpuTrainingBackend::route_backward(Rows logits, int64_t k, bool normalise, const int32_t* experts, const float* weights,
                                        const float* d_weights, std::span<const float> balance, float z_scale,
                                        Rows d_logits) {
  const int64_t n = logits.cols;
  QNEXT_CHECK(k >= 1 && k <= n && d_logits.cols == n, "{} of {} experts", k, n);
  QNEXT_CHECK(balance.empty() || static_cast<int64_t>(balance.size()) == n, "{} gradients of {} experts", balance.size(), n);
  const bool all = !normalise || !balance.empty() || z_scale != 0.0f;
  for_row_blocks(pool_, logits.rows, kRowBlock, [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* chosen = experts + t * k;
      const float *w = weights + t * k, *c = d_weights + t * k;
      float* d = d_logits.row(t);
      double mean = 0.0;  // of the gradients under the weights
      for (int64_t i = 0; i < k; ++i) mean += static_cast<double>(w[i]) * static_cast<double>(c[i]);
      if (all) {
        // p * (balance - <p, balance> + 2 z lse), and without renormalisation the weights' own softmax.
        double offset = 2.0 * static_cast<double>(z_scale) * k_.pointwise.softmax(logits.row(t), n, d);
        if (!balance.empty()) offset -= static_cast<double>(k_.pointwise.dot(d, balance.data(), n));
        if (!normalise) offset -= mean;
        k_.pointwise.multiply_offset(d, balance.empty() ? nullptr : balance.data(), static_cast<float>(offset), d, n);
      } else {
        std::fill_n(d, n, 0.0f);
      }
      for (int64_t i = 0; i < k; ++i) {
        const double own = static_cast<double>(c[i]) - (normalise ? mean : 0.0);
        d[chosen[i]] += static_cast<float>(static_cast<double>(w[i]) * own);
      }
    }
  });
}

void CpuTrainingBackend::add_gated_backward(Rows x, Rows gate, Rows d_y, Rows d_x, Rows d_gate) {
  for_row_blocks(pool_, x.rows, kRowBlock, [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const double open = 1.0 / (1.0 + std::exp(-static_cast<double>(gate.row(t)[0])));
      const auto along = static_cast<double>(k_.pointwise.dot(d_y.row(t), x.row(t), x.cols));
      d_gate.row(t)[0] = static_cast<float>(along * open * (1.0 - open));
      k_.pointwise.multiply_offset(d_y.row(t), nullptr, static_cast<float>(open), d_x.row(t), x.cols);
    }
  });
}

}  // namespace qnext
