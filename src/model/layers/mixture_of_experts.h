#pragma once
#include <optional>
#include <span>
#include <vector>

#include "backend/training_backend.h"
#include "model/config.h"
#include "model/weights.h"

namespace qnext {

/// What the feed-forward half of a layer computes on the way, T rows, k experts per row.
struct MlpActivations {
  // What the backward pass reads.
  Rows router_logits;            ///< [T, E]
  std::vector<int32_t> experts;  ///< [T, k]
  std::vector<float> weights;    ///< [T, k]
  Rows shared_out;               ///< [T, D]
  Rows shared_gate;              ///< [T, 1]
  // Working space.
  Rows expert_hidden;  ///< [T*k, F]
  Rows expert_out;     ///< [T*k, D]
  Rows hidden;         ///< [T, max(shared width, dense width)]

  MlpActivations() = default;
  MlpActivations(const ModelConfig& config, int64_t max_rows, Arena& arena);
  /// The first group, and the second, for those who keep the first of every layer.
  void allocate_kept(const ModelConfig& config, int64_t max_rows, Arena& arena);
  void allocate_working(const ModelConfig& config, int64_t max_rows, Arena& arena);
};

/// y = sum over the k chosen experts of weight * expert(x), plus sigmoid(gate x) * shared expert(x). x, y [T, D]. Without y:
/// only what the backward pass reads, which needs no output of a routed expert.
void forward(const ModelConfig& config, const MoeWeights& weights, Rows x, MlpActivations& act, std::optional<Rows> y,
             Backend& backend);
/// y = SwiGLU(x), a dense layer. Without y: nothing.
void forward(const ModelConfig& config, const MlpWeights& weights, Rows x, MlpActivations& act, std::optional<Rows> y,
             Backend& backend);

/// How the routing of a layer enters the loss, beside the experts' outputs.
struct RouterLoss {
  /// [E] the gradient of the loss with respect to every row's probability of each expert (load balance); empty: none.
  std::span<const float> balance;
  float z_scale = 0.0f;  ///< the loss has z_scale * log-sum-exp(router logits)² of every row
};

struct MlpBackwardSpace {
  Rows d_router_logits;          ///< [T, E]
  std::vector<float> d_weights;  ///< [T, k]
  Rows d_shared;                 ///< [T, D]
  Rows d_shared_gate;            ///< [T, 1]
  std::vector<TrainingBackend::MlpGradient> d_experts;  ///< E

  MlpBackwardSpace() = default;
  MlpBackwardSpace(const ModelConfig& config, int64_t max_rows, Arena& arena);
};

/// d_x += the gradient of x, from d_y.
void backward(const ModelConfig& config, const MoeWeights& weights, const MoeWeights& gradients, Rows x, MlpActivations& act,
              const RouterLoss& router_loss, Rows d_y, MlpBackwardSpace& space, Rows d_x, TrainingBackend& backend);

}  // namespace qnext
