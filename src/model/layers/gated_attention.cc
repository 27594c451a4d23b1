#include "model/layers/gated_attention.h"

namespace qnext {

GatedAttentionActivations::GatedAttentionActivations(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  q = arena.rows(max_rows, config.attention_width());
  gate = arena.rows(max_rows, config.attention_width());
  k = arena.rows(max_rows, config.key_value_width());
  v = arena.rows(max_rows, config.key_value_width());
  out = arena.rows(max_rows, config.attention_width());
}

void forward(const ModelConfig& config, const GatedAttentionWeights& weights, const KvLayout& layout, int64_t kv_offset,
             std::span<const Segment> segments, Rows x, Rows cos, Rows sin, GatedAttentionActivations& act, Rows y,
             Backend& backend) {
  act.segments.clear();
  for (const Segment& s : segments) act.segments.push_back({s.row, s.rows, s.position, s.state->kv(kv_offset)});
  const auto rows = [&](Rows r) { return r.first(x.rows); };
  const Rows q = rows(act.q), gate = rows(act.gate), k = rows(act.k), v = rows(act.v), out = rows(act.out);

  const Backend::Linear projections[] = {{&weights.q, q}, {&weights.gate, gate}, {&weights.k, k}, {&weights.v, v}};
  backend.linear(x, projections);
  backend.head_norm_rope(q, config.head_dim, weights.q_norm, config.rms_norm_eps, cos, sin);
  backend.head_norm_rope(k, config.head_dim, weights.k_norm, config.rms_norm_eps, cos, sin);
  backend.kv_append(act.segments, layout, k, v);
  backend.gated_attention(act.segments, layout, q, gate, out);
  backend.linear(out, weights.out, y);
}

}  // namespace qnext
