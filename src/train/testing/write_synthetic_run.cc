// Writes the files of a synthetic run: qnext_synthetic_run DIRECTORY STEPS [RESUME_AT] [HOSTILE_TEXT]
// With RESUME_AT > 0 the run is stopped there, three steps beyond its checkpoint, and resumed.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "train/metrics_log.h"
#include "train/tensorboard.h"
#include "train/testing/synthetic_run.h"

namespace {

void sit(const qnext::SyntheticRun& run, const std::filesystem::path& directory, int64_t first, int64_t last,
         bool finished) {
  const int64_t every = std::max<int64_t>(1, run.report().steps / 20);
  qnext::MetricsLog log(directory / "metrics.jsonl", first);
  qnext::TensorBoardWriter board(directory / "tensorboard", first);
  qnext::RunReport report = run.report();
  report.first_step = first;
  log.begin(report);
  board.begin(report);
  for (int64_t s = first + 1; s <= last; ++s) {
    log.step(run.step(s));
    board.step(run.step(s));
    if (s % every != 0) continue;
    log.evaluation(run.evaluation(s));
    board.evaluation(run.evaluation(s));
    log.samples(s, run.samples(s));
    board.samples(s, run.samples(s));
    log.checkpoint(s, directory / fmt::format("step-{:08}", s));
  }
  if (finished) log.end(true);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: {} DIRECTORY STEPS [RESUME_AT] [HOSTILE_TEXT]\n", argv[0]);
    return 2;
  }
  const int64_t steps = std::atoll(argv[2]), resume = argc > 3 ? std::atoll(argv[3]) : 0;
  const qnext::SyntheticRun run({.steps = steps, .layers = 8, .experts = 32, .hostile = argc > 4 ? argv[4] : ""});
  if (resume > 0) sit(run, argv[1], 0, resume + 3, false);
  sit(run, argv[1], resume, steps, true);
  return 0;
}
