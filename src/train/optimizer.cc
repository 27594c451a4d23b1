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

Optimizer::Optimizer(std::vector<ParameterInfo> parameters, const TrainConfig::Optimizer& options, TrainingBackend& backend)
    : Optimizer(parameters, ParameterShares(parameters, 0, 1), options, backend) {}

Optimizer::Optimizer(std::vector<ParameterInfo> parameters, ParameterShares shares, const TrainConfig::Optimizer& options,
                     TrainingBackend& backend)
    : options_(options), backend_(backend), parameters_(std::move(parameters)), shares_(std::move(shares)), moment_at_(parameters_.size(), -1) {
  constexpr int64_t kLine = 16;
  int64_t size = 0;
  for (const ParameterShares::Run& run : shares_.runs()) {
    if (!shares_.is_ours(run)) continue;
    for (size_t i = run.first; i < run.last; ++i) moment_at_[i] = size + parameters_[i].offset - run.begin;
    size += (run.end - run.begin + kLine - 1) / kLine * kLine;
  }
  const int64_t bytes = std::max<int64_t>(1, size) * static_cast<int64_t>(sizeof(float));
  m_ = backend.allocate(bytes);
  v_ = backend.allocate(bytes);
  for (const ParameterInfo& p : parameters_) rules_.push_back(update_rule(p, options.kind));
}

std::span<float> Optimizer::moment(const Buffer& buffer, size_t parameter) const {
  if (moment_at_[parameter] < 0) return {};
  return {buffer.floats() + moment_at_[parameter], static_cast<size_t>(parameters_[parameter].size())};
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
  std::vector<TrainingBackend::MuonMatrix> matrices;
  for (const ParameterShares::Run& run : shares_.runs()) {
    if (!shares_.is_ours(run)) continue;
    for (size_t i = run.first; i < run.last;) {
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
      while (end < run.last && !rules_[end].muon && rules_[end].decays == rules_[i].decays) ++end;
      const auto begin = static_cast<size_t>(p.offset);
      const auto size = static_cast<size_t>(list[end - 1].offset + list[end - 1].size()) - begin;
      adamw.weight_decay = rules_[i].decays ? decay : 0.0f;
      backend_.adamw(parameters.values().subspan(begin, size), gradients.values().subspan(begin, size),
                     {m_.floats() + moment_at_[i], size}, {v_.floats() + moment_at_[i], size}, adamw);
      i = end;
    }
  }
  backend_.muon(matrices, {.learning_rate = static_cast<float>(options_.muon_learning_rate * factor),
                           .momentum = static_cast<float>(options_.momentum),
                           .weight_decay = decay,
                           .gradient_scale = static_cast<float>(gradient_scale)});
}

}  // namespace qnext
