#include "convert/recipe.h"

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/error.h"

namespace qnext {

namespace {

constexpr std::string_view kRoleNames[kRoles] = {"experts-gate-up", "experts-down", "shared-expert", "attention",
                                                 "deltanet",        "gates",        "embedding",     "head",
                                                 "router",          "mtp-input",    "small"};

/// Experts' gate and up, their down, everything that every token uses, the embedding table; the rest is the same in
/// all.
Recipe preset(std::string name, std::string description, DType gate_up, DType down, DType always, DType embedding) {
  Recipe recipe{std::move(name), std::move(description), {}};
  recipe.types.fill(always);
  recipe[Role::kExpertsGateUp] = gate_up;
  recipe[Role::kExpertsDown] = down;
  recipe[Role::kEmbedding] = embedding;
  recipe[Role::kGates] = DType::kBF16;
  recipe[Role::kRouter] = DType::kF32;
  recipe[Role::kSmall] = DType::kF32;
  return recipe;
}

std::string upper(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return result;
}

}  // namespace

std::string_view role_name(Role role) { return kRoleNames[static_cast<size_t>(role)]; }

Role role_of(const StoredTensor& tensor) {
  const std::string_view name = tensor.rows.front().parameter;
  const auto has = [name](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (tensor.shape.size() == 1 || has("conv1d")) return Role::kSmall;
  if (has(".experts.")) return has("down_proj") ? Role::kExpertsDown : Role::kExpertsGateUp;
  if (has("shared_expert_gate")) return Role::kSmall;
  if (has("in_proj_ba")) return Role::kGates;
  if (has("linear_attn.")) return Role::kDeltaNet;
  if (has("self_attn.")) return Role::kAttention;
  if (has("mlp.gate.")) return Role::kRouter;
  if (has("mlp.")) return Role::kSharedExpert;
  if (has("embed_tokens")) return Role::kEmbedding;
  if (has("lm_head")) return Role::kHead;
  QNEXT_CHECK(has("mtp.fc"), "a tensor without a role: {}", tensor.name);
  return Role::kMtpInput;
}

std::span<const Recipe> recipes() {
  static const std::vector<Recipe> presets = {
      preset("q4xs", "experts IQ4_XS, the rest Q6_K", DType::kIQ4_XS, DType::kIQ4_XS, DType::kQ6_K, DType::kQ6_K),
      preset("q4s", "experts IQ4_XS, their down Q4_K, the rest Q6_K", DType::kIQ4_XS, DType::kQ4_K, DType::kQ6_K,
             DType::kQ6_K),
      preset("q5", "experts Q4_K, their down Q5_K, the rest Q6_K", DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
             DType::kQ6_K),
      preset("q6", "experts Q5_K, their down Q6_K, the rest Q8_0", DType::kQ5_K, DType::kQ6_K, DType::kQ8_0,
             DType::kQ8_0),
      preset("q8", "every matrix Q8_0", DType::kQ8_0, DType::kQ8_0, DType::kQ8_0, DType::kQ8_0),
  };
  return presets;
}

Recipe find_recipe(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Recipe& recipe : recipes()) {
    if (recipe.name == name) return recipe;
    names.push_back(recipe.name);
  }
  if (const auto type = dtype_from_name(upper(name))) {
    Recipe recipe =
        preset(std::string(name), fmt::format("every matrix {}", dtype_name(*type)), *type, *type, *type, *type);
    if (!is_block_type(*type)) recipe[Role::kGates] = *type == DType::kF8E4M3 ? DType::kBF16 : *type;
    return recipe;
  }
  throw Error(fmt::format("recipe: expected {} or an element type, found {}", fmt::join(names, ", "), quoted(name)));
}

void apply_override(Recipe& recipe, std::string_view assignment) {
  const size_t equals = assignment.find('=');
  const auto role = std::ranges::find(kRoleNames, assignment.substr(0, equals));
  const auto type =
      equals == std::string_view::npos ? std::nullopt : dtype_from_name(upper(assignment.substr(equals + 1)));
  if (role == std::end(kRoleNames) || !type) {
    std::vector<std::string_view> types;
    for (const DType dtype : kAllDTypes) types.push_back(dtype_name(dtype));
    throw Error(fmt::format("expected ROLE=TYPE with one of the roles {} and of the types {}, found {}",
                            fmt::join(kRoleNames, ", "), fmt::join(types, ", "), quoted(assignment)));
  }
  recipe.types[static_cast<size_t>(role - std::begin(kRoleNames))] = *type;
  if (!recipe.name.ends_with('*')) recipe.name += '*';
}

DType type_that_fits(DType wanted, int64_t cols) {
  if (cols % block_elements(wanted) == 0) return wanted;
  if (cols % 32 != 0) return DType::kBF16;
  switch (wanted) {
    case DType::kQ4_K:
      return DType::kQ4_1;
    case DType::kQ5_K:
      return DType::kQ5_1;
    case DType::kQ6_K:
      return DType::kQ8_0;
    default:
      return DType::kIQ4_NL;  // Q2_K, Q3_K, IQ4_XS
  }
}

}  // namespace qnext
