#pragma once
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/parameter_list.h"
#include "model/stored_tensors.h"
#include "model/weights.h"

namespace qnext {

/// A matrix that LoRA can be put on, as the Hugging Face checkpoint has it, and the matrices of Weights that are its
/// rows.
struct LoraModule {
  std::string name;  ///< of the tensor without ".weight": "model.layers.3.self_attn.q_proj"
  int64_t rows = 0, cols = 0;
  struct Part {
    std::string parameter;                                 ///< as for_each_parameter() names it
    int64_t offset = 0, block = 0, stride = 0, count = 0;  ///< as Matrix::select_rows has them
  };
  std::vector<Part> parts;
};

/// All matrices of the main model but the embedding, in the order of hugging_face_tensors(): projections, every MLP
/// and expert, routers, shared experts' gates, the head unless it is the embedding. The MTP module, which PEFT does
/// not know, has none.
std::vector<LoraModule> lora_modules(const ModelConfig& config, const StoredParts& parts);

/// Whether an entry of PEFT's target_modules means the module: it is its name, or what follows a dot in it to the
/// end.
bool lora_target_matches(std::string_view target, std::string_view module);

/// A module with an addition of some rank.
struct LoraSpec {
  LoraModule module;
  int64_t rank = 0;
  double scale = 1.0;  ///< alpha / rank
};

/// Low-rank additions to some matrices of a model, or their gradients: for each module a [rank, cols] and b [rows,
/// rank], named "MODULE.lora_A.weight" and "MODULE.lora_B.weight". Stays where it is once attached.
class LoraArray : public ParameterList {
 public:
  /// All zero. At least one module.
  LoraArray(std::vector<LoraSpec> specs, Backend& backend);

  const std::vector<LoraSpec>& specs() const { return specs_; }
  std::span<float> a(size_t module) const { return of(parameters()[2 * module]); }
  std::span<float> b(size_t module) const { return of(parameters()[2 * module + 1]); }

  /// Sets low_rank of the modules' matrices, which then point here: the weights must not outlive this. The weights
  /// are of the config that the modules are of, from any format; or gradients, whose matrices may be empty.
  void attach(Weights& weights) const;

 private:
  std::vector<LoraSpec> specs_;
  std::deque<LowRank> low_rank_;  ///< of every part of every module
};

}  // namespace qnext
