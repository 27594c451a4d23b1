// qnext bench: how fast a model runs here, beside what the machine could do at best in the same minutes.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "runtime/benchmark.h"

namespace qnext::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFooter = R"(
Measures the time to the first token from opening the model, reading prompts of each --prompt length, and decoding at each
--context for each --batch (number of sequences). Beside every figure stands its bound: the larger of the bytes that must
come from memory (weights of the experts really chosen, keys and values, states) over the read bandwidth, and of the
arithmetic over the peak of the instruction set; both rates are measured in the same run, with the same pinned
threads. `of bound` is bound over time.

Virtual machines lose CPUs for milliseconds without a trace. Every group of steps therefore stands between two probes, pinned
threads that spin and look at the clock; groups with less than 90 % of the CPU delivered at either end are dropped, and the
figure is the median of the rest ("kept"). When none passes, the fastest of all is shown with a star.

Contexts above 512 tokens are not read: their keys and values are copies of computed ones, which costs attention the same.

Examples:
  qnext bench --model M
  qnext bench --model M --prompt 512,4096 --context 0,32768 --batch 1,8 --chunk 4096
  qnext bench --model M --profile        where the time goes, by operation
  qnext bench --model M --json > run.json)";

struct BenchOptions {
  ModelOptions model;
  std::vector<int64_t> prompts{512, 2048}, contexts{0, 4096}, batches{1};
  int64_t chunk = 0;
  GateOptions gate;
  bool json = false, profile = false;
};

struct Figures {
  double per_second, bound_seconds, of_bound;
};
/// `tokens` in measured.seconds.
Figures figures(const Measurement& m, int64_t tokens, const Roof& roof) {
  const double bound = std::max(static_cast<double>(m.work.bytes) / roof.read_bytes_per_second,
                                static_cast<double>(m.work.flops) / roof.peak_ops_per_second());
  return {static_cast<double>(tokens) / m.seconds, bound, bound / m.seconds};
}

Json measurement_json(const Measurement& m, int64_t tokens, const Roof& roof) {
  const Figures f = figures(m, tokens, roof);
  return {{"seconds", m.seconds}, {"tokens_per_second", f.per_second}, {"bytes", m.work.bytes}, {"flops", m.work.flops},
          {"bound_seconds", f.bound_seconds}, {"of_bound", f.of_bound}, {"groups_kept", m.kept}, {"groups_dropped", m.dropped},
          {"delivered_cpu", m.delivered}};
}

Json profile_json(const Measurement& m, const Roof& roof) {
  Json list = Json::array();
  for (const auto& [name, op] : m.profile.operations) {
    const double n = static_cast<double>(m.profiled_steps);
    const double bound = std::max(static_cast<double>(op.bytes) / roof.read_bytes_per_second,
                                  static_cast<double>(op.flops) / roof.peak_ops_per_second());
    list.push_back({{"operation", name}, {"calls", static_cast<double>(op.calls) / n}, {"seconds", op.seconds / n},
                    {"bytes", static_cast<double>(op.bytes) / n}, {"flops", static_cast<double>(op.flops) / n},
                    {"of_bound", bound / op.seconds}});
  }
  return list;
}

void print_case(const std::string& what, const Measurement& m, int64_t tokens, const Roof& roof) {
  const Figures f = figures(m, tokens, roof);
  fmt::print("{:<28} {:>10.1f}{} {:>10.2f} {:>10.2f} {:>6.0f} % {:>5} of {}\n", what, f.per_second, m.kept == 0 ? '*' : ' ',
             m.seconds * 1e3, f.bound_seconds * 1e3, f.of_bound * 100, m.kept, m.kept + m.dropped);
  std::fflush(stdout);
}

/// Per step (decode) or prompt: where the time goes, longest first.
void print_profile(const Measurement& m, const Roof& roof) {
  std::vector<std::pair<std::string, OperationProfile>> sorted(m.profile.operations.begin(), m.profile.operations.end());
  std::ranges::sort(sorted, [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  const double n = static_cast<double>(m.profiled_steps), all = m.profile.total().seconds;
  for (const auto& [name, op] : sorted) {
    const auto bytes = static_cast<double>(op.bytes), flops = static_cast<double>(op.flops);
    const double bound = std::max(bytes / roof.read_bytes_per_second, flops / roof.peak_ops_per_second());
    fmt::print("    {:<26} {:>9.3f} ms {:>5.1f} % {:>8.1f} calls {:>9.2f} MB {:>9.3f} GFLOP {:>6.1f} GB/s {:>7.1f} GFLOP/s {:>5.0f} % of bound\n",
               name, op.seconds / n * 1e3, op.seconds / all * 100, static_cast<double>(op.calls) / n, bytes / n / 1e6,
               flops / n / 1e9, bytes / op.seconds / 1e9, flops / op.seconds / 1e9, bound / op.seconds * 100);
  }
}

int bench(const BenchOptions& options) {
  const std::filesystem::path path = find_model(options.model.model);
  int64_t most = 1, most_batch = 1;
  for (const int64_t n : options.prompts) most = std::max(most, n);
  for (const int64_t n : options.batches) most_batch = std::max(most_batch, n);
  for (const int64_t n : options.contexts) most = std::max(most, n + Benchmark::kDecodeSteps);
  EngineOptions engine_options = engine_options_of(options.model);
  engine_options.planned_context = most;
  engine_options.batch_rows = options.chunk > 0 ? std::max(options.chunk, most_batch) : 0;
  const MemoryUse before = memory_use();
  Benchmark benchmark(path, engine_options, options.gate);
  const Engine& engine = benchmark.engine();
  const int threads = engine.options().threads;
  if (most > engine.options().context) {
    throw Error(fmt::format("{} tokens of context are needed, but the model was made for {}", most, engine.options().context));
  }
  const MemoryUse opened = memory_use();
  const Roof roof = measure_roof(threads, *engine.options().isa);
  forget_peak_memory();  // of measuring the roof; that of opening is in `opened`
  if (!options.json) {
    fmt::print("{}, {}, chunks of {} tokens\n", path.string(), engine.backend_name(), engine.options().batch_rows);
    fmt::print("roof: {:.1f} GB/s read, {:.0f} GFLOP/s f32, {:.0f} GOP/s int8\n", roof.read_bytes_per_second / 1e9,
               roof.f32_flops_per_second / 1e9, roof.int8_ops_per_second / 1e9);
    fmt::print("load: {:.2f} s to open, {:.2f} s to the first token\n", benchmark.open_seconds(), benchmark.first_token_seconds());
    fmt::print("{:<28} {:>11} {:>10} {:>10} {:>8} {:>10}\n", "", "tokens/s", "ms", "bound ms", "of bound", "kept");
  }
  Json report{{"model", path.string()}, {"backend", engine.backend_name()}, {"isa", isa_name(*engine.options().isa)},
              {"threads", threads}, {"chunk", engine.options().batch_rows}, {"kv", options.model.kv},
              {"roof", {{"read_bytes_per_second", roof.read_bytes_per_second}, {"f32_flops_per_second", roof.f32_flops_per_second},
                        {"int8_ops_per_second", roof.int8_ops_per_second}}},
              {"open_seconds", benchmark.open_seconds()}, {"first_token_seconds", benchmark.first_token_seconds()}};
  report["prefill"] = report["decode"] = Json::array();
  bool any_ungated = false;
  const auto add = [&](const char* list, Json entry, const std::string& what, const Measurement& m, int64_t tokens) {
    any_ungated |= m.kept == 0;
    entry.update(measurement_json(m, tokens, roof));
    if (options.profile) entry["profile"] = profile_json(m, roof);
    report[list].push_back(std::move(entry));
    if (options.json) return;
    print_case(what, m, tokens, roof);
    if (options.profile) print_profile(m, roof);
  };
  for (const int64_t tokens : options.prompts) {
    add("prefill", {{"tokens", tokens}}, fmt::format("prompt of {}", format_count(tokens)), benchmark.prefill(tokens), tokens);
  }
  for (const int64_t batch : options.batches) {
    for (const int64_t context : options.contexts) {
      const std::string what = fmt::format("decode at {}{}", format_count(context), batch > 1 ? fmt::format(", {} together", batch) : "");
      add("decode", {{"context", context}, {"batch", batch}}, what, benchmark.decode(context, batch), batch);
    }
  }
  MemoryUse after = memory_use();
  after.peak = std::max(after.peak, opened.peak);
  report["memory"] = {{"peak_bytes", after.peak}, {"file_bytes", after.file}, {"anonymous_bytes", after.anonymous},
                      {"anonymous_bytes_opened", opened.anonymous - before.anonymous}, {"model_file_bytes", engine.plan().weights_mapped}};
  if (options.json) {
    fmt::print("{}\n", report.dump());
  } else {
    fmt::print("memory: {} at most; now {} of mapped files and {} of its own\n", format_bytes(after.peak), format_bytes(after.file),
               format_bytes(after.anonymous));
    if (any_ungated) {
      fmt::print("* no group had {:.0f} % of the CPU delivered: the machine is busy; these are the fastest groups\n",
                 options.gate.least_delivered * 100);
    }
  }
  return 0;
}

}  // namespace

void add_bench_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("bench", "how fast a model runs here, and how close to the machine's limits");
  const auto options = std::make_shared<BenchOptions>();
  add_model_option(*command, options->model);
  add_lora_option(*command, options->model);
  const auto list = [&](const char* name, std::vector<int64_t>& values, const char* help, int64_t least) {
    command->add_option(name, values, help)->delimiter(',')->check(quiet(CLI::Range(least, int64_t{1} << 30)))
        ->capture_default_str()->type_name("N,...");
  };
  list("--prompt", options->prompts, "prompt lengths", 1);
  list("--context", options->contexts, "tokens already in the context when decoding", 0);
  list("--batch", options->batches, "sequences decoded together", 1);
  command->add_option("--chunk", options->chunk, "most tokens of a prompt per step; default: as many as memory has room for")
      ->check(quiet(CLI::PositiveNumber))->type_name("N");
  command->add_option("--groups", options->gate.groups, "groups wanted per figure")->check(quiet(CLI::PositiveNumber))
      ->capture_default_str()->type_name("N");
  command->add_option("--seconds", options->gate.seconds, "at most about this long per figure")->capture_default_str()->type_name("S");
  command->add_option("--probe", options->gate.probe_seconds, "length of a probe of the delivered CPU; 0: no gate")
      ->capture_default_str()->type_name("S");
  command->add_flag("--profile", options->profile, "also time, bytes and FLOPs of every operation");
  command->add_flag("--json", options->json, "print one JSON object");
  add_engine_options(*command, options->model);
  command->footer(kFooter);
  command->callback([options, &action] { action = [options] { return bench(*options); }; });
}

}  // namespace qnext::cli
