#pragma once
#include <memory>
#include <span>
#include <vector>

#include "backend/forwarding_backend.h"

namespace qnext {

/// Counts in the low-rank additions of matrices (LowRank), which other backends for inference leave out: y = W x +
/// scale * b (a x), by products of the backend inside. A row's bits depend on the row alone, as its do. MLPs and
/// experts whose matrices have no addition go through untouched; with one, gate and up are computed apart and an
/// expert at a time, which is slower. training_backend.h counts them in by itself.
class LoraBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  using ForwardingBackend::linear;

  void linear(Rows x, std::span<const Linear> products) override;
  void mlp(Rows x, const MlpWeights& weights, Rows hidden, Rows y) override;
  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y) override;

 private:
  std::vector<float> a_x_, added_, up_, gathered_, hidden_, out_;
};

}  // namespace qnext
