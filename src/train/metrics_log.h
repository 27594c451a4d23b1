#pragma once
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/observer.h"

namespace qnext {

/// The machine that a sitting of a run had.
struct Hardware {
  std::string cpu;  ///< model name; empty where the system does not tell
  int64_t cpus = 0;
  int64_t memory_bytes = 0;
};
Hardware this_machine();

// What metrics.jsonl holds, one struct per kind of line. Times are seconds since 1970.
struct RunRecord {
  RunReport report;
  Hardware hardware;
  double time = 0.0;
};
struct StepRecord {
  StepReport report;  ///< loads only on every kLoadsEvery-th step, and on the first and last of a run
  double time = 0.0;
  int64_t peak_memory_bytes = 0;  ///< of the process so far
};
struct EvaluationRecord {
  EvaluationReport report;
  double time = 0.0;
};
struct SamplesRecord {
  int64_t step = 0;
  std::vector<SampleText> samples;
};
struct CheckpointRecord {
  int64_t step = 0;
  std::string path;
};
struct EndRecord {
  int64_t step = 0;
  bool finished = false;
  double time = 0.0;
};

/// Appends what a run does to its metrics.jsonl: one JSON object per line, each in the kernel's hands before the call
/// returns, so that a killed run loses nothing but the line it was writing. Not thread-safe. Throws Error when the
/// disk is full.
class MetricsLog final : public TrainingObserver {
 public:
  static constexpr int64_t kLoadsEvery = 10;

  /// Goes on after step `first_step`: lines of later steps, and lines that a crash cut short, are dropped by writing
  /// the rest to a temporary file that then takes the name. 0 begins anew.
  MetricsLog(std::filesystem::path path, int64_t first_step);

  void begin(const RunReport& report) override;
  void step(const StepReport& report) override;
  void evaluation(const EvaluationReport& report) override;
  void samples(int64_t step, std::span<const SampleText> samples) override;
  void checkpoint(int64_t step, const std::filesystem::path& path) override;
  void end(bool finished) override;

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  void append(const nlohmann::json& line);

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  int64_t step_, last_step_ = 0;
};

/// A metrics file in memory; steps ascend.
struct Metrics {
  std::vector<RunRecord> runs;  ///< one per sitting
  std::vector<StepRecord> steps;
  std::vector<EvaluationRecord> evaluations;
  std::vector<SamplesRecord> samples;
  std::vector<CheckpointRecord> checkpoints;
  std::optional<EndRecord> end;  ///< of the latest sitting

  /// Adds one line. What it says of a step replaces what is there of this step and later ones, as a run that was
  /// repeated from a checkpoint has it. Lines of unknown kind are skipped: later versions may write more. Throws
  /// FileError with `place` ("FILE:LINE").
  void add(std::string_view line, const std::string& place);
};

/// Follows a metrics file that may still grow.
class MetricsReader {
 public:
  explicit MetricsReader(std::filesystem::path path) : path_(std::move(path)) {}
  /// Reads the lines that are new since the last call, or everything when the file was replaced. A last line without
  /// its end is left for the next call. True when anything changed. Throws Error when the file cannot be read.
  bool update();
  const Metrics& metrics() const { return metrics_; }

 private:
  std::filesystem::path path_;
  Metrics metrics_;
  uint64_t inode_ = 0, offset_ = 0, line_ = 0;
};

}  // namespace qnext
