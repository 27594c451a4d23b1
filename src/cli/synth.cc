// qnext synth: checkpoints of random weights, for tests and benchmarks of shapes nobody wants to download.
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "convert/synth.h"

namespace qnext::cli {
namespace {

constexpr const char* kFooter = R"(
Writes a checkpoint that other programs load too, with random weights under which hidden states stay near unit size. The
output is a GGUF file when OUT ends in .gguf, otherwise a Hugging Face directory. Presets: 80b (the shapes of
Qwen3-Next-80B-A3B), small (12 layers, 0.4 B parameters), tiny (4 layers, 20 M).

Types: F32, F16, BF16 in either format; Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, IQ4_XS, MXFP4, Q2_K to Q6_K in GGUF; or Q4_K_M, the
mixture that llama.cpp's recipe of that name gives experts, head and embedding. Blocks of these types are random
bits under sane scales: right for measuring speed and for comparing programs, not the quantisation of any model.

Examples:
  qnext synth --preset tiny --type BF16 /tmp/tiny
  qnext synth --preset 80b --layers 8 --type Q4_K_M /tmp/80b-8.gguf     8.4 GB
  qnext synth --preset 80b --mtp --type Q8_0 --tokenizer M /data/80b.gguf)";

struct SynthCommand {
  std::string preset = "tiny", out;
  int64_t layers = 0;
  SynthOptions options;
  bool json = false;
};

int synth(SynthCommand command) {
  command.options.config = preset_config(command.preset, command.layers);
  Progress progress("writing", "MB", !command.json);
  const auto start = std::chrono::steady_clock::now();
  const SynthResult result = synthesize(command.out, command.options, [&](int64_t done, int64_t total) {
    progress.update(done / 1'000'000, total / 1'000'000);
  });
  progress.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (command.json) {
    const nlohmann::ordered_json report{{"output", command.out}, {"parameters", result.parameters}, {"bytes", result.bytes},
                                        {"tensors", result.tensors}, {"seconds", seconds},
                                        {"peak_resident_bytes", peak_resident_bytes()}};
    fmt::print("{}\n", report.dump());
  } else {
    fmt::print("{}: {} parameters in {} tensors, {}, {:.1f} s\n", command.out, format_large(result.parameters),
               format_count(result.tensors), format_bytes(result.bytes), seconds);
  }
  return 0;
}

}  // namespace

void add_synth_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("synth", "write a checkpoint of random weights with given shapes");
  const auto options = std::make_shared<SynthCommand>();
  command->add_option("out", options->out, "*.gguf, or a directory")->required()->type_name("OUT");
  command->add_option("--preset", options->preset, "80b, small or tiny")->capture_default_str()->type_name("NAME");
  command->add_option("--layers", options->layers, "layers, every fourth of them attention; default: the preset's")
      ->check(quiet(CLI::Range(int64_t{1}, int64_t{48})))->type_name("N");
  command->add_option("--type", options->options.type, "type of the matrices, or Q4_K_M")->capture_default_str()->type_name("TYPE");
  command->add_flag("--mtp", options->options.mtp, "with the multi-token prediction module");
  command->add_option("--seed", options->options.seed, "same seed, same file")->capture_default_str()->type_name("N");
  command->add_option("--tokenizer", options->options.tokenizer,
                      "directory whose tokenizer.json to take; default: a vocabulary of single bytes")->type_name("DIR");
  command->add_flag("--json", options->json, "print what was written as one JSON object");
  command->footer(kFooter);
  command->callback([options, &action] { action = [options] { return synth(*options); }; });
}

}  // namespace qnext::cli
