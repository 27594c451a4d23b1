#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "backend/training_backend.h"
#include "model/parameter_list.h"
#include "train/config.h"
#include "train/parameter_shares.h"

namespace qnext {

/// How a parameter is updated.
struct UpdateRule {
  bool muon = false;
  bool decays = false;
};
/// By its name: zero-centred norm weights decay as matrices do; A_log, dt_bias, conv1d and the gated norm's weight do not. Muon
/// is for hidden matrices: not embedding, head, router, nor the gates of a few rows (in_proj_ba, shared_expert_gate).
UpdateRule update_rule(const ParameterInfo& parameter, OptimizerKind kind);

/// AdamW, or Muon for hidden matrices and AdamW for the others. Owns the moments of this rank's share of the parameters.
class Optimizer {
 public:
  /// Of one rank, which updates everything.
  Optimizer(std::vector<ParameterInfo> parameters, const TrainConfig::Optimizer& options, TrainingBackend& backend);
  /// `parameters`: the list of what is to be updated.
  Optimizer(std::vector<ParameterInfo> parameters, ParameterShares shares, const TrainConfig::Optimizer& options,
            TrainingBackend& backend);

  /// One update of this rank's share, with gradients times gradient_scale. step counts from 1.
  void update(ParameterList& parameters, ParameterList& gradients, int64_t step, double factor, double gradient_scale);

  const ParameterShares& shares() const { return shares_; }
  /// Running means of the gradient (Muon: its momentum) and, of AdamW's parameters, its square; empty for a parameter of another
  /// rank.
  std::span<float> first_moment(size_t parameter) { return moment(m_, parameter); }
  std::span<float> second_moment(size_t parameter) { return moment(v_, parameter); }
  int64_t moment_bytes() const { return m_.bytes() + v_.bytes(); }
  bool has_second_moment(const ParameterInfo& parameter) const { return !update_rule(parameter, options_.kind).muon; }

 private:
  std::span<float> moment(const Buffer& buffer, size_t parameter) const;

  TrainConfig::Optimizer options_;
  TrainingBackend& backend_;
  std::vector<ParameterInfo> parameters_;
  ParameterShares shares_;
  std::vector<int64_t> moment_at_;  ///< per parameter, where its moments are; -1: at another rank
  Buffer m_, v_;                    ///< our runs one after the other, each as in a ParameterArray
  std::vector<UpdateRule> rules_;
};

}  // namespace qnext
