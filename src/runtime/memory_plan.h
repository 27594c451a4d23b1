#pragma once
#include <cstdint>
#include <string>

#include "model/config.h"
#include "model/weights.h"
#include "tensor/dtype.h"

namespace qnext {

/// What a model will need, computed from its configuration before anything of that size is allocated. Bytes.
struct MemoryPlan {
  int64_t weights_mapped = 0;  ///< in mapped files: the page cache holds them, the system may drop them
  int64_t weights_owned = 0;   ///< converted at load (norm gains, taps, scales)
  int64_t batch_rows = 0;      ///< rows of a step: options.batch_rows, or chosen (EngineOptions)
  int64_t activations = 0;     ///< the arena for batch_rows rows, and their int8 forms
  int64_t kv_per_token = 0;    ///< attention keys and values of one token, all layers (and MTP)
  int64_t state_per_sequence = 0;  ///< recurrent and convolution state of one sequence, all layers
  int64_t context = 0;             ///< tokens of context the total counts
  int64_t sequences = 1;           ///< sequences the total counts

  int64_t per_sequence() const { return state_per_sequence + kv_per_token * context; }
  int64_t total() const { return weights_mapped + weights_owned + activations + sequences * per_sequence(); }
};

struct EngineOptions;
MemoryPlan plan_memory(const ModelConfig& config, const Weights& weights, const EngineOptions& options);
/// Throws Error when the plan exceeds `limit` bytes, with the plan's parts and what would make it fit.
void require_fits(const MemoryPlan& plan, int64_t limit_bytes);
/// Several lines for people: each part in binary units.
std::string describe(const MemoryPlan& plan);

/// Bytes this process may still take: the smaller of MemAvailable and the cgroup's limit.
int64_t available_memory_bytes();
/// Peak and present resident memory of this process, bytes.
int64_t peak_resident_bytes();
int64_t resident_bytes();

}  // namespace qnext
