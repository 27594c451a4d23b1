// qnext quantize: a model in other element types, as a GGUF file or a Hugging Face directory.
#include "convert/quantize.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "runtime/memory_plan.h"

namespace qnext::cli {
namespace {

constexpr const char* kExamples = R"(
A recipe may also be a type's name (Q4_K, BF16, ...) for every matrix. Norms, convolutions, decays and the router stay F32.
--type changes one role of it: experts-gate-up, experts-down, shared-expert, attention, deltanet, gates, embedding, head,
router, mtp-input. OUT ending in .gguf is a GGUF file, everything else a new directory with safetensors (F32, F16, BF16,
or F8_E4M3 with block scales). Nothing bears the name OUT before it is complete.

Examples:
  qnext quantize M model-q4s.gguf --recipe q4s --imatrix m.imatrix
  qnext quantize M model.gguf --recipe q4s --type head=Q8_0 --type experts-down=Q5_K
  qnext quantize M M-fp8 --recipe F8_E4M3
  qnext quantize M merged.gguf --recipe q4s --lora RUN/step-00001000
  qnext quantize M model.gguf --recipe q6 --dry-run      sizes only)";

struct QuantizeCommand {
  std::string in, out, recipe, imatrix, lora;
  std::vector<std::string> types;
  int threads = 0;
  bool dry_run = false, json = false;
};

std::string recipe_help() {
  std::string text = "\nRecipes:\n";
  for (const Recipe& recipe : recipes()) text += fmt::format("  {:<6} {}\n", recipe.name, recipe.description);
  return text;
}

nlohmann::ordered_json to_json(const QuantizeReport& report, const std::string& recipe) {
  nlohmann::ordered_json json{{"recipe", recipe},
                              {"parameters", report.parameters},
                              {"bytes", report.bytes},
                              {"file_bytes", report.file_bytes},
                              {"bits_per_weight", report.bits_per_weight()},
                              {"roles", nlohmann::ordered_json::array()},
                              {"notes", report.notes}};
  for (const RoleReport& role : report.roles) {
    json["roles"].push_back({{"role", role_name(role.role)},
                             {"type", dtype_name(role.dtype)},
                             {"tensors", role.tensors},
                             {"parameters", role.parameters},
                             {"bytes", role.bytes}});
  }
  return json;
}

int quantize_command(const QuantizeCommand& command) {
  Recipe recipe = find_recipe(command.recipe);
  for (const std::string& type : command.types) apply_override(recipe, type);
  std::optional<Importance> importance;
  if (!command.imatrix.empty()) importance = Importance::load(command.imatrix);
  const QuantizeOptions options{.recipe = recipe,
                                .importance = importance ? &*importance : nullptr,
                                .lora = command.lora,
                                .threads = command.threads,
                                .plan_only = command.dry_run};
  const auto start = std::chrono::steady_clock::now();
  Progress progress("quantize", "weights");
  catch_interrupts();  // so that what was written is removed
  const QuantizeReport report = quantize(command.in, command.out, options, [&](int64_t done, int64_t total) {
    if (interrupted()) throw Error("interrupted");
    progress.update(done, total);
  });
  progress.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (command.json) {
    nlohmann::ordered_json json = to_json(report, recipe.name);
    json["seconds"] = seconds;
    fmt::print("{}\n", json.dump());
    return 0;
  }
  for (const RoleReport& role : report.roles) {
    fmt::print("{:<16} {:<8} {:>6} tensors {:>12} weights {:>12}\n", role_name(role.role), dtype_name(role.dtype),
               format_count(role.tensors), format_large(role.parameters), format_bytes(role.bytes));
  }
  fmt::print("{:<16} {:.3f} bits per weight, {} weights, {}\n", "in all", report.bits_per_weight(),
             format_large(report.parameters), format_bytes(report.bytes));
  for (const std::string& note : report.notes) fmt::print(stderr, "note: {}\n", note);
  if (!command.dry_run) {
    fmt::print(stderr, "[{} written to {} in {:.1f} s, {} weights; memory: {} at most]\n",
               format_bytes(report.file_bytes), command.out, seconds, format_rate(report.parameters, seconds),
               format_bytes(peak_resident_bytes()));
  }
  return 0;
}

}  // namespace

void add_quantize_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("quantize", "store a model in fewer bits, as GGUF or safetensors");
  const auto options = std::make_shared<QuantizeCommand>();
  command->add_option("IN", options->in, "model directory or .gguf file")->required()->type_name("");
  command->add_option("OUT", options->out, ".gguf file or directory to write")->required()->type_name("");
  command->add_option("-r,--recipe", options->recipe, "how many bits for what: a recipe below or a type's name")
      ->required()
      ->type_name("R");
  command->add_option("--type", options->types, "another type for one role; may be repeated")->type_name("ROLE=TYPE");
  command->add_option("--imatrix", options->imatrix, "importance of input columns, from qnext imatrix or llama.cpp's")
      ->type_name("FILE");
  command->add_option("--lora", options->lora, "directory of a PEFT adapter that is added to the weights first")->type_name("DIR");
  command->add_option("--threads", options->threads, "threads; default: one per CPU this process may use")
      ->check(quiet(CLI::Range(1, 4096)))
      ->type_name("N");
  command->add_flag("--dry-run", options->dry_run, "print the sizes and write nothing");
  command->add_flag("--json", options->json, "print what was done as one JSON object");
  command->footer(recipe_help() + kExamples);
  command->callback([options, &action] { action = [options] { return quantize_command(*options); }; });
}

}  // namespace qnext::cli
