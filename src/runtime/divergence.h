#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace qnext {

/// How far a model's distributions of the next token are from another's, position by position.
class Divergence {
 public:
  /// Adds one position: both models' logits [vocab_size], and the token that really follows (negative: unknown).
  void add(std::span<const float> base, std::span<const float> model, int32_t target);

  struct Result {
    int64_t positions = 0, targets = 0;
    double mean = 0, median = 0, percentile_99 = 0, max = 0;  ///< KL(base || model), nats per position
    double standard_error = 0;                                ///< of the mean, positions taken as independent
    double same_top = 0;                                      ///< share of positions with the same most likely token
    double perplexity_base = 0, perplexity_model = 0;
  };
  Result result() const;

 private:
  std::vector<double> divergences_;
  int64_t same_top_ = 0, targets_ = 0;
  double nats_base_ = 0, nats_model_ = 0;
};

}  // namespace qnext
