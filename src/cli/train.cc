// qnext train: a model trained as a run.toml says.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "backend/cpu/roof.h"
#include "backend/cpu/training_backend.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/share_cpus.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "distributed/connect.h"
#include "train/trainer.h"

namespace qnext::cli {
namespace {

constexpr const char* kExamples = R"(
The run goes on from the newest good checkpoint of its output directory, to the same bits as if it had never stopped: after
Ctrl-C (which writes one), --until-minutes, or a kill. Each checkpoint is a model directory that qnext run and transformers load.

Examples:
  qnext train --explain > run.toml       every key, documented
  qnext train --config run.toml
  qnext train --config run.toml --until-minutes 45
  mpirun -n 2 qnext train --config run.toml       two processes share the work, one writes
  qnext run --model RUN/step-00001000 "Once"      look at a checkpoint)";

struct TrainCommand {
  std::string config;
  double until_minutes = 0;
  bool explain = false, quiet = false;
};

std::string format_duration(double seconds) {
  const auto s = static_cast<int64_t>(std::max(0.0, seconds));
  if (s >= 3600) return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
  return s >= 60 ? fmt::format("{} min {:02} s", s / 60, s % 60) : fmt::format("{} s", s);
}

std::string mtp_text(const std::vector<double>& loss, const std::vector<double>& acceptance) {
  std::string text;
  for (size_t d = 0; d < loss.size(); ++d) text += fmt::format("{}{:.4f} ({:.0f} % accepted)", d > 0 ? ", " : ", mtp ", loss[d], 100 * acceptance[d]);
  return text;
}

/// A line about the latest step, rewritten on a terminal, elsewhere a new one every few seconds; lines for what stays.
class ProgressLines final : public TrainingObserver {
 public:
  void begin(const RunReport& run) override {
    run_ = run;
    fmt::print(stderr, "{} parameters, {} active; {} steps of {} tokens; {}{} threads, {:.1f} GFLOP/s at best\n", format_large(run.parameters),
               format_large(run.active_parameters), format_count(run.steps), format_count(run.batch_tokens),
               run.ranks > 1 ? fmt::format("{} processes of ", run.ranks) : "", run.threads, run.peak_flops / 1e9);
  }
  void step(const StepReport& report) override {
    seconds_ += report.seconds;
    ++steps_;
    const auto now = Clock::now();
    const bool due = report.step == run_.first_step + 1 || report.step == run_.steps;
    if (!due && now - last_ < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000))) return;
    last_ = now;
    const double left = seconds_ / static_cast<double>(steps_) * static_cast<double>(run_.steps - report.step);
    erase();
    fmt::print(stderr, "step {} of {}: loss {:.4f}{}, balance {:.5f}, gradient {:.3g}, {:.0f} tokens/s, {:.1f} GFLOP/s ({:.0f} %), {} left{}",
               format_count(report.step), format_count(run_.steps), report.loss, mtp_text(report.mtp_loss, report.mtp_acceptance),
               report.balance_loss, report.gradient_norm, report.tokens_per_second(), report.flops_per_second() / 1e9,
               run_.peak_flops > 0 ? 100 * report.flops_per_second() / run_.peak_flops : 0.0, format_duration(left), terminal_ ? "" : "\n");
    shown_ = terminal_;
    std::fflush(stderr);
  }
  void evaluation(const EvaluationReport& report) override {
    erase();
    fmt::print(stderr, "step {}: validation loss {:.4f}{} over {} tokens{}\n", format_count(report.step), report.loss,
               mtp_text(report.mtp_loss, report.mtp_acceptance), format_count(report.tokens), report.best ? ", the best so far" : "");
  }
  void checkpoint(int64_t, const std::filesystem::path& path) override {
    erase();
    fmt::print(stderr, "checkpoint: {}\n", path.string());
  }
  void end(bool finished) override {
    if (terminal_ && shown_) fmt::print(stderr, "\n");
    fmt::print(stderr, "{}", finished ? "done\n" : "stopped; the same command goes on from the checkpoint\n");
  }

 private:
  using Clock = std::chrono::steady_clock;
  void erase() {
    if (shown_) fmt::print(stderr, "\r\x1b[K");
    shown_ = false;
  }
  RunReport run_;
  bool terminal_ = isatty(STDERR_FILENO) == 1, shown_ = false;
  double seconds_ = 0;
  int64_t steps_ = 0;
  Clock::time_point last_{};
};

int train(const TrainCommand& command, Communicator& communicator) {
  const bool speaks = communicator.rank() == 0;
  const auto start = std::chrono::steady_clock::now();
  const TrainConfig config = load_train_config(command.config);
  const int threads = config.run.threads > 0 ? static_cast<int>(config.run.threads) : static_cast<int>(allowed_cpus().size());
  const Isa isa = chosen_isa();
  RunReport run{.config_text = config.text, .steps = config.optimizer.steps, .batch_tokens = config.data.batch_tokens, .threads = threads};
  // All ranks at once, as they will compute.
  run.peak_flops = command.quiet ? 0.0 : measure_roof(threads, isa).f32_flops_per_second * communicator.size();
  const auto backend = make_cpu_training_backend(threads, isa);
  Trainer trainer(config, *backend, communicator, [&](const std::string& line) {
    if (speaks) fmt::print(stderr, "note: {}\n", line);
  });
  run.parameters = trainer.parameters().total;
  run.active_parameters = trainer.parameters().active;
  run.first_step = trainer.step_count();
  run.ranks = communicator.size();

  ProgressLines lines;
  std::vector<TrainingObserver*> observers;
  if (!command.quiet && speaks) observers.push_back(&lines);
  if (!command.quiet && speaks && !trainer.resumed_from().empty()) fmt::print(stderr, "goes on from {}\n", trainer.resumed_from().string());
  for (TrainingObserver* observer : observers) observer->begin(run);
  catch_interrupts();
  const auto stop = [&] {
    const double minutes = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 60;
    return interrupted() || (command.until_minutes > 0 && minutes >= command.until_minutes);
  };
  const bool finished = run_training(trainer, observers, stop);
  if (speaks && !trainer.last_checkpoint().empty()) fmt::print("{}\n", trainer.last_checkpoint().string());
  return finished || !interrupted() ? 0 : 130;
}

int train_with_others(const TrainCommand& command) {
  if (command.explain) {
    fmt::print("{}", explain_train_config());
    return 0;
  }
  const auto communicator = connect();
  if (communicator->size() == 1) return train(command, *communicator);
  const auto share = communicator->cpu_share();
  if (share.count > 1) share_cpus(share.index, share.count);
  try {
    return train(command, *communicator);
  } catch (const std::exception& error) {
    // What is wrong for all of them, rank 0 says once.
    if (communicator->rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    std::fflush(stdout);
    fmt::print(stderr, "qnext: error: rank {} of {}: {}\n", communicator->rank(), communicator->size(), error.what());
    communicator->abort();
    return 1;
  }
}

}  // namespace

void add_train_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("train", "train a model, or go on training it");
  const auto options = std::make_shared<TrainCommand>();
  CLI::Option* config = command->add_option("-c,--config", options->config, "what to train on what, and how: a TOML file")->type_name("FILE");
  CLI::Option* explain = command->add_flag("--explain", options->explain, "print every key of the TOML file with its meaning");
  command->add_option("--until-minutes", options->until_minutes, "stop with a checkpoint after so long")
      ->check(quiet(CLI::Range(0.0, 1e6)))
      ->type_name("M");
  command->add_flag("-q,--quiet", options->quiet, "no progress on stderr");
  config->excludes(explain);
  command->footer(kExamples);
  command->callback([options, &action] {
    if (options->config.empty() && !options->explain) throw CLI::RequiredError("--config");
    action = [options] { return train_with_others(*options); };
  });
}

}  // namespace qnext::cli
