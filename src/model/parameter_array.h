#pragma once
#include <vector>

#include "model/config.h"
#include "model/parameter_list.h"
#include "model/weights.h"

namespace qnext {

/// Routed experts of every layer: [first, end).
struct ExpertRange {
  int64_t first = 0, end = INT64_MAX;
};

/// The parameters of a model, or their gradients: a list in the order of for_each_parameter(), seen as Weights.
class ParameterArray : public ParameterList {
 public:
  /// All zero. mtp: with the MTP module. Of the routed experts those in `experts`.
  ParameterArray(const ModelConfig& config, bool mtp, Backend& backend, ExpertRange experts = {});

  const Weights& weights() const { return weights_; }

  /// Copies every parameter of `from`, a model of the same shape in any dtypes, decoded. Throws Error when a parameter is
  /// missing in `from` (an MTP module that it lacks stays as it is).
  void copy_from(const Weights& from);

 private:
  Weights weights_;
};

/// Where the parameters of a model of that shape lie in its ParameterArray.
std::vector<ParameterInfo> parameter_list(const ModelConfig& config, bool mtp, ExpertRange experts = {});

/// Weights of the config's shapes without data: every matrix and vector has its size and a null pointer.
Weights weights_of_shape(const ModelConfig& config, bool mtp, ExpertRange experts = {});
/// The same for for_each_parameter(), which takes equal pointers for a tied head: one of its own has another pointer, to nothing.
Weights skeleton_of(const ModelConfig& config, bool mtp, ExpertRange experts = {});

}  // namespace qnext
