#include "model/layers/gated_attention.h"

#include "model/gradients.h"

namespace qnext {

GatedAttentionActivations::GatedAttentionActivations(const ModelConfig& config, int64_t max_rows, Keep keep, Arena& arena) {
  q = arena.rows(max_rows, config.attention_width());
  gate = arena.rows(max_rows, config.attention_width());
  k = arena.rows(max_rows, config.key_value_width());
  projected_q = q;
  projected_k = k;
  if (keep == Keep::kForBackward) {
    projected_q = arena.rows(max_rows, config.attention_width());
    projected_k = arena.rows(max_rows, config.key_value_width());
    log_sum_exp = arena.rows(max_rows, config.num_attention_heads);
  }
  v = arena.rows(max_rows, config.key_value_width());
  out = arena.rows(max_rows, config.attention_width());
}

void forward(const ModelConfig& config, const GatedAttentionWeights& weights, const KvLayout& layout, int64_t kv_offset,
             std::span<const Segment> segments, Rows x, Rows cos, Rows sin, GatedAttentionActivations& act, Rows y,
             Backend& backend) {
  act.segments.clear();
  for (const Segment& s : segments) act.segments.push_back({s.row, s.rows, s.position, s.state->kv(kv_offset)});
  const auto rows = [&](Rows r) { return r.first(x.rows); };
  const Rows projected_q = rows(act.projected_q), projected_k = rows(act.projected_k);
  const Rows q = rows(act.q), gate = rows(act.gate), k = rows(act.k), v = rows(act.v), out = rows(act.out);

  const Backend::Linear projections[] = {
      {&weights.q, projected_q}, {&weights.gate, gate}, {&weights.k, projected_k}, {&weights.v, v}};
  backend.linear(x, projections);
  backend.head_norm_rope(projected_q, config.head_dim, weights.q_norm, config.rms_norm_eps, cos, sin, q);
  backend.head_norm_rope(projected_k, config.head_dim, weights.k_norm, config.rms_norm_eps, cos, sin, k);
  backend.kv_append(act.segments, layout, k, v);
  backend.gated_attention(act.segments, layout, q, gate, out, rows(act.log_sum_exp));
  backend.linear(out, weights.out, y);
}

GatedAttentionBackwardSpace::GatedAttentionBackwardSpace(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  for (Rows* rows : {&d_out, &d_q, &d_gate}) *rows = arena.rows(max_rows, config.attention_width());
  for (Rows* rows : {&d_k, &d_v}) *rows = arena.rows(max_rows, config.key_value_width());
}

void backward(const ModelConfig& config, const GatedAttentionWeights& weights, const GatedAttentionWeights& gradients,
              const KvLayout& layout, int64_t kv_offset, std::span<const Segment> segments, Rows x, Rows cos, Rows sin,
              GatedAttentionActivations& act, Rows d_y, GatedAttentionBackwardSpace& space, Rows d_x,
              TrainingBackend& backend) {
  act.segments.clear();
  for (const Segment& s : segments) act.segments.push_back({s.row, s.rows, s.position, s.state->kv(kv_offset)});
  const auto rows = [&](Rows r) { return r.first(x.rows); };
  const Rows d_out = rows(space.d_out), d_q = rows(space.d_q), d_gate = rows(space.d_gate);
  const Rows d_k = rows(space.d_k), d_v = rows(space.d_v);

  const TrainingBackend::LinearGradient out{&weights.out, d_y, gradient_of(gradients.out)};
  backend.clear(d_out);
  backend.linear_backward(rows(act.out), {&out, 1}, d_out);
  backend.gated_attention_backward(act.segments, layout, rows(act.q), rows(act.gate), rows(act.out), rows(act.log_sum_exp),
                                   d_out, d_q, d_gate, d_k, d_v);
  backend.head_norm_rope_backward(rows(act.projected_q), config.head_dim, weights.q_norm, config.rms_norm_eps, cos, sin, d_q,
                                  d_q, gradient_of(gradients.q_norm));
  backend.head_norm_rope_backward(rows(act.projected_k), config.head_dim, weights.k_norm, config.rms_norm_eps, cos, sin, d_k,
                                  d_k, gradient_of(gradients.k_norm));
  const TrainingBackend::LinearGradient projections[] = {{&weights.q, d_q, gradient_of(gradients.q)},
                                                         {&weights.gate, d_gate, gradient_of(gradients.gate)},
                                                         {&weights.k, d_k, gradient_of(gradients.k)},
                                                         {&weights.v, d_v, gradient_of(gradients.v)}};
  backend.linear_backward(x, projections, d_x);
}

}  // namespace qnext
