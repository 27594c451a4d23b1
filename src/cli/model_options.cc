#include "cli/model_options.h"

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "cli/terminal.h"
#include "runtime/model_files.h"

namespace qnext::cli {

namespace fs = std::filesystem;

void add_model_option(CLI::App& app, ModelOptions& options) {
  app.add_option("-m,--model", options.model,
                 "model directory (config.json, *.safetensors, tokenizer.json) or GGUF file (of several parts, any); "
                 "default: $QNEXT_MODEL or the bundled models/starter")
      ->type_name("PATH");
}

void add_lora_option(CLI::App& app, ModelOptions& options) {
  app.add_option("--lora", options.lora, "directory of a PEFT adapter, of qnext train or another program, to put on the model")
      ->type_name("DIR");
}

void add_kv_option(CLI::App& app, ModelOptions& options) {
  app.add_option("--kv", options.kv, "type of attention keys and values in memory")
      ->check(quiet(CLI::IsMember({"f32", "bf16", "q8"})))
      ->capture_default_str()
      ->type_name("{f32,bf16,q8}");
}

DType kv_dtype(const ModelOptions& options) {
  return options.kv == "f32" ? DType::kF32 : options.kv == "bf16" ? DType::kBF16 : DType::kQ8_0;
}

void add_engine_options(CLI::App& app, ModelOptions& options) {
  app.add_option("--threads", options.threads, "threads; default: one per CPU this process may use")
      ->check(quiet(CLI::Range(1, 4096)))
      ->type_name("N");
  add_kv_option(app, options);
  app.add_option("--activations", options.activations,
                 "what meets weights in blocks (Q4_K, ...): activations rounded to int8, or in f32 (slow, the yardstick)")
      ->check(quiet(CLI::IsMember({"int8", "f32"})))
      ->capture_default_str()
      ->type_name("{int8,f32}");
  app.add_option_function<std::string>(
         "--memory-limit",
         [&options](const std::string& text) {
           try {
             options.memory_limit_bytes = parse_size(text);
           } catch (const Error& error) {
             throw CLI::ValidationError("--memory-limit", error.what());
           }
         },
         "refuse to start when the model needs more, for example 12G; default: what is free")
      ->type_name("SIZE");
}

int64_t parse_size(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit(end);
  if (end != text.c_str() && std::isfinite(number) && number > 0) {
    if (unit.ends_with("iB")) {
      unit.resize(unit.size() - 2);
    } else if (unit.ends_with("B")) {
      unit.resize(unit.size() - 1);
    }
    static constexpr std::string_view kUnits = "KMGT";
    const size_t power = unit.empty() ? 0 : unit.size() == 1 ? kUnits.find(unit[0]) + 1 : 0;
    const double bytes = std::ldexp(number, static_cast<int>(10 * power));
    if ((unit.empty() || power > 0) && bytes >= 1 && bytes < 0x1p62) return static_cast<int64_t>(bytes);
  }
  throw Error(fmt::format("expected a size such as 512M or 12G, found {}", qnext::quoted(text)));
}

namespace {

bool is_model(const fs::path& directory) {
  std::error_code ignored;
  return fs::is_regular_file(directory / "config.json", ignored);
}

}  // namespace

fs::path find_model(const std::string& typed) {
  const char* variable = std::getenv("QNEXT_MODEL");
  const bool from_variable = typed.empty() && variable && *variable;
  if (!typed.empty() || from_variable) {
    const fs::path path = from_variable ? variable : typed;
    const std::string_view source = from_variable ? " (from QNEXT_MODEL)" : "";
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
      throw Error(fmt::format("{}{}: no such model directory or file", path.string(), source));
    }
    if (fs::is_directory(path, ignored) && !ModelFiles::holds_model(path)) {
      throw Error(
          fmt::format("{}{}: not a model directory: it has no config.json and no .gguf file", path.string(), source));
    }
    return path;
  }
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  for (const fs::path& start : {program.parent_path(), fs::current_path(ignored)}) {
    for (fs::path above = start; !above.empty(); above = above.parent_path()) {
      for (const char* place : {"models/starter", "share/qnext/models/starter"}) {
        if (is_model(above / place)) return above / place;
      }
      if (above == above.root_path()) break;
    }
  }
  throw Error(
      "no model: give --model DIR or set QNEXT_MODEL (models/starter was looked for above the program's and the "
      "current directory)");
}

EngineOptions engine_options_of(const ModelOptions& options) {
  EngineOptions engine;
  engine.threads = options.threads;
  engine.context = options.context;
  engine.kv_dtype = kv_dtype(options);
  engine.activations = options.activations == "f32" ? ActivationPrecision::kF32 : ActivationPrecision::kInt8;
  engine.memory_limit_bytes = options.memory_limit_bytes;
  engine.lora = options.lora;
  return engine;
}

std::unique_ptr<Engine> open_engine(const fs::path& model, const ModelOptions& options, const EngineNeeds& needs) {
  const ModelFiles files(model);
  const ModelConfig config = files.config();
  if (options.context > config.max_position_embeddings) {
    throw Error(fmt::format("--context {}: the model was made for {} tokens (max_position_embeddings of {})",
                            options.context, config.max_position_embeddings, files.config_file()));
  }
  EngineOptions engine = engine_options_of(options);
  const int64_t context = options.context > 0 ? options.context : config.max_position_embeddings;
  engine.planned_context = std::min(context, std::max(needs.tokens, engine.planned_context));
  if (options.context > 0) engine.planned_context = options.context;
  if (needs.batch_rows > 0) engine.batch_rows = needs.batch_rows;
  engine.mtp = needs.mtp;
  engine.mtp_if_present = needs.mtp_if_present;
  engine.wrap_backend = needs.wrap_backend;
  const Busy busy(fmt::format("opening {}", model.string()), !needs.quiet);
  return std::make_unique<Engine>(model, engine);
}

nlohmann::ordered_json memory_json(const MemoryPlan& plan) {
  return {{"peak_resident_bytes", peak_resident_bytes()},
          {"plan",
           {{"weights_mapped", plan.weights_mapped},
            {"weights_owned", plan.weights_owned},
            {"activations", plan.activations},
            {"kv_per_token", plan.kv_per_token},
            {"state_per_sequence", plan.state_per_sequence},
            {"context", plan.context},
            {"total", plan.total()}}}};
}

std::string read_input(const std::string& path) {
  if (path == "-") {
    std::ostringstream text;
    text << std::cin.rdbuf();
    return text.str();
  }
  constexpr size_t kMaxBytes = size_t{4} << 30;
  return read_text_file(path, kMaxBytes, Pipes::kAllowed);
}

}  // namespace qnext::cli
