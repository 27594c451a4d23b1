#pragma once
#include <filesystem>
#include <span>

#include "train/report_types.h"
#include "train/sample_text.h"

namespace qnext {

/// Is told what a run does: progress lines, metrics files. Every function may throw Error, which stops the run.
class TrainingObserver {
 public:
  virtual ~TrainingObserver() = default;
  virtual void begin(const RunReport&) {}
  virtual void step(const StepReport&) {}
  virtual void evaluation(const EvaluationReport&) {}
  /// What the model of that step writes.
  virtual void samples(int64_t /*step*/, std::span<const SampleText>) {}
  /// A checkpoint that is complete, after the step it is of.
  virtual void checkpoint(int64_t /*step*/, const std::filesystem::path&) {}
  /// finished: all steps are done; else the run was asked to stop.
  virtual void end(bool /*finished*/) {}
};

}  // namespace qnext
