// qnext imatrix: how much each input column of each matrix matters on a text, for qnext quantize.
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "convert/importance_recorder.h"
#include "runtime/model_files.h"

namespace qnext::cli {
namespace {

constexpr const char* kFooter = R"(
Reads the text in windows of --context tokens, each from an empty state, and writes for every matrix the sum of the squares
of each input column, for experts one by one, in the GGUF form of llama.cpp's imatrix tool. Some tens of thousands of tokens
of the kind of text the model is for are enough; for 512 experts take ten times as many. Experts that no token chose
are quantised without importance.

Examples:
  qnext imatrix --model M --file calibration.txt --output M.imatrix
  qnext quantize M M-q4s.gguf --recipe q4s --imatrix M.imatrix)";

struct ImatrixCommand {
  ModelOptions model;
  std::string file, output;
  int64_t window = 512, max_tokens = 0;
  bool json = false;
};

int imatrix(const ImatrixCommand& command) {
  const std::filesystem::path path = find_model(command.model.model);
  const Tokenizer tokenizer = ModelFiles(path).tokenizer();
  std::vector<int32_t> tokens = tokenizer.encode(read_input(command.file), SpecialTokens::kParse);
  if (command.max_tokens > 0 && static_cast<int64_t>(tokens.size()) > command.max_tokens) {
    tokens.resize(static_cast<size_t>(command.max_tokens));
  }
  const auto count = static_cast<int64_t>(tokens.size());
  if (count == 0) throw Error(fmt::format("{}: there are no tokens to read", command.file));

  ImportanceRecorder* recorder = nullptr;
  ModelOptions model = command.model;
  model.context = std::min(command.window, count);
  EngineNeeds needs{.tokens = model.context, .batch_rows = std::min<int64_t>(model.context, 512)};
  needs.mtp_if_present = true;
  needs.wrap_backend = [&recorder](std::unique_ptr<Backend> backend) {
    auto wrapped = std::make_unique<ImportanceRecorder>(std::move(backend));
    recorder = wrapped.get();
    return wrapped;
  };
  const std::unique_ptr<Engine> engine = open_engine(path, model, needs);
  const std::unique_ptr<Sequence> sequence = engine->create_sequence();
  const auto start = std::chrono::steady_clock::now();
  Progress progress("imatrix", "tokens");
  int64_t windows = 0;
  for (int64_t begin = 0; begin < count; begin += command.window, ++windows) {
    sequence->reset();
    const int64_t end = std::min(begin + command.window, count);
    for (int64_t first = begin; first < end; first += needs.batch_rows) {
      const int64_t rows = std::min(needs.batch_rows, end - first);
      const Feed feed{sequence.get(), std::span(tokens).subspan(first, rows), LogitRows::kNone};
      engine->step({&feed, 1});
      recorder->record(engine->weights().lm_head, engine->last_hidden());  // what the head would read
      if (const int64_t next = std::min(rows, end - 1 - first); engine->options().mtp && next > 0) {
        engine->mtp_step(*sequence, std::span(tokens).subspan(first + 1, next), engine->last_hidden().first(next));
      }
      progress.update(first + rows, count);
    }
  }
  progress.finish();
  const Importance importance = recorder->importance(engine->config(), engine->weights());
  importance.save(command.output, command.file, windows, command.window);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  int64_t experts = 0, unused = 0;
  for (const auto& [name, entry] : importance.entries) {
    if (name.find("_gate_exps") == std::string::npos) continue;
    experts += static_cast<int64_t>(entry.counts.size());
    unused += std::ranges::count(entry.counts, 0.0f);
  }
  if (command.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"output", command.output},
                                              {"tokens", count},
                                              {"windows", windows},
                                              {"tensors", importance.entries.size()},
                                              {"experts", experts},
                                              {"experts_not_reached", unused},
                                              {"seconds", seconds},
                                              {"memory", memory_json(engine->plan())}}
                           .dump());
  } else {
    fmt::print("{} matrices over {} tokens; {} of {} experts were not reached\n", importance.entries.size(),
               format_count(count), format_count(unused), format_count(experts));
    fmt::print(stderr, "[{}; memory: {} at most]\n", format_rate(count, seconds),
               format_bytes(peak_resident_bytes()));
  }
  return 0;
}

}  // namespace

void add_imatrix_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("imatrix", "measure which weights matter on a text, for quantize");
  const auto options = std::make_shared<ImatrixCommand>();
  add_model_option(*command, options->model);
  command->add_option("-f,--file", options->file, "text to read; - is standard input")->required()->type_name("FILE");
  command->add_option("-o,--output", options->output, "file to write")->required()->type_name("FILE");
  command->add_option("--context", options->window, "tokens per window")
      ->check(quiet(CLI::Range(int64_t{1}, int64_t{1} << 31)))
      ->capture_default_str()
      ->type_name("N");
  command->add_option("--max-tokens", options->max_tokens, "read only this many tokens of the text")
      ->check(quiet(CLI::PositiveNumber))
      ->type_name("N");
  command->add_flag("--json", options->json, "print what was done as one JSON object");
  add_engine_options(*command, options->model);
  command->footer(kFooter);
  command->callback([options, &action] { action = [options] { return imatrix(*options); }; });
}

}  // namespace qnext::cli
