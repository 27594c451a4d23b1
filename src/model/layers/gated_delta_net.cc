#include "model/layers/gated_delta_net.h"

#include <cmath>

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

void forward(const ModelConfig& config, const GatedDeltaNetWeights& weights, const StateLayout& layout, int64_t layer,
             std::span<const Segment> segments, Rows x, GatedDeltaNetActivations& act, Rows y, Backend& backend) {
  const int64_t key_width = config.linear_key_width(), value_width = config.linear_value_width();
  const int64_t key_dim = config.linear_key_head_dim;
  const auto index = static_cast<size_t>(layer);
  act.conv_segments.clear();
  act.delta_segments.clear();
  for (const Segment& s : segments) {
    act.conv_segments.push_back({s.row, s.rows, s.state->recurrent + layout.conv_offset[index]});
    act.delta_segments.push_back({s.row, s.rows, s.position, s.state->recurrent + layout.delta_offset[index]});
  }
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
  const UnitNorm unit_heads[] = {{0, key_width, key_dim, 1.0f / std::sqrt(static_cast<float>(key_dim))},
                                 {key_width, 2 * key_width, key_dim, 1.0f}};
  backend.causal_conv1d_silu(act.conv_segments, projected, weights.conv, config.linear_conv_kernel_dim, unit_heads, qkv);
  backend.delta_gates(rows(act.b), rows(act.a), weights.a_log, weights.dt_bias, rows(act.beta), rows(act.log_decay));
  const DeltaShape shape{config.linear_num_key_heads, config.linear_num_value_heads, key_dim,
                         config.linear_value_head_dim};
  backend.gated_delta_rule(act.delta_segments, shape, q, k, v, rows(act.beta), rows(act.log_decay),
                           read_out);
  backend.gated_rms_norm(read_out, z, weights.norm, config.rms_norm_eps, out);
  backend.linear(out, weights.out, y);
}

}  // namespace qnext
