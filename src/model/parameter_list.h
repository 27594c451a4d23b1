#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"

namespace qnext {

/// Where a parameter lies in a ParameterList.
struct ParameterInfo {
  std::string name;                        ///< as for_each_parameter() gives it, or of a LoRA: "MODULE.lora_A.weight"
  int64_t offset = 0, rows = 0, cols = 0;  ///< a vector is one row
  bool is_matrix = false;
  int64_t expert = -1;  ///< the number of the routed expert that it is of; -1: of none
  int64_t size() const { return rows * cols; }
};

/// The number of the routed expert that a parameter of this name is of; -1: of none.
int64_t expert_of(std::string_view name);

/// Adds a parameter behind the others, on a cache line of its own.
void append_parameter(std::vector<ParameterInfo>& list, std::string name, int64_t rows, int64_t cols, bool is_matrix);

/// What an optimiser trains, or the gradients of it, or its moments: named parameters in one array of f32, each on a
/// cache line of its own; what lies between is zero. Optimiser, clipping, checkpoints and shares of ranks know no
/// more than this.
class ParameterList {
 public:
  std::span<float> values() const { return {buffer_.floats(), static_cast<size_t>(size_)}; }
  const std::vector<ParameterInfo>& parameters() const { return parameters_; }
  std::span<float> of(const ParameterInfo& p) const {
    return values().subspan(static_cast<size_t>(p.offset), static_cast<size_t>(p.size()));
  }
  /// Null when there is none of that name.
  const ParameterInfo* find(std::string_view name) const;
  /// Number of parameters, without the gaps.
  int64_t count() const;

 protected:
  /// All zero. The list must not be empty.
  ParameterList(std::vector<ParameterInfo> parameters, Backend& backend);
  ~ParameterList() = default;
  ParameterList(ParameterList&&) = default;
  ParameterList& operator=(ParameterList&&) = default;

 private:
  std::vector<ParameterInfo> parameters_;
  int64_t size_ = 0;
  Buffer buffer_;
};

}  // namespace qnext
