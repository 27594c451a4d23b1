#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace qnext {

UpdateRule update_rule(const ParameterInfo& p, OptimizerKind kind) {
  const std::string_view name = p.name;
  const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
  UpdateRule rule;
  rule.decays = !(has("A_log") || has("dt_bias") || has("conv1d") || has("linear_attn.norm."));
  rule.muon = kind == OptimizerKind::kMuon && p.is_matrix && !has("embed_tokens") && !has("lm_head") && !has("mlp.gate.") &&
              !has("in_proj_ba") && !has("shared_expert_gate");
  return rule;
}

Optimizer::Optimizer(std::vector<ParameterInfo> parameters, const TrainConfig::Optimizer& options, TrainingBackend& backend,
                     int rank, int ranks)
    : options_(options), backend_(backend), parameters_(std::move(parameters)), shares_(parameters_, ranks), rank_(rank) {
  const int64_t bytes = std::max<int64_t>(1, shares_.of(rank).size()) * static_cast<int64_t>(sizeof(float));
  m_ = backend.allocate(bytes);
  v_ = backend.allocate(bytes);
  for (const ParameterInfo& p : parameters_) rules_.push_back(update_rule(p, options.kind));
}

std::span<float> Optimizer::moment(const Buffer& buffer, size_t parameter) const {
  const ParameterShares::Share& share = shares_.of(rank_);
  if (parameter < share.first || parameter >= share.last) return {};
  const ParameterInfo& p = parameters_[parameter];
  return {buffer.floats() + (p.offset - share.begin), static_cast<size_t>(p.size())};
}

void Optimizer::update(ParameterList& parameters, ParameterList& gradients, int64_t step, double factor, double gradient_scale) {
  const double t = static_cast<double>(step);
  TrainingBackend::AdamW adamw{
      .learning_rate = static_cast<float>(options_.learning_rate * factor),
      .beta1 = static_cast<float>(options_.beta1),
      .beta2 = static_cast<float>(options_.beta2),
      .eps = static_cast<float>(options_.eps),
      .weight_decay = 0.0f,
      .correction1 = static_cast<float>(1.0 - std::pow(options_.beta1, t)),
      .correction2 = static_cast<float>(1.0 - std::pow(options_.beta2, t)),
      .gradient_scale = static_cast<float>(gradient_scale),
  };
  const auto decay = static_cast<float>(options_.weight_decay);
  const std::vector<ParameterInfo>& list = parameters_;
  const ParameterShares::Share& share = shares_.of(rank_);
  std::vector<TrainingBackend::MuonMatrix> matrices;
  for (size_t i = share.first; i < share.last;) {
    const ParameterInfo& p = list[i];
    if (rules_[i].muon) {
      matrices.push_back({.w = parameters.of(p).data(),
                          .gradient = gradients.of(p).data(),
                          .m = first_moment(i).data(),
                          .rows = p.rows,
                          .cols = p.cols});
      ++i;
      continue;
    }
    // Neighbours of one rule in one call; the gaps between them are zero in every array and stay so.
    size_t end = i + 1;
    while (end < share.last && !rules_[end].muon && rules_[end].decays == rules_[i].decays) ++end;
    const auto begin = static_cast<size_t>(p.offset);
    const auto size = static_cast<size_t>(list[end - 1].offset + list[end - 1].size()) - begin;
    adamw.weight_decay = rules_[i].decays ? decay : 0.0f;
    const int64_t at = p.offset - share.begin;
    backend_.adamw(parameters.values().subspan(begin, size), gradients.values().subspan(begin, size), {m_.floats() + at, size},
                   {v_.floats() + at, size}, adamw);
    i = end;
  }
  backend_.muon(matrices, {.learning_rate = static_cast<float>(options_.muon_learning_rate * factor),
                           .momentum = static_cast<float>(options_.momentum),
                           .weight_decay = decay,
                           .gradient_scale = static_cast<float>(gradient_scale)});
}

}  // namespace qnext
