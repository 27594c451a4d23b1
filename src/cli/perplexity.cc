// qnext perplexity: how well a model predicts a text.
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "runtime/model_files.h"

namespace qnext::cli {
namespace {

constexpr const char* kFooter = R"(
The text is cut into windows of --context tokens that do not overlap (the stride is the window). Each window is read from
an empty state, and every token but the window's first is scored given the tokens before it in the window. Reported are
the mean negative log-likelihood per scored token (nats), its exponential (perplexity), and bits per byte of the scored
tokens' text, which can be compared between models with different tokenizers. Special tokens in the text are plain text.

Examples:
  qnext perplexity --file book.txt
  qnext perplexity --model M --file book.txt --context 32768 --json)";

struct PerplexityOptions {
  ModelOptions model;
  std::string file;
  int64_t window = 2048;
  int64_t max_tokens = 0;
  bool json = false;
};

/// -log softmax(logits)[target], in float64.
double negative_log_likelihood(std::span<const float> logits, int32_t target) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum) - logits[target];
}

struct Score {
  double nats = 0;
  int64_t tokens = 0, bytes = 0, windows = 0;
};

int perplexity(const PerplexityOptions& options) {
  const std::filesystem::path path = find_model(options.model.model);
  const Tokenizer tokenizer = ModelFiles(path).tokenizer();
  std::vector<int32_t> tokens = tokenizer.encode(read_input(options.file), SpecialTokens::kPlain);
  if (options.max_tokens > 0 && static_cast<int64_t>(tokens.size()) > options.max_tokens)
    tokens.resize(options.max_tokens);
  const auto count = static_cast<int64_t>(tokens.size());
  if (count < 2) throw Error(fmt::format("{}: at least 2 tokens are needed, found {}", options.file, count));
  const int64_t window = std::min(options.window, count);

  ModelOptions model = options.model;
  model.context = window;
  const std::unique_ptr<Engine> engine = open_engine(path, model, {.tokens = window});
  const int64_t vocab_size = engine->config().vocab_size;
  const std::unique_ptr<Sequence> sequence = engine->create_sequence();
  Progress progress("perplexity", "tokens");
  Score score;
  const auto start = std::chrono::steady_clock::now();
  // A last window of one token has nothing to score.
  for (int64_t begin = 0; begin + 1 < count; begin += window) {
    const int64_t size = std::min(window, count - begin);
    sequence->reset();
    ++score.windows;
    engine->prefill(
        *sequence, std::span(tokens).subspan(begin, size), LogitRows::kAll, 0,
        [&](int64_t first, std::span<const float> logits) {
          const int64_t rows = static_cast<int64_t>(logits.size()) / vocab_size;
          for (int64_t row = 0; row < rows && first + row + 1 < size; ++row) {
            const int32_t target = tokens[begin + first + row + 1];
            score.nats += negative_log_likelihood(logits.subspan(row * vocab_size, vocab_size), target);
            score.bytes += static_cast<int64_t>(tokenizer.token_bytes(target).size());
            ++score.tokens;
          }
        },
        [&](int64_t done) { progress.update(begin + done, count); });
  }
  progress.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double mean = score.nats / static_cast<double>(score.tokens);
  const double bits_per_byte =
      score.nats / std::numbers::ln2 / static_cast<double>(std::max<int64_t>(score.bytes, 1));
  if (options.json) {
    const nlohmann::ordered_json report{{"model", path.string()},
                                        {"file", options.file},
                                        {"window", window},
                                        {"stride", window},
                                        {"windows", score.windows},
                                        {"tokens", count},
                                        {"scored_tokens", score.tokens},
                                        {"scored_bytes", score.bytes},
                                        {"nll_per_token", mean},
                                        {"perplexity", std::exp(mean)},
                                        {"bits_per_byte", bits_per_byte},
                                        {"seconds", seconds},
                                        {"tokens_per_second", static_cast<double>(count) / seconds},
                                        {"memory", memory_json(engine->plan())}};
    fmt::print("{}\n", report.dump());
  } else {
    fmt::print("perplexity      {:.4f}\n", std::exp(mean));
    fmt::print("nll per token   {:.5f} nats\n", mean);
    fmt::print("bits per byte   {:.4f}\n", bits_per_byte);
    fmt::print("scored          {} of {} tokens ({} bytes) in {} windows of {}\n", format_count(score.tokens),
               format_count(count), format_count(score.bytes), format_count(score.windows), format_count(window));
    fmt::print(stderr, "[{:.1f} s, {} tokens; memory: {} at most]\n", seconds, format_rate(count, seconds),
               format_bytes(peak_resident_bytes()));
  }
  return 0;
}

}  // namespace

void add_perplexity_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("perplexity", "how well a model predicts a text");
  const auto options = std::make_shared<PerplexityOptions>();
  add_model_option(*command, options->model);
  add_lora_option(*command, options->model);
  command->add_option("-f,--file", options->file, "text to predict; - is standard input")
      ->required()
      ->type_name("FILE");
  command->add_option("--context", options->window, "tokens per window")
      ->check(quiet(CLI::Range(int64_t{2}, int64_t{1} << 40)))
      ->capture_default_str()
      ->type_name("N");
  command->add_option("--max-tokens", options->max_tokens, "read only this many tokens of the text")
      ->check(quiet(CLI::Range(int64_t{2}, int64_t{1} << 40)))
      ->type_name("N");
  command->add_flag("--json", options->json, "print one JSON object");
  add_engine_options(*command, options->model);
  command->footer(kFooter);
  command->callback([options, &action] { action = [options] { return perplexity(*options); }; });
}

}  // namespace qnext::cli
