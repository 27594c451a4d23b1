// qnext train: a model trained as a run.toml says.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "backend/cpu/roof.h"
#include "backend/cpu/training_backend.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/share_cpus.h"
#include "chat/prompt.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "distributed/connect.h"
#include "runtime/engine.h"
#include "runtime/generate.h"
#include "runtime/sequence_model.h"
#include "train/metrics_log.h"
#include "train/progress.h"
#include "train/tensorboard.h"
#include "train/trainer.h"

namespace qnext::cli {
namespace {

constexpr const char* kExamples = R"(
The run goes on from the newest good checkpoint of its output directory, to the same bits as if it had never stopped: after
Ctrl-C (which writes one), --until-minutes, or a kill. Each checkpoint is a model directory that qnext run and transformers load,
or with [lora] an adapter that PEFT and qnext run --lora load.

Examples:
  qnext train --explain > run.toml       every key, documented
  qnext train --config run.toml
  qnext train --config run.toml --until-minutes 45
  mpirun -n 2 qnext train --config run.toml       two processes share the work, one writes
  qnext run --model RUN/step-00001000 "Once"      look at a checkpoint
  qnext run --model BASE --lora RUN/step-00001000 "Once")";

struct TrainCommand {
  std::string config;
  double until_minutes = 0;
  bool explain = false, quiet = false;
};

/// Opens the checkpoints of evaluations and has them write on from the prompts, so that people see how far the model is.
class Samples final : public TrainingObserver {
 public:
  Samples(const TrainConfig& config, std::span<TrainingObserver* const> readers) : config_(config), readers_(readers.begin(), readers.end()) {}

  void evaluation(const EvaluationReport& report) override { evaluated_ = report.step; }
  void checkpoint(int64_t step, const std::filesystem::path& path) override {
    if (step != evaluated_ || config_.evaluation.prompts.empty()) return;
    const bool lora = config_.lora.rank > 0;
    Engine engine(lora ? config_.model.from : path,
                  {.threads = static_cast<int>(config_.run.threads), .lora = lora ? path : std::filesystem::path()});
    const Tokenizer tokenizer = load_tokenizer(config_.model.tokenizer);
    const bool chat = std::filesystem::exists(path / "chat_template.jinja");
    SequenceModel model(engine);
    Timeline timeline(model);
    GenerateOptions options{.max_tokens = config_.evaluation.sample_tokens, .stop_ids = engine.config().eos_token_ids};
    std::vector<SampleText> samples;
    for (const std::string& prompt : config_.evaluation.prompts) {
      std::vector<int32_t> tokens = tokenizer.encode(prompt, SpecialTokens::kPlain);
      if (chat) {
        const ChatFormat format = ChatFormat::load(path);
        const nlohmann::ordered_json messages = {{{"role", "user"}, {"content", prompt}}};
        tokens = encode_prompt(tokenizer, render_prompt(format, tokenizer, messages, nullptr, true, nlohmann::ordered_json::object()));
        if (const auto end = tokenizer.token_id("<|im_end|>")) options.stop_ids.push_back(*end);
      }
      timeline.reset();
      Sampler sampler({.temperature = 0.0}, sampleable_ids(tokenizer));
      samples.push_back({prompt, generate(timeline, tokenizer, tokens, sampler, options).text});
    }
    for (TrainingObserver* reader : readers_) reader->samples(step, samples);
  }

 private:
  const TrainConfig& config_;
  std::vector<TrainingObserver*> readers_;
  int64_t evaluated_ = -1;
};

int train(const TrainCommand& command, Communicator& communicator) {
  const bool speaks = communicator.rank() == 0;
  const auto start = std::chrono::steady_clock::now();
  TrainConfig config = load_train_config(command.config);
  const int threads = config.run.threads > 0 ? static_cast<int>(config.run.threads) : static_cast<int>(allowed_cpus().size());
  const Isa isa = chosen_isa();
  const Bf16 unit = config.run.products == ProductsChoice::kF32 ? Bf16::kNone : chosen_bf16();
  const bool bf16 = config.run.products == ProductsChoice::kBf16 || unit != Bf16::kNone;
  const Products products = bf16 ? chosen_bf16_products() : Products::kF32;
  config.values["run.products"] = products_name(products);
  RunReport run{.config_text = config.text, .steps = config.optimizer.steps, .batch_tokens = config.data.batch_tokens, .threads = threads};
  // All ranks at once, as they will compute.
  const auto peak = [&] { return unit == Bf16::kNone ? measure_roof(threads, isa).f32_flops_per_second : measure_bf16_flops(threads, unit); };
  run.peak_flops = command.quiet ? 0.0 : peak() * communicator.size();
  run.products = products_name(products);
  const auto backend = make_cpu_training_backend(threads, isa, products);
  Trainer trainer(config, *backend, communicator, [&](const std::string& line) {
    if (speaks) fmt::print(stderr, "note: {}\n", line);
  });
  run.parameters = trainer.parameters().total;
  run.active_parameters = trainer.parameters().active;
  run.first_step = trainer.step_count();
  run.ranks = communicator.size();
  run.memory = trainer.memory();

  ProgressLines lines;
  std::optional<MetricsLog> metrics;
  std::optional<TensorBoardWriter> tensorboard;
  std::optional<Samples> samples;
  std::vector<TrainingObserver*> observers;
  if (speaks) {
    observers = {&metrics.emplace(config.run.output / "metrics.jsonl", run.first_step),
                 &tensorboard.emplace(config.run.output / "tensorboard", run.first_step)};
    if (!command.quiet) observers.push_back(&lines);
    observers.push_back(&samples.emplace(config, observers));
  }
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
    if (communicator->rank() != 0) std::this_thread::sleep_for(std::chrono::seconds(3));
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
  command->require_subcommand(0, 1);
  add_train_report_command(*command, action);
  command->callback([command, options, &action] {
    if (!command->get_subcommands().empty()) return;
    if (options->config.empty() && !options->explain) throw CLI::RequiredError("--config");
    action = [options] { return train_with_others(*options); };
  });
}

}  // namespace qnext::cli
