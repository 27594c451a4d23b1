// qnext lora: what is done with an adapter besides training and running it.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "convert/quantize.h"
#include "runtime/memory_plan.h"
#include "runtime/model_files.h"

namespace qnext::cli {
namespace {

constexpr const char* kExamples = R"(
W + scale * B A is computed in double for every matrix that the adapter is on, and stored in --dtype; everything else is what it
was. Tensors pass through one by one; OUT appears when it is complete. A GGUF base becomes a GGUF file: a directory needs the
config.json of the original. In fewer bits: qnext quantize BASE OUT --recipe R --lora ADAPTER.

Examples:
  qnext lora merge --base M --adapter RUN/step-00001000 --out merged
  qnext lora merge --base model.gguf --adapter RUN/step-00001000 --out merged.gguf)";

struct MergeCommand {
  std::string base, adapter, out, dtype;
  int threads = 0;
  bool json = false;
};

/// What the base stores its projections in, of those that can be written: f32, else bf16.
std::string dtype_of_base(const std::string& base) {
  const ModelFiles files(base);
  const Weights weights = bind_weights(files.config(), files.checkpoint());
  const DType dtype = std::visit([](const auto& mixer) { return mixer.out.dtype; }, weights.layers.front().mixer);
  return dtype == DType::kF32 ? "f32" : "bf16";
}

int merge(const MergeCommand& command) {
  if (std::filesystem::path(command.out).extension() != ".gguf" && ModelFiles(command.base).is_gguf()) {
    throw Error(fmt::format(
        "{}: a GGUF file has no config.json for a directory; give --out a name that ends in .gguf, or merge into "
        "the directory that it was made of",
        command.base));
  }
  const std::string dtype = command.dtype.empty() ? dtype_of_base(command.base) : command.dtype;
  const QuantizeOptions options{
      .recipe = find_recipe(dtype == "f32" ? "F32" : "BF16"), .lora = command.adapter, .threads = command.threads};
  Progress progress("merge", "weights");
  catch_interrupts();  // so that what was written is removed
  const QuantizeReport report = quantize(command.base, command.out, options, [&](int64_t done, int64_t total) {
    if (interrupted()) throw Error("interrupted");
    progress.update(done, total);
  });
  progress.finish();
  if (command.json) {
    fmt::print(
        "{}\n",
        nlohmann::ordered_json{{"dtype", dtype}, {"parameters", report.parameters}, {"file_bytes", report.file_bytes}}
            .dump());
  } else {
    fmt::print(stderr, "[{} written to {}, {} weights as {}; memory: {} at most]\n", format_bytes(report.file_bytes),
               command.out, format_large(report.parameters), dtype, format_bytes(peak_resident_bytes()));
  }
  return 0;
}

}  // namespace

void add_lora_command(CLI::App& app, Action& action) {
  CLI::App* lora = app.add_subcommand("lora", "adapters: merge one into its model");
  lora->require_subcommand(1);
  CLI::App* command = lora->add_subcommand("merge", "a model with an adapter added to its weights");
  const auto options = std::make_shared<MergeCommand>();
  command->add_option("--base", options->base, "model directory or .gguf file")->required()->type_name("PATH");
  command->add_option("--adapter", options->adapter, "directory of a PEFT adapter")->required()->type_name("DIR");
  command->add_option("--out", options->out, "directory or .gguf file to write")->required()->type_name("PATH");
  command->add_option("--dtype", options->dtype, "of matrices; default: f32 where the base has f32, else bf16")
      ->check(quiet(CLI::IsMember({"f32", "bf16"})))
      ->type_name("{f32,bf16}");
  command->add_option("--threads", options->threads, "threads; default: one per CPU this process may use")
      ->check(quiet(CLI::Range(1, 4096)))
      ->type_name("N");
  command->add_flag("--json", options->json, "print what was done as one JSON object");
  command->footer(kExamples);
  command->callback([options, &action] { action = [options] { return merge(*options); }; });
}

}  // namespace qnext::cli
