#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/roof.h"
#include "backend/profiling_backend.h"
#include "runtime/engine.h"

namespace qnext {

/// How the machine is held to account: a figure is the median over groups of steps between two probes of the delivered CPU.
struct GateOptions {
  double least_delivered = 0.9;  ///< groups with less at either end are dropped
  double probe_seconds = 0.06;   ///< 0: no gate, every group counts
  int groups = 5;                ///< groups wanted
  double seconds = 20;           ///< after this long (and at least one group) the case ends with what it has
};

/// One measured case. When no group passed the gate it is the fastest of all, and `kept` is 0.
struct Measurement {
  double seconds = 0;     ///< of one step (decode), of the whole prompt (prefill)
  double delivered = 0;   ///< median delivered CPU of the probes
  int kept = 0, dropped = 0;
  OperationProfile work;  ///< bytes and FLOPs of that step or prompt; its seconds and calls are those of all groups
  Profile profile;        ///< by operation, of all groups
  int64_t profiled_steps = 0;
};

struct PrefillCase {
  int64_t tokens = 512;
  Measurement measured;
};
struct DecodeCase {
  int64_t context = 0, batch = 1;
  Measurement measured;
};

/// An engine under measurement. Its operations are watched by a profiling backend.
class Benchmark {
 public:
  /// Opens the model with `options` (whose wrap_backend it sets) and reads one token: the time to the first logits.
  Benchmark(const std::filesystem::path& model, EngineOptions options, const GateOptions& gate);

  double open_seconds() const { return open_seconds_; }
  double first_token_seconds() const { return first_token_seconds_; }  ///< from before opening
  Engine& engine() { return *engine_; }

  /// Reads prompts of `tokens` tokens from the start, the head for the last one alone. A group is one step (batch_rows
  /// tokens); the result is the sum over the prompt's steps of their medians.
  Measurement prefill(int64_t tokens);
  static constexpr int64_t kDecodeSteps = 8;
  /// Decodes `batch` sequences that each hold `context` tokens; a group is kDecodeSteps steps (fewer where a step takes long),
  /// and begins at `context` again. Beyond
  /// the first 512 tokens the keys and values of a context are copies of those that were computed: the cost of attention
  /// does not depend on what they are.
  Measurement decode(int64_t context, int64_t batch);

 private:
  /// Runs `group` until enough groups passed or time is up; seconds per step of each.
  Measurement measure(const std::function<double()>& group);
  void fill(Sequence& sequence, int64_t context);
  std::vector<int32_t> tokens(int64_t count);

  GateOptions gate_;
  std::shared_ptr<Profile> profile_ = std::make_shared<Profile>();
  std::unique_ptr<Engine> engine_;
  double open_seconds_ = 0, first_token_seconds_ = 0;
  uint64_t next_token_ = 0;
};

/// Names the matrices of `weights` for Profile::labels, by what they do and the kind of their layer.
void label_matrices(const Weights& weights, Profile& profile);

/// Peak resident memory of this process, and what is resident now of mapped files and of anonymous memory. Bytes.
struct MemoryUse {
  int64_t peak = 0, file = 0, anonymous = 0;
};
MemoryUse memory_use();
/// From now on `peak` counts anew.
void forget_peak_memory();

}  // namespace qnext
