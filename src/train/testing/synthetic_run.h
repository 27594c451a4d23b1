#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "train/report_types.h"
#include "train/sample_text.h"

namespace qnext {

/// Reports of a run that never happened, shaped like a real one: falling losses, a spike, an expert that starves.
/// The same step always has the same report.
class SyntheticRun {
 public:
  struct Shape {
    int64_t steps = 1000, layers = 4, experts = 16, chosen = 4, mtp_steps = 2;
    std::string hostile = "";  ///< goes into every text of the run
  };
  explicit SyntheticRun(Shape shape) : shape_(std::move(shape)) {}

  RunReport report() const;
  StepReport step(int64_t step) const;
  EvaluationReport evaluation(int64_t step) const;
  std::vector<SampleText> samples(int64_t step) const;

 private:
  Shape shape_;
};

}  // namespace qnext
