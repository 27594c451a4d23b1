#pragma once
#include <vector>

#include "backend/backend.h"
#include "model/config.h"
#include "model/weights.h"

namespace qnext {

/// What the feed-forward half of a layer computes on the way, T rows, k experts per row.
struct MlpActivations {
  Rows router_logits;            ///< [T, E]
  std::vector<int32_t> experts;  ///< [T, k]
  std::vector<float> weights;    ///< [T, k]
  Rows expert_hidden;            ///< [T*k, F]
  Rows expert_out;               ///< [T*k, D]
  Rows hidden;                   ///< [T, max(shared width, dense width)]
  Rows shared_out;               ///< [T, D]
  Rows shared_gate;              ///< [T, 1]

  MlpActivations() = default;
  MlpActivations(const ModelConfig& config, int64_t max_rows, Arena& arena);
};

/// y = sum over the k chosen experts of weight * expert(x), plus sigmoid(gate x) * shared expert(x). x, y [T, D].
void forward(const ModelConfig& config, const MoeWeights& weights, Rows x, MlpActivations& act, Rows y, Backend& backend);
/// y = SwiGLU(x), a dense layer.
void forward(const ModelConfig& config, const MlpWeights& weights, Rows x, MlpActivations& act, Rows y, Backend& backend);

}  // namespace qnext
