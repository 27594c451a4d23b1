#include "model/layers/decoder_layer.h"

#include "model/gradients.h"

namespace qnext {

void forward(const ModelConfig& config, const LayerWeights& weights, const StateLayout& layout, int64_t layer,
             int64_t kv_offset, std::span<const Segment> segments, Rows x, Rows cos, Rows sin, LayerActivations& act,
             std::optional<Rows> out, Backend& backend) {
  const Rows normed = act.normed.first(x.rows), mixed = act.mixed.first(x.rows), middle = act.middle.first(x.rows);
  const Rows mlp_input = act.mlp_input.first(x.rows);
  backend.rms_norm(x, weights.input_norm, config.rms_norm_eps, normed);
  if (const auto* delta = std::get_if<GatedDeltaNetWeights>(&weights.mixer)) {
    forward(config, *delta, layout, layer, segments, normed, act.delta, mixed, backend);
  } else {
    forward(config, std::get<GatedAttentionWeights>(weights.mixer), layout.kv, kv_offset, segments, normed, cos, sin,
            act.attention, mixed, backend);
  }
  backend.add(x, mixed, middle);
  backend.rms_norm(middle, weights.post_attention_norm, config.rms_norm_eps, mlp_input);
  const std::optional<Rows> y = out ? std::optional(mixed) : std::nullopt;
  std::visit([&](const auto& mlp) { forward(config, mlp, mlp_input, act.mlp, y, backend); }, weights.mlp);
  if (out) backend.add(middle, mixed, *out);
}

LayerBackwardSpace::LayerBackwardSpace(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  d_normed = arena.rows(max_rows, config.hidden_size);
  // One after the other.
  const int64_t shared = arena.used();
  delta = GatedDeltaNetBackwardSpace(config, max_rows, arena);
  arena.rewind(shared);
  attention = GatedAttentionBackwardSpace(config, max_rows, arena);
  arena.rewind(shared);
  mlp = MlpBackwardSpace(config, max_rows, arena);
  arena.rewind(shared);
}

void backward(const ModelConfig& config, const LayerWeights& weights, const LayerWeights& gradients, const StateLayout& layout,
              int64_t layer, int64_t kv_offset, std::span<const Segment> before, Rows x, Rows cos, Rows sin,
              LayerActivations& act, const RouterLoss& router_loss, LayerBackwardSpace& space, Rows d_x,
              TrainingBackend& backend) {
  const Rows d_normed = space.d_normed.first(x.rows), middle = act.middle.first(x.rows);
  backend.clear(d_normed);
  if (const auto* moe = std::get_if<MoeWeights>(&weights.mlp)) {
    backward(config, *moe, std::get<MoeWeights>(gradients.mlp), act.mlp_input.first(x.rows), act.mlp, router_loss, d_x,
             space.mlp, d_normed, backend);
  } else {
    backend.mlp_backward(act.mlp_input.first(x.rows), std::get<MlpWeights>(weights.mlp), d_x, d_normed,
                         gradient_of(std::get<MlpWeights>(gradients.mlp)));
  }
  backend.rms_norm_backward(middle, weights.post_attention_norm, config.rms_norm_eps, d_normed, d_x,
                            gradient_of(gradients.post_attention_norm));
  const Rows normed = act.normed.first(x.rows);
  backend.clear(d_normed);
  if (const auto* delta = std::get_if<GatedDeltaNetWeights>(&weights.mixer)) {
    backward(config, *delta, std::get<GatedDeltaNetWeights>(gradients.mixer), layout, layer, before, normed, act.delta, d_x,
             space.delta, d_normed, backend);
  } else {
    backward(config, std::get<GatedAttentionWeights>(weights.mixer), std::get<GatedAttentionWeights>(gradients.mixer),
             layout.kv, kv_offset, before, normed, cos, sin, act.attention, d_x, space.attention, d_normed, backend);
  }
  backend.rms_norm_backward(x, weights.input_norm, config.rms_norm_eps, d_normed, d_x, gradient_of(gradients.input_norm));
}

}  // namespace qnext
