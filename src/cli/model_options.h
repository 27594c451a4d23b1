#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "runtime/engine.h"

namespace qnext::cli {

/// The options that every subcommand which opens a model shares.
struct ModelOptions {
  std::string model;  ///< as typed; empty: the default model
  int64_t context = 0;
  int threads = 0;
  std::string kv = "f32";
  std::string activations = "int8";
  int64_t memory_limit_bytes = 0;
  std::string lora;  ///< an adapter's directory; empty: none
};

/// A validator that keeps quiet in --help, where it would clutter the type.
inline CLI::Validator quiet(CLI::Validator validator) { return validator.description(""); }

/// --model only.
void add_model_option(CLI::App& app, ModelOptions& options);
/// --lora only.
void add_lora_option(CLI::App& app, ModelOptions& options);
/// --kv only.
void add_kv_option(CLI::App& app, ModelOptions& options);
/// The element type that --kv names.
DType kv_dtype(const ModelOptions& options);
/// --threads, --kv, --activations and --memory-limit.
void add_engine_options(CLI::App& app, ModelOptions& options);

/// The model, a directory or a GGUF file: `typed`, or QNEXT_MODEL, or models/starter beside the program or in a directory above it or
/// the current one. Throws Error that says where it looked.
std::filesystem::path find_model(const std::string& typed);

/// "10M", "1.5G", "512MiB": binary units; a plain number is bytes. Throws Error.
int64_t parse_size(const std::string& text);

/// What a subcommand asks of the engine beyond ModelOptions.
struct EngineNeeds {
  int64_t tokens = 0;      ///< tokens of context it will certainly use, so that memory is checked for them beforehand
  int64_t batch_rows = 0;  ///< 0: the engine's default
  bool mtp = false;
  bool quiet = false;  ///< say nothing on stderr
  bool mtp_if_present = false;
  decltype(EngineOptions::wrap_backend) wrap_backend = {};
};

/// What the shared options say; the rest as EngineOptions has it.
EngineOptions engine_options_of(const ModelOptions& options);

/// Opens the model. Throws Error when options.context is more than the model was made for.
std::unique_ptr<Engine> open_engine(const std::filesystem::path& model, const ModelOptions& options,
                                    const EngineNeeds& needs);

/// For --json: peak memory and the plan, bytes.
nlohmann::ordered_json memory_json(const MemoryPlan& plan);

/// A file's or stdin's ("-") whole text. Throws Error.
std::string read_input(const std::string& path);

}  // namespace qnext::cli
