#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "convert/importance.h"
#include "convert/recipe.h"
#include "model/weights.h"

namespace qnext {

struct QuantizeOptions {
  Recipe recipe;
  const Importance* importance = nullptr;
  /// A PEFT adapter that is added to the weights first, in double: out is the merged model. Empty: none.
  std::filesystem::path lora;
  int threads = 0;         ///< 0: one per CPU this process may use
  bool plan_only = false;  ///< report, and write nothing
};

/// What one role became.
struct RoleReport {
  Role role = Role::kSmall;
  DType dtype = DType::kF32;
  int64_t tensors = 0, parameters = 0, bytes = 0;
};

struct QuantizeReport {
  int64_t parameters = 0, bytes = 0;  ///< bytes of tensor data, without header and padding
  std::vector<RoleReport> roles;      ///< one for each pair of role and type
  std::vector<std::string> notes;     ///< types that did not fit, tensors without importance
  int64_t file_bytes = 0;             ///< 0 when nothing was written
  double bits_per_weight() const { return 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters); }
};

/// Writes the model `in` as `out` with the types of a recipe: a GGUF file where `out` ends in .gguf, else a new
/// directory in Hugging Face form (types F32, F16, BF16, and F8_E4M3 with scales of 128 x 128). Tensors are read,
/// encoded and appended a few million values at a time. `out` appears when it is complete, with the same bytes
/// whatever the number of threads. Rows whose type stays are copied, not encoded again. on_progress(parameters done,
/// of how many) comes from this thread; what it throws ends the work. Throws Error naming the tensor for a value that
/// is not finite.
QuantizeReport quantize(const std::filesystem::path& in, const std::filesystem::path& out,
                        const QuantizeOptions& options,
                        const std::function<void(int64_t done, int64_t total)>& on_progress);

}  // namespace qnext
