// qnext: the command line. Each subcommand has a file of its own; this one parses, runs and reports errors.
#include <fmt/format.h>

#include <clocale>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "base/error.h"
#include "cli/commands.h"

#ifndef QNEXT_VERSION
#define QNEXT_VERSION "unknown"
#endif

namespace {

constexpr int kExitError = 1, kExitUsage = 2;

constexpr const char* kFooter = R"(
Examples:
  qnext run "The lighthouse stood"                    continue a text with the bundled model
  qnext run --chat                                    converse; /help lists what you can do
  qnext run --chat --single-turn --json "Hello" | jq  one answer, for a program to read
  qnext inspect models/starter                        what a model is and what it needs
  qnext SUBCOMMAND --help                             every option, with examples

Environment:
  QNEXT_MODEL   model directory when --model is not given
  QNEXT_ISA     force an instruction set: scalar, avx2, avx512 or amx

Exit status: 0 success, 1 the request or a file is wrong, 2 the command line is wrong.)";

int fail(const char* message) {
  std::fflush(stdout);
  fmt::print(stderr, "qnext: error: {}\n", message);
  return kExitError;
}

}  // namespace

int main(int argc, char** argv) {
  std::setlocale(LC_CTYPE, "");
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond a file size limit becomes an error with a name, as on a full disk
  using namespace qnext::cli;
  CLI::App app{"Qwen3-Next language models on this machine: run, measure and inspect them.", "qnext"};
  app.set_version_flag("--version", "qnext " QNEXT_VERSION);
  app.require_subcommand(1);
  app.footer(kFooter);
  app.get_formatter()->column_width(34);
  Action action;
  add_run_command(app, action);
  add_logits_command(app, action);
  add_perplexity_command(app, action);
  add_tokenize_command(app, action);
  add_inspect_command(app, action);
  add_bench_command(app, action);
  add_kld_command(app, action);
  add_quantize_command(app, action);
  add_imatrix_command(app, action);
  add_synth_command(app, action);
  add_data_command(app, action);
  add_tokenizer_command(app, action);
  add_train_command(app, action);
  add_lora_command(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    const std::string command = chosen.empty() ? "qnext" : "qnext " + chosen.front()->get_name();
    fmt::print(stderr, "qnext: error: {}\nRun '{} --help' for usage.\n", error.what(), command);
    return kExitUsage;
  }
  try {
    return action();
  } catch (const qnext::Error& error) {
    return fail(error.what());
  } catch (const std::bad_alloc&) {
    return fail("not enough memory");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}
