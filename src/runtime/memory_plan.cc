#include "runtime/memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <sstream>

#include "backend/cpu/quant_kernels.h"
#include "base/error.h"
#include "model/model.h"
#include "runtime/engine.h"

namespace qnext {

namespace {

/// Bytes for the int8 forms of a row's activations, which meet weights of block types: the widest input of a product, and the
/// hidden features of its experts. Each once for every form (a scale per 256 columns, per 32) that the weights need.
int64_t rounded_bytes_per_row(const ModelConfig& config, const Weights& weights) {
  bool per_256 = false, per_32 = false;
  for_each_parameter(weights, {[&](const std::string&, const Matrix& m) {
                                 if (is_block_type(m.dtype)) (scale_group(m.dtype) == 32 ? per_32 : per_256) = true;
                               },
                               [](const std::string&, const Vector&) {}});
  const auto units = [](int64_t cols) { return (cols + kUnitCols - 1) / kUnitCols; };
  const int64_t widest = std::max({2 * config.hidden_size, config.linear_value_width(), config.attention_width(),
                                   config.intermediate_size, config.shared_expert_intermediate_size});
  return static_cast<int64_t>(sizeof(QuantUnit)) * (int64_t{per_256} + int64_t{per_32}) *
         (units(widest) + config.num_experts_per_tok * units(config.moe_intermediate_size));
}

}  // namespace

MemoryPlan plan_memory(const ModelConfig& config, const Weights& weights, const EngineOptions& options) {
  const StateLayout layout(config, options.kv_dtype, options.mtp);
  MemoryPlan plan;
  plan.weights_mapped = weights.checkpoint ? weights.checkpoint->file_bytes() : 0;
  for (const auto& bytes : weights.owned_bytes) plan.weights_owned += static_cast<int64_t>(bytes.size());
  for (const auto& floats : weights.owned_floats) {
    plan.weights_owned += static_cast<int64_t>(floats.size() * sizeof(float));
  }
  plan.kv_per_token = layout.kv_block_bytes / kBlockTokens;
  plan.state_per_sequence = layout.recurrent_floats * static_cast<int64_t>(sizeof(float));
  const int64_t context = options.context > 0 ? options.context : config.max_position_embeddings;
  plan.context = std::min(context, options.planned_context);
  const int64_t rounded_bytes = rounded_bytes_per_row(config, weights);
  const auto take_rows = [&](int64_t rows) {
    plan.batch_rows = rows;
    plan.activations = Activations::bytes(config, rows) + rows * rounded_bytes;
  };
  if (options.batch_rows > 0) {
    take_rows(options.batch_rows);
    return plan;
  }
  // Half of what is free after everything else, at most: other programs and further sequences need some too.
  const int64_t limit = options.memory_limit_bytes > 0 ? options.memory_limit_bytes : available_memory_bytes();
  const int64_t free = limit - plan.total(), useful = (context + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  int64_t rows = 4096;
  do {
    take_rows(std::min(rows, useful));
    rows /= 2;
  } while (rows >= 256 && plan.activations > free / 2);
  return plan;
}

namespace {
std::string binary_units(int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes >= 1LL << 30) return fmt::format("{:.2f} GiB", value / (1LL << 30));
  if (bytes >= 1LL << 20) return fmt::format("{:.1f} MiB", value / (1LL << 20));
  return fmt::format("{:.1f} KiB", value / (1LL << 10));
}

/// The number after `key` in a "Key:   N kB" file, as bytes; -1 when it is not there.
int64_t kib_field(const char* file, std::string_view key) {
  std::ifstream in(file);
  std::string line;
  while (std::getline(in, line)) {
    if (line.starts_with(key)) return std::atoll(line.c_str() + key.size()) * 1024;
  }
  return -1;
}

/// The number a cgroup file holds; max when there is none ("max", or no such file).
int64_t cgroup_bytes(const char* file) {
  std::ifstream in(file);
  int64_t value = 0;
  return in >> value ? value : std::numeric_limits<int64_t>::max();
}
}  // namespace

std::string describe(const MemoryPlan& plan) {
  std::ostringstream out;
  const auto line = [&](std::string_view name, int64_t bytes, std::string_view note) {
    out << fmt::format("  {:<28} {:>12}  {}\n", name, binary_units(bytes), note);
  };
  line("weights, mapped", plan.weights_mapped, "in the page cache; the system may drop and re-read them");
  line("weights, converted", plan.weights_owned, "");
  line("activations", plan.activations, fmt::format("steps of at most {} tokens", plan.batch_rows));
  line("state per sequence", plan.state_per_sequence, "recurrent and convolution, whatever the context");
  line("keys and values per token", plan.kv_per_token, "");
  line("  at this context", plan.kv_per_token * plan.context, fmt::format("{} tokens", plan.context));
  line("total", plan.total(), fmt::format("{} sequence{}", plan.sequences, plan.sequences == 1 ? "" : "s"));
  return out.str();
}

void require_fits(const MemoryPlan& plan, int64_t limit_bytes) {
  if (plan.total() <= limit_bytes) return;
  throw Error(fmt::format("not enough memory: expected at most {}, the plan needs {}\n{}"
                          "a smaller context or batch, bf16 keys and values, or a higher memory limit would let it start",
                          binary_units(limit_bytes), binary_units(plan.total()), describe(plan)));
}

int64_t available_memory_bytes() {
  int64_t available = kib_field("/proc/meminfo", "MemAvailable:");
  if (available < 0) available = std::numeric_limits<int64_t>::max();
  const int64_t limit = cgroup_bytes("/sys/fs/cgroup/memory.max");
  if (limit != std::numeric_limits<int64_t>::max()) {
    available = std::min(available, limit - std::min(limit, cgroup_bytes("/sys/fs/cgroup/memory.current")));
  }
  return available;
}

int64_t peak_resident_bytes() { return std::max<int64_t>(0, kib_field("/proc/self/status", "VmHWM:")); }
int64_t resident_bytes() { return std::max<int64_t>(0, kib_field("/proc/self/status", "VmRSS:")); }

}  // namespace qnext
