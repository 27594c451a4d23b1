#include "runtime/divergence.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace qnext {

namespace {

struct LogSum {
  double value;  ///< log of the sum of exp(logits)
  int64_t top;   ///< the largest logit, the first among equals
};

LogSum log_sum(std::span<const float> logits) {
  const auto top = std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - *top);
  return {*top + std::log(sum), top - logits.begin()};
}

}  // namespace

void Divergence::add(std::span<const float> base, std::span<const float> model, int32_t target) {
  QNEXT_CHECK(base.size() == model.size() && !base.empty());
  const LogSum of_base = log_sum(base), of_model = log_sum(model);
  double divergence = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    const double log_p = base[i] - of_base.value;
    divergence += std::exp(log_p) * (log_p - (model[i] - of_model.value));
  }
  divergences_.push_back(std::max(divergence, 0.0));  // rounding may leave -1e-17
  same_top_ += of_base.top == of_model.top;
  if (target < 0) return;
  ++targets_;
  nats_base_ += of_base.value - base[static_cast<size_t>(target)];
  nats_model_ += of_model.value - model[static_cast<size_t>(target)];
}

Divergence::Result Divergence::result() const {
  Result r;
  r.positions = static_cast<int64_t>(divergences_.size());
  r.targets = targets_;
  if (r.positions == 0) return r;
  std::vector<double> sorted = divergences_;
  std::sort(sorted.begin(), sorted.end());
  const double n = static_cast<double>(r.positions);
  double sum = 0, squares = 0;
  for (const double x : sorted) sum += x, squares += x * x;
  r.mean = sum / n;
  r.standard_error = r.positions > 1 ? std::sqrt(std::max(0.0, squares / n - r.mean * r.mean) / (n - 1)) : 0;
  const auto quantile = [&](double q) { return sorted[static_cast<size_t>(q * (n - 1) + 0.5)]; };
  r.median = quantile(0.5);
  r.percentile_99 = quantile(0.99);
  r.max = sorted.back();
  r.same_top = static_cast<double>(same_top_) / n;
  if (targets_ > 0) {
    r.perplexity_base = std::exp(nats_base_ / static_cast<double>(targets_));
    r.perplexity_model = std::exp(nats_model_ / static_cast<double>(targets_));
  }
  return r;
}

}  // namespace qnext
