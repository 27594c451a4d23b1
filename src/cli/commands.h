#pragma once
#include <CLI/CLI.hpp>
#include <functional>

namespace qnext::cli {

/// What the chosen subcommand does; returns the program's exit code.
using Action = std::function<int()>;

// Each adds one subcommand to `app`, and sets `action` when the command line chooses it.
void add_run_command(CLI::App& app, Action& action);
void add_logits_command(CLI::App& app, Action& action);
void add_perplexity_command(CLI::App& app, Action& action);
void add_tokenize_command(CLI::App& app, Action& action);
void add_inspect_command(CLI::App& app, Action& action);
void add_bench_command(CLI::App& app, Action& action);
void add_kld_command(CLI::App& app, Action& action);
void add_quantize_command(CLI::App& app, Action& action);
void add_imatrix_command(CLI::App& app, Action& action);
void add_synth_command(CLI::App& app, Action& action);
void add_data_command(CLI::App& app, Action& action);
void add_tokenizer_command(CLI::App& app, Action& action);
void add_lora_command(CLI::App& app, Action& action);
void add_train_command(CLI::App& app, Action& action);
void add_train_report_command(CLI::App& train, Action& action);  ///< a subcommand of train

}  // namespace qnext::cli
