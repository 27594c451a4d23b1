#pragma once
#include <optional>
#include <span>

#include "backend/training_backend.h"
#include "model/config.h"
#include "model/layers/gated_attention.h"
#include "model/layers/gated_delta_net.h"
#include "model/layers/mixture_of_experts.h"
#include "model/state.h"
#include "model/weights.h"

namespace qnext {

/// What one layer computes on the way, T rows. One set serves all layers in inference (where mlp_input is the memory of
/// normed, and middle is the residual stream itself); training keeps one per layer, or one of each kind and recomputes.
struct LayerActivations {
  Rows normed;     ///< [T, D] the mixer's input
  Rows mixed;      ///< [T, D] the mixer's output, then the MLP's
  Rows middle;     ///< [T, D] the residual stream between mixer and MLP
  Rows mlp_input;  ///< [T, D]
  GatedDeltaNetActivations delta;
  GatedAttentionActivations attention;
  MlpActivations mlp;
};

/// out = middle + mlp(norm(middle)), where middle = x + mixer(norm(x)), for one layer of either kind. x, out [T, D], and out
/// may be x; cos, sin [T, rope dims / 2]. The MTP module's layer is layer -1. Without `out`: only what backward() reads of act,
/// for those who kept x alone.
void forward(const ModelConfig& config, const LayerWeights& weights, const StateLayout& layout, int64_t layer,
             int64_t kv_offset, std::span<const Segment> segments, Rows x, Rows cos, Rows sin, LayerActivations& act,
             std::optional<Rows> out, Backend& backend);

/// Working space of one layer's backward pass: gradients of what its forward pass computes.
struct LayerBackwardSpace {
  Rows d_normed;  ///< [T, D]
  GatedDeltaNetBackwardSpace delta;
  GatedAttentionBackwardSpace attention;
  MlpBackwardSpace mlp;

  LayerBackwardSpace() = default;
  LayerBackwardSpace(const ModelConfig& config, int64_t max_rows, Arena& arena);
};

/// d_x [T, D] comes as the gradient of the layer's output and leaves as that of its input x. `act` is as forward left it;
/// `before` are the segments with their states before their first rows (DeltaNet) and with their keys and values (attention).
/// Gradients of parameters are added to those of `gradients`, whose matrices lie in f32 and are empty where frozen.
void backward(const ModelConfig& config, const LayerWeights& weights, const LayerWeights& gradients, const StateLayout& layout,
              int64_t layer, int64_t kv_offset, std::span<const Segment> before, Rows x, Rows cos, Rows sin,
              LayerActivations& act, const RouterLoss& router_loss, LayerBackwardSpace& space, Rows d_x,
              TrainingBackend& backend);

}  // namespace qnext
