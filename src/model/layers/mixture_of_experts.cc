#include "model/layers/mixture_of_experts.h"

#include <algorithm>

#include "model/gradients.h"

namespace qnext {

namespace {
bool has_layers(const ModelConfig& config, bool moe) {
  return std::find(config.layer_is_moe.begin(), config.layer_is_moe.end(), moe) != config.layer_is_moe.end();
}
}  // namespace

MlpActivations::MlpActivations(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  allocate_kept(config, max_rows, arena);
  allocate_working(config, max_rows, arena);
}

void MlpActivations::allocate_kept(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  if (!has_layers(config, true)) return;
  router_logits = arena.rows(max_rows, config.num_experts);
  experts.resize(static_cast<size_t>(max_rows * config.num_experts_per_tok));
  weights.resize(static_cast<size_t>(max_rows * config.num_experts_per_tok));
  shared_out = arena.rows(max_rows, config.hidden_size);
  shared_gate = arena.rows(max_rows, 1);
}

void MlpActivations::allocate_working(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  const bool moe = has_layers(config, true);
  if (moe) {
    expert_hidden = arena.rows(max_rows * config.num_experts_per_tok, config.moe_intermediate_size);
    expert_out = arena.rows(max_rows * config.num_experts_per_tok, config.hidden_size);
  }
  hidden = arena.rows(max_rows, std::max(moe ? config.shared_expert_intermediate_size : 0,
                                         has_layers(config, false) ? config.intermediate_size : 0));
}

void forward(const ModelConfig& config, const MoeWeights& weights, Rows x, MlpActivations& act, std::optional<Rows> y,
             Backend& backend) {
  const int64_t k = config.num_experts_per_tok;
  const Rows logits = act.router_logits.first(x.rows), gate = act.shared_gate.first(x.rows);
  const Rows shared = act.shared_out.first(x.rows);
  const Backend::Linear projections[] = {{&weights.router, logits, true}, {&weights.shared_gate, gate}};
  backend.linear(x, projections);
  backend.route(logits, k, config.norm_topk_prob, act.experts.data(), act.weights.data());
  if (y) {
    backend.experts(x, weights.experts, k, act.experts.data(), act.weights.data(), act.expert_hidden.first(x.rows * k),
                    act.expert_out.first(x.rows * k), *y);
  }
  backend.mlp(x, weights.shared, act.hidden.first(x.rows).columns(0, weights.shared.gate.rows), shared);
  if (y) backend.add_gated(*y, shared, gate);
}

void forward(const ModelConfig&, const MlpWeights& weights, Rows x, MlpActivations& act, std::optional<Rows> y,
             Backend& backend) {
  if (y) backend.mlp(x, weights, act.hidden.first(x.rows).columns(0, weights.gate.rows), *y);
}

MlpBackwardSpace::MlpBackwardSpace(const ModelConfig& config, int64_t max_rows, Arena& arena) {
  if (!has_layers(config, true)) return;
  d_router_logits = arena.rows(max_rows, config.num_experts);
  d_weights.resize(static_cast<size_t>(max_rows * config.num_experts_per_tok));
  d_shared = arena.rows(max_rows, config.hidden_size);
  d_shared_gate = arena.rows(max_rows, 1);
}

void backward(const ModelConfig& config, const MoeWeights& weights, const MoeWeights& gradients, Rows x, MlpActivations& act,
              const RouterLoss& router_loss, Rows d_y, MlpBackwardSpace& space, Rows d_x, TrainingBackend& backend) {
  const int64_t k = config.num_experts_per_tok;
  const Rows logits = act.router_logits.first(x.rows), d_logits = space.d_router_logits.first(x.rows);
  const Rows d_shared = space.d_shared.first(x.rows), d_gate = space.d_shared_gate.first(x.rows);
  backend.add_gated_backward(act.shared_out.first(x.rows), act.shared_gate.first(x.rows), d_y, d_shared, d_gate);
  backend.mlp_backward(x, weights.shared, d_shared, d_x, gradient_of(gradients.shared));
  space.d_experts.clear();
  for (const MlpWeights& expert : gradients.experts) space.d_experts.push_back(gradient_of(expert));
  backend.experts_backward(x, weights.experts, k, act.experts.data(), act.weights.data(), d_y, d_x, space.d_weights.data(),
                           space.d_experts);
  backend.route_backward(logits, k, config.norm_topk_prob, act.experts.data(), act.weights.data(), space.d_weights.data(),
                         router_loss.balance, router_loss.z_scale, d_logits);
  const TrainingBackend::LinearGradient projections[] = {{&weights.router, d_logits, gradient_of(gradients.router)},
                                                         {&weights.shared_gate, d_gate, gradient_of(gradients.shared_gate)}};
  backend.linear_backward(x, projections, d_x);
}

}  // namespace qnext
