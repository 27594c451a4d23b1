#include "model/layers/mixture_of_experts.h"

#include <algorithm>

namespace qnext {

MlpActivations::MlpActivations(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  const bool any_moe = std::find(config.layer_is_moe.begin(), config.layer_is_moe.end(), true) != config.layer_is_moe.end();
  const bool any_dense = std::find(config.layer_is_moe.begin(), config.layer_is_moe.end(), false) != config.layer_is_moe.end();
  if (any_moe) {
    const int64_t k = config.num_experts_per_tok;
    router_logits = arena.rows(max_rows, config.num_experts);
    experts.resize(static_cast<size_t>(max_rows * k));
    weights.resize(static_cast<size_t>(max_rows * k));
    expert_hidden = arena.rows(max_rows * k, config.moe_intermediate_size);
    expert_out = arena.rows(max_rows * k, config.hidden_size);
    shared_out = arena.rows(max_rows, config.hidden_size);
    shared_gate = arena.rows(max_rows, 1);
  }
  hidden = arena.rows(max_rows, std::max(any_moe ? config.shared_expert_intermediate_size : 0,
                                         any_dense ? config.intermediate_size : 0));
}

void forward(const ModelConfig& config, const MoeWeights& weights, Rows x, MlpActivations& act, Rows y, Backend& backend) {
  const int64_t k = config.num_experts_per_tok;
  const Rows logits = act.router_logits.first(x.rows), gate = act.shared_gate.first(x.rows);
  const Rows shared = act.shared_out.first(x.rows);
  const Backend::Linear projections[] = {{&weights.router, logits}, {&weights.shared_gate, gate}};
  backend.linear(x, projections);
  backend.route(logits, k, config.norm_topk_prob, act.experts.data(), act.weights.data());
  backend.experts(x, weights.experts, k, act.experts.data(), act.weights.data(), act.expert_hidden.first(x.rows * k),
                  act.expert_out.first(x.rows * k), y);
  backend.mlp(x, weights.shared, act.hidden.first(x.rows).columns(0, weights.shared.gate.rows), shared);
  backend.add_gated(y, shared, gate);
}

void forward(const ModelConfig&, const MlpWeights& weights, Rows x, MlpActivations& act, Rows y, Backend& backend) {
  backend.mlp(x, weights, act.hidden.first(x.rows).columns(0, weights.gate.rows), y);
}

}  // namespace qnext
