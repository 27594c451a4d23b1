#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

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

Optimizer::Optimizer(const ModelConfig& config, bool mtp, const TrainConfig::Optimizer& options, TrainingBackend& backend,
                     int rank, int ranks)
    : options_(options), backend_(backend), parameters_(parameter_list(config, mtp)), shares_(parameters_, ranks), rank_(rank) {
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

void Optimizer::update(ParameterArray& parameters, ParameterArray& gradients, int64_t step, double factor,
                       double gradient_scale) {
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
  for (size_t i = share.first; i < share.last;) {
    const ParameterInfo& p = list[i];
    if (rules_[i].muon) {
      muon(parameters.of(p), gradients.of(p), first_moment(i), p, static_cast<float>(options_.muon_learning_rate * factor), decay,
           static_cast<float>(gradient_scale));
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
}

/// Muon (Jordan, 2024): momentum, orthogonalised by five steps of a Newton-Schulz iteration whose polynomial brings singular
/// values near 1 fast; scaled so that an element's update is about as large as AdamW's (Liu et al., arXiv 2502.16982).
void Optimizer::muon(std::span<float> w, std::span<const float> gradient, std::span<float> m, const ParameterInfo& p, float rate,
                     float decay, float gradient_scale) {
  const auto momentum = static_cast<float>(options_.momentum);
  const bool wide = p.rows <= p.cols;
  const int64_t rows = wide ? p.rows : p.cols, cols = wide ? p.cols : p.rows;  // the smaller one first
  const size_t size = w.size();
  x_.resize(size);
  next_.resize(size);
  const auto square = static_cast<size_t>(rows * rows);
  gram_.resize(square);
  polynomial_.resize(square);
  for (size_t i = 0; i < size; ++i) {
    const float g = gradient_scale * gradient[i];
    m[i] = momentum * m[i] + g;
    next_[i] = momentum * m[i] + g;
  }
  const double norm = std::sqrt(backend_.sum_of_squares(next_));
  if (norm == 0.0) {  // an expert that nobody chose
    for (float& value : w) value -= rate * decay * value;
    return;
  }
  const auto scale = static_cast<float>(1.0 / norm);
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t c = 0; c < p.cols; ++c) x_[static_cast<size_t>(wide ? r * cols + c : c * cols + r)] = scale * next_[static_cast<size_t>(r * p.cols + c)];
  }
  using Product = TrainingBackend::Product;
  constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;
  for (int i = 0; i < 5; ++i) {
    backend_.product(Product::kNT, x_.data(), x_.data(), gram_.data(), rows, rows, cols);
    backend_.product(Product::kNN, gram_.data(), gram_.data(), polynomial_.data(), rows, rows, rows);
    for (size_t j = 0; j < square; ++j) polynomial_[j] = kB * gram_[j] + kC * polynomial_[j];
    backend_.product(Product::kNN, polynomial_.data(), x_.data(), next_.data(), rows, cols, rows);
    for (size_t j = 0; j < size; ++j) x_[j] = kA * x_[j] + next_[j];
  }
  const float step = rate * 0.2f * std::sqrt(static_cast<float>(cols));
  for (int64_t r = 0; r < p.rows; ++r) {
    for (int64_t c = 0; c < p.cols; ++c) {
      float& value = w[static_cast<size_t>(r * p.cols + c)];
      value -= step * x_[static_cast<size_t>(wide ? r * cols + c : c * cols + r)] + rate * decay * value;
    }
  }
}

}  // namespace qnext
