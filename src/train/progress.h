#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>

#include "train/observer.h"

namespace qnext {

/// "1 h 05 min", "12 min 30 s", "45 s"; "-" for what is not known (negative or not finite).
std::string format_duration(double seconds);

/// One line about a step, ASCII, of at most `width` characters: the less important is left out first, the loss never.
std::string progress_line(const StepReport& report, const RunReport& run, double seconds_left, int width);

/// Shows a run on a terminal as one line that rewrites itself, elsewhere (no control characters) as a line every few
/// seconds; evaluations and checkpoints stay as lines of their own. Not thread-safe.
class ProgressLines final : public TrainingObserver {
 public:
  explicit ProgressLines(std::FILE* out = stderr);

  void begin(const RunReport& report) override;
  void step(const StepReport& report) override;
  void evaluation(const EvaluationReport& report) override;
  void checkpoint(int64_t step, const std::filesystem::path& path) override;
  void end(bool finished) override;

 private:
  using Clock = std::chrono::steady_clock;
  void erase();
  void line(const std::string& text);
  int width() const;

  std::FILE* out_;
  bool terminal_, shown_ = false;
  RunReport run_;
  Clock::time_point last_{}, previous_{};
  double seconds_per_step_ = 0.0;  ///< wall time, evaluations and checkpoints among it; recent steps count more
  int64_t steps_ = 0;
};

}  // namespace qnext
