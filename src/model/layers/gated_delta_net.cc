#include "model/layers/gated_delta_net.h"

#include <array>
#include <cmath>

#include "model/gradients.h"

namespace qnext {

GatedDeltaNetActivations::GatedDeltaNetActivations(const ModelConfig& config, int64_t max_rows, Keep keep, Arena& arena) {
  const int64_t heads = config.linear_num_value_heads;
  const bool kept = keep == Keep::kForBackward;
  qkv = arena.rows(max_rows, config.linear_conv_width());
  projected = kept ? arena.rows(max_rows, config.linear_conv_width()) : qkv;
  z = arena.rows(max_rows, config.linear_value_width());
  b = arena.rows(max_rows, heads);
  a = arena.rows(max_rows, heads);
  beta = arena.rows(max_rows, heads);
  log_decay = arena.rows(max_rows, heads);
  out = arena.rows(max_rows, config.linear_value_width());
  read_out = kept ? arena.rows(max_rows, config.linear_value_width()) : out;
}

namespace {

/// Where the layer's convolution and recurrent states lie in each segment's; null where it has none.
void find_states(const StateLayout& layout, int64_t layer, std::span<const Segment> segments, GatedDeltaNetActivations& act) {
  const auto index = static_cast<size_t>(layer);
  act.conv_segments.clear();
  act.delta_segments.clear();
  for (const Segment& s : segments) {
    float* states = s.state->recurrent;
    act.conv_segments.push_back({s.row, s.rows, states == nullptr ? nullptr : states + layout.conv_offset[index]});
    act.delta_segments.push_back(
        {s.row, s.rows, s.position, states == nullptr ? nullptr : states + layout.delta_offset[index]});
  }
}

std::array<UnitNorm, 2> unit_heads(const ModelConfig& config) {
  const int64_t width = config.linear_key_width(), dim = config.linear_key_head_dim;
  return {{{0, width, dim, 1.0f / std::sqrt(static_cast<float>(dim))}, {width, 2 * width, dim, 1.0f}}};
}

DeltaShape delta_shape(const ModelConfig& config) {
  return {config.linear_num_key_heads, config.linear_num_value_heads, config.linear_key_head_dim,
          config.linear_value_head_dim};
}

}  // namespace

void forward(const ModelConfig& config, const GatedDeltaNetWeights& weights, const StateLayout& layout, int64_t layer,
             std::span<const Segment> segments, Rows x, GatedDeltaNetActivations& act, Rows y, Backend& backend) {
  const int64_t key_width = config.linear_key_width(), value_width = config.linear_value_width();
  find_states(layout, layer, segments, act);
  const auto rows = [&](Rows r) { return r.first(x.rows); };
  const Rows projected = rows(act.projected), qkv = rows(act.qkv), z = rows(act.z);
  const Rows read_out = rows(act.read_out), out = rows(act.out);
  const Rows q = qkv.columns(0, key_width), k = qkv.columns(key_width, key_width);
  const Rows v = qkv.columns(2 * key_width, value_width);

  const Backend::Linear projections[] = {
      {&weights.q, projected.columns(0, key_width)},
      {&weights.k, projected.columns(key_width, key_width)},
      {&weights.v, projected.columns(2 * key_width, value_width)},
      {&weights.z, z},
      {&weights.b, rows(act.b)},
      {&weights.a, rows(act.a)}};
  backend.linear(x, projections);
  backend.causal_conv1d_silu(act.conv_segments, projected, weights.conv, config.linear_conv_kernel_dim, unit_heads(config),
                             qkv);
  backend.delta_gates(rows(act.b), rows(act.a), weights.a_log, weights.dt_bias, rows(act.beta), rows(act.log_decay));
  backend.gated_delta_rule(act.delta_segments, delta_shape(config), q, k, v, rows(act.beta), rows(act.log_decay),
                           read_out);
  backend.gated_rms_norm(read_out, z, weights.norm, config.rms_norm_eps, out);
  backend.linear(out, weights.out, y);
}

GatedDeltaNetBackwardSpace::GatedDeltaNetBackwardSpace(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  for (Rows* rows : {&d_out, &d_read_out, &d_z}) *rows = arena.rows(max_rows, config.linear_value_width());
  for (Rows* rows : {&d_qkv, &d_projected}) *rows = arena.rows(max_rows, config.linear_conv_width());
  for (Rows* rows : {&d_beta, &d_log_decay, &d_b, &d_a}) *rows = arena.rows(max_rows, config.linear_num_value_heads);
}

void backward(const ModelConfig& config, const GatedDeltaNetWeights& weights, const GatedDeltaNetWeights& gradients,
              const StateLayout& layout, int64_t layer, std::span<const Segment> before, Rows x,
              GatedDeltaNetActivations& act, Rows d_y, GatedDeltaNetBackwardSpace& space, Rows d_x,
              TrainingBackend& backend) {
  find_states(layout, layer, before, act);
  const auto rows = [&](Rows r) { return r.first(x.rows); };
  const int64_t key_width = config.linear_key_width(), value_width = config.linear_value_width();
  const auto q_of = [&](Rows qkv) { return rows(qkv).columns(0, key_width); };
  const auto k_of = [&](Rows qkv) { return rows(qkv).columns(key_width, key_width); };
  const auto v_of = [&](Rows qkv) { return rows(qkv).columns(2 * key_width, value_width); };
  const Rows d_out = rows(space.d_out), d_read_out = rows(space.d_read_out), d_z = rows(space.d_z);
  const Rows d_b = rows(space.d_b), d_a = rows(space.d_a);

  const TrainingBackend::LinearGradient out{&weights.out, d_y, gradient_of(gradients.out)};
  backend.clear(d_out);
  backend.linear_backward(rows(act.out), {&out, 1}, d_out);
  backend.gated_rms_norm_backward(rows(act.read_out), rows(act.z), weights.norm, config.rms_norm_eps, d_out, d_read_out, d_z,
                                  gradient_of(gradients.norm));
  backend.gated_delta_rule_backward(act.delta_segments, delta_shape(config), q_of(act.qkv), k_of(act.qkv), v_of(act.qkv),
                                    rows(act.beta), rows(act.log_decay), d_read_out, q_of(space.d_qkv), k_of(space.d_qkv),
                                    v_of(space.d_qkv), rows(space.d_beta), rows(space.d_log_decay));
  backend.delta_gates_backward(rows(act.b), rows(act.a), weights.a_log, weights.dt_bias, rows(space.d_beta),
                               rows(space.d_log_decay), d_b, d_a, gradient_of(gradients.a_log),
                               gradient_of(gradients.dt_bias));
  backend.causal_conv1d_silu_backward(act.conv_segments, rows(act.projected), weights.conv, config.linear_conv_kernel_dim,
                                      unit_heads(config), rows(space.d_qkv), rows(space.d_projected),
                                      gradient_of(gradients.conv));
  const TrainingBackend::LinearGradient projections[] = {
      {&weights.q, q_of(space.d_projected), gradient_of(gradients.q)},
      {&weights.k, k_of(space.d_projected), gradient_of(gradients.k)},
      {&weights.v, v_of(space.d_projected), gradient_of(gradients.v)},
      {&weights.z, d_z, gradient_of(gradients.z)},
      {&weights.b, d_b, gradient_of(gradients.b)},
      {&weights.a, d_a, gradient_of(gradients.a)}};
  backend.linear_backward(x, projections, d_x);
}

}  // namespace qnext
