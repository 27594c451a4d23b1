#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qnext {

std::vector<double> rope_inverse_frequencies(const RopeConfig& rope) {
  const double d = static_cast<double>(rope.dims);
  std::vector<double> theta(static_cast<size_t>(rope.dims / 2));
  for (size_t j = 0; j < theta.size(); ++j) theta[j] = std::pow(rope.theta, -2.0 * static_cast<double>(j) / d);
  if (!rope.yarn) return theta;
  // The dimension that turns n times over the original context.
  const auto correction = [&](double n) {
    const double context = static_cast<double>(rope.original_max_position_embeddings);
    return d * std::log(context / (2.0 * std::numbers::pi * n)) / (2.0 * std::log(rope.theta));
  };
  double low = correction(rope.beta_fast), high = correction(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1.0);
  if (low == high) high += 0.001;
  for (size_t j = 0; j < theta.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    theta[j] = theta[j] * (1.0 - ramp) + theta[j] / rope.factor * ramp;
  }
  return theta;
}

void rope_row(const std::vector<double>& inverse_frequencies, double attention_factor, int64_t position, float* cos,
              float* sin) {
  for (size_t j = 0; j < inverse_frequencies.size(); ++j) {
    const double angle = static_cast<double>(position) * inverse_frequencies[j];
    cos[j] = static_cast<float>(std::cos(angle) * attention_factor);
    sin[j] = static_cast<float>(std::sin(angle) * attention_factor);
  }
}

}  // namespace qnext
