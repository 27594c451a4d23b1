// qnext kld: what quantisation (or any other change) does to a model's predictions.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "runtime/divergence.h"
#include "runtime/model_files.h"

namespace qnext::cli {
namespace {

constexpr const char* kFooter = R"(
Both models read the text in windows of --context tokens, each from an empty state. At every position the Kullback-Leibler
divergence KL(base || model) of their distributions of the next token is taken, in nats: its mean is what is lost by
using the one for the other. `same top` is the share of positions where both find the same token likeliest. The tokenizer
is the base's; both must have the same vocabulary.

Examples:
  qnext kld --base M --model M-q4.gguf --file book.txt
  qnext kld --base M --model M-q4.gguf --file book.txt --max-tokens 20000 --json)";

struct KldOptions {
  ModelOptions base, model;
  std::string file;
  int64_t window = 2048, max_tokens = 0;
  bool json = false;
};

int kld(const KldOptions& options) {
  const std::filesystem::path base_path = find_model(options.base.model), model_path = find_model(options.model.model);
  const Tokenizer tokenizer = ModelFiles(base_path).tokenizer();
  std::vector<int32_t> tokens = tokenizer.encode(read_input(options.file), SpecialTokens::kPlain);
  if (options.max_tokens > 0 && static_cast<int64_t>(tokens.size()) > options.max_tokens) tokens.resize(options.max_tokens);
  const auto count = static_cast<int64_t>(tokens.size());
  if (count < 2) throw Error(fmt::format("{}: at least 2 tokens are needed, found {}", options.file, count));
  const int64_t window = std::min(options.window, count);

  // Two models at once: pieces of which both hold the logits, at most 128 MiB of them each.
  constexpr int64_t kLogitBytes = 128 << 20;
  const auto open = [&](const std::filesystem::path& path, int64_t piece) {
    ModelOptions model = options.model;
    model.context = window;
    return open_engine(path, model, {.tokens = window, .batch_rows = piece});
  };
  constexpr int64_t kMostRows = 512;
  const std::unique_ptr<Engine> base = open(base_path, std::min(window, kMostRows));
  const int64_t vocab_size = base->config().vocab_size;
  const int64_t piece = std::clamp<int64_t>(kLogitBytes / (vocab_size * static_cast<int64_t>(sizeof(float))), 1, base->options().batch_rows);
  const std::unique_ptr<Engine> model = open(model_path, piece);
  if (model->config().vocab_size != vocab_size) {
    throw FileError(model_path.string(), "vocab_size", fmt::format("{}, as the base has", vocab_size), fmt::to_string(model->config().vocab_size));
  }
  const std::unique_ptr<Sequence> base_sequence = base->create_sequence(), model_sequence = model->create_sequence();
  Divergence divergence;
  Progress progress("kld", "tokens");
  for (int64_t begin = 0; begin < count; begin += window) {
    const int64_t size = std::min(window, count - begin);
    base_sequence->reset();
    model_sequence->reset();
    for (int64_t done = 0; done < size; done += piece) {
      const int64_t rows = std::min(piece, size - done);
      const auto fed = std::span(tokens).subspan(begin + done, rows);
      const Feed of_base{base_sequence.get(), fed, LogitRows::kAll}, of_model{model_sequence.get(), fed, LogitRows::kAll};
      const std::span<const float> p = base->step({&of_base, 1}), q = model->step({&of_model, 1});
      for (int64_t row = 0; row < rows; ++row) {
        const bool last = done + row + 1 == size;  // what follows is another window's
        divergence.add(p.subspan(row * vocab_size, vocab_size), q.subspan(row * vocab_size, vocab_size),
                       last ? -1 : tokens[begin + done + row + 1]);
      }
      progress.update(begin + done + rows, count);
    }
  }
  progress.finish();
  const Divergence::Result r = divergence.result();
  if (options.json) {
    const nlohmann::ordered_json report{
        {"base", base_path.string()}, {"model", model_path.string()}, {"file", options.file}, {"window", window},
        {"positions", r.positions},
        {"kld", {{"mean", r.mean}, {"standard_error", r.standard_error}, {"median", r.median}, {"percentile_99", r.percentile_99}, {"max", r.max}}},
        {"same_top", r.same_top}, {"perplexity_base", r.perplexity_base}, {"perplexity_model", r.perplexity_model},
        {"base_bytes", base->plan().weights_mapped}, {"model_bytes", model->plan().weights_mapped},
        {"peak_resident_bytes", peak_resident_bytes()}};
    fmt::print("{}\n", report.dump());
    return 0;
  }
  fmt::print("KL divergence   mean {:.6f} +- {:.6f}, median {:.6f}, 99 % {:.6f}, max {:.6f} nats\n", r.mean, r.standard_error, r.median,
             r.percentile_99, r.max);
  fmt::print("same top        {:.3f} %\n", r.same_top * 100);
  fmt::print("perplexity      {:.4f} of the base, {:.4f} of the model\n", r.perplexity_base, r.perplexity_model);
  fmt::print("positions       {} in windows of {}\n", format_count(r.positions), format_count(window));
  return 0;
}

}  // namespace

void add_kld_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("kld", "how far a quantised model's predictions are from the original's");
  const auto options = std::make_shared<KldOptions>();
  command->add_option("--base", options->base.model, "the original")->required()->type_name("MODEL");
  command->add_option("-m,--model", options->model.model, "the model to judge")->required()->type_name("MODEL");
  command->add_option("-f,--file", options->file, "text to read; - is standard input")->required()->type_name("FILE");
  command->add_option("--context", options->window, "tokens per window")->check(quiet(CLI::Range(int64_t{2}, int64_t{1} << 30)))
      ->capture_default_str()->type_name("N");
  command->add_option("--max-tokens", options->max_tokens, "read only this many tokens of the text")
      ->check(quiet(CLI::Range(int64_t{2}, int64_t{1} << 40)))->type_name("N");
  command->add_flag("--json", options->json, "print one JSON object");
  add_engine_options(*command, options->model);
  command->footer(kFooter);
  command->callback([options, &action] { action = [options] { return kld(*options); }; });
}

}  // namespace qnext::cli
