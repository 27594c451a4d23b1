#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"
#include "model/weights.h"

namespace qnext {

/// Where a parameter lies in a ParameterArray.
struct ParameterInfo {
  std::string name;  ///< as for_each_parameter() gives it
  int64_t offset = 0, rows = 0, cols = 0;  ///< a vector is one row
  bool is_matrix = false;
  int64_t size() const { return rows * cols; }
};

/// The parameters of a model, or their gradients, or an optimiser's moments of them: one array of f32 in the order of
/// for_each_parameter(), each parameter on a cache line of its own (what lies between is zero), seen as Weights.
class ParameterArray {
 public:
  /// All zero. mtp: with the MTP module.
  ParameterArray(const ModelConfig& config, bool mtp, Backend& backend);

  const Weights& weights() const { return weights_; }
  std::span<float> values() const { return {buffer_.floats(), static_cast<size_t>(size_)}; }
  const std::vector<ParameterInfo>& parameters() const { return parameters_; }
  std::span<float> of(const ParameterInfo& p) const { return values().subspan(static_cast<size_t>(p.offset), static_cast<size_t>(p.size())); }
  /// Null when there is none of that name.
  const ParameterInfo* find(std::string_view name) const;
  /// Number of parameters, without the gaps.
  int64_t count() const;

  /// Copies every parameter of `from`, a model of the same shape in any dtypes, decoded. Throws Error when a parameter is
  /// missing in `from` (an MTP module that it lacks stays as it is).
  void copy_from(const Weights& from);

 private:
  Weights weights_;
  Buffer buffer_;
  int64_t size_ = 0;
  std::vector<ParameterInfo> parameters_;
};

/// Where the parameters of a model of that shape lie in its ParameterArray.
std::vector<ParameterInfo> parameter_list(const ModelConfig& config, bool mtp);

/// Weights of the config's shapes without data: every matrix and vector has its size and a null pointer.
Weights weights_of_shape(const ModelConfig& config, bool mtp);

}  // namespace qnext
