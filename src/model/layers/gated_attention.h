#pragma once
#include <span>
#include <vector>

#include "backend/training_backend.h"
#include "model/config.h"
#include "model/state.h"
#include "model/weights.h"

namespace qnext {

/// What a gated attention layer computes on the way, T rows. In inference, what only the backward pass reads shares memory
/// with what replaces it.
struct GatedAttentionActivations {
  Rows projected_q, projected_k;  ///< [T, H*A], [T, Hkv*A] before norm and rope
  Rows q, gate;                   ///< [T, H*A]
  Rows k, v;                      ///< [T, Hkv*A]
  Rows log_sum_exp;               ///< [T, H] of the scaled scores; empty in inference
  Rows out;                       ///< [T, H*A] softmax(qk)v times sigmoid(gate)
  std::vector<AttentionSegment> segments;

  GatedAttentionActivations() = default;
  GatedAttentionActivations(const ModelConfig& config, int64_t max_rows, Keep keep, Arena& arena);
};

/// y = GatedAttention(x) (docs/model.md, arXiv 2505.06708). x, y [T, D]; cos, sin [T, rope dims / 2]. Appends the rows' keys
/// and values to the segments' blocks at kv_offset bytes.
void forward(const ModelConfig& config, const GatedAttentionWeights& weights, const KvLayout& layout, int64_t kv_offset,
             std::span<const Segment> segments, Rows x, Rows cos, Rows sin, GatedAttentionActivations& act, Rows y,
             Backend& backend);

/// Gradients of what the forward pass computes on the way.
struct GatedAttentionBackwardSpace {
  Rows d_out, d_q, d_gate;  ///< [T, H*A]
  Rows d_k, d_v;            ///< [T, Hkv*A]

  GatedAttentionBackwardSpace() = default;
  GatedAttentionBackwardSpace(const ModelConfig& config, int64_t max_rows, Arena& arena);
};

/// d_x += the gradient of x, from d_y. act and the segments' keys and values are as forward left them; keys and values from
/// before the segments' first rows are constants.
void backward(const ModelConfig& config, const GatedAttentionWeights& weights, const GatedAttentionWeights& gradients,
              const KvLayout& layout, int64_t kv_offset, std::span<const Segment> segments, Rows x, Rows cos, Rows sin,
              GatedAttentionActivations& act, Rows d_y, GatedAttentionBackwardSpace& space, Rows d_x,
              TrainingBackend& backend);

}  // namespace qnext
