#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "model/stored_tensors.h"
#include "tensor/dtype.h"

namespace qnext {

/// What a tensor does in the model, as far as its precision is concerned. Those of the MTP layer have the same roles.
enum class Role : uint8_t {
  kExpertsGateUp,
  kExpertsDown,
  kSharedExpert,  ///< and dense layers' MLPs
  kAttention,     ///< q, k, v, o
  kDeltaNet,      ///< q, k, v, z, out
  kGates,         ///< DeltaNet's b and a: few rows that decide what the state keeps
  kEmbedding,
  kHead,
  kRouter,
  kMtpInput,  ///< the projection that joins embedding and hidden state
  kSmall,     ///< norms, convolution, decay: kept as F32
};
inline constexpr int kRoles = 11;

/// "experts-gate-up", "experts-down", "shared-expert", "attention", "deltanet", "gates", "embedding", "head",
/// "router", "mtp-input", "small".
std::string_view role_name(Role role);

/// The role of a tensor of either list of model/stored_tensors.h.
Role role_of(const StoredTensor& tensor);

/// Element types by role.
struct Recipe {
  std::string name, description;
  std::array<DType, kRoles> types;

  DType& operator[](Role role) { return types[static_cast<size_t>(role)]; }
  DType operator[](Role role) const { return types[static_cast<size_t>(role)]; }
};

/// The presets, fewest bits first.
std::span<const Recipe> recipes();
/// A preset by name, or a type's name for a recipe that stores every matrix as that. Throws Error.
Recipe find_recipe(std::string_view name);
/// Changes a recipe by "ROLE=TYPE". Throws Error that lists what there is.
void apply_override(Recipe& recipe, std::string_view assignment);

/// `wanted`, or where its blocks do not divide a row of `cols` the nearest type in blocks of 32 that has no more
/// error, or BF16.
DType type_that_fits(DType wanted, int64_t cols);

}  // namespace qnext
