#pragma once
#include <span>
#include <vector>

#include "backend/training_backend.h"
#include "model/config.h"
#include "model/state.h"
#include "model/weights.h"

namespace qnext {

/// What a Gated DeltaNet layer computes on the way, T rows. One set serves all layers in inference, where what only the
/// backward pass reads shares memory with what replaces it; training keeps one per layer, or recomputes.
struct GatedDeltaNetActivations {
  Rows projected;        ///< [T, 2*Hk*K + Hv*V] q | k | v as projected
  Rows qkv;              ///< [T, 2*Hk*K + Hv*V] after convolution and SiLU, q and k of unit length
  Rows z;                ///< [T, Hv*V] output gate
  Rows b, a;             ///< [T, Hv]
  Rows beta, log_decay;  ///< [T, Hv]
  Rows read_out;         ///< [T, Hv*V] of the delta rule
  Rows out;              ///< [T, Hv*V] the read-out gated and normalised
  std::vector<ConvSegment> conv_segments;
  std::vector<DeltaSegment> delta_segments;

  GatedDeltaNetActivations() = default;
  GatedDeltaNetActivations(const ModelConfig& config, int64_t max_rows, Keep keep, Arena& arena);
};

/// y = GatedDeltaNet(x) (docs/model.md, arXiv 2412.06464). x, y [T, D]. Reads and advances the segments' convolution and
/// recurrent states, which lie at layout.conv_offset[layer] and layout.delta_offset[layer].
void forward(const ModelConfig& config, const GatedDeltaNetWeights& weights, const StateLayout& layout, int64_t layer,
             std::span<const Segment> segments, Rows x, GatedDeltaNetActivations& act, Rows y, Backend& backend);

/// Gradients of what the forward pass computes on the way.
struct GatedDeltaNetBackwardSpace {
  Rows d_out, d_read_out, d_z;  ///< [T, Hv*V]
  Rows d_qkv, d_projected;      ///< [T, 2*Hk*K + Hv*V]
  Rows d_beta, d_log_decay;     ///< [T, Hv]
  Rows d_b, d_a;                ///< [T, Hv]

  GatedDeltaNetBackwardSpace() = default;
  GatedDeltaNetBackwardSpace(const ModelConfig& config, int64_t max_rows, Arena& arena);
};

/// d_x += the gradient of x, from d_y. act is as forward left it; the states of `before` are those before the segments' first
/// rows (recurrent null: zeros), and stay as they are.
void backward(const ModelConfig& config, const GatedDeltaNetWeights& weights, const GatedDeltaNetWeights& gradients,
              const StateLayout& layout, int64_t layer, std::span<const Segment> before, Rows x,
              GatedDeltaNetActivations& act, Rows d_y, GatedDeltaNetBackwardSpace& space, Rows d_x,
              TrainingBackend& backend);

}  // namespace qnext
