// qnext data: texts and conversations into token shards for training, and what is in them.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/cpu.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/find_tokenizer.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "data/dataset.h"
#include "data/pack.h"
#include "runtime/memory_plan.h"
#include "tokenizer/tokenizer.h"

namespace qnext::cli {
namespace {

constexpr const char* kPackFooter = R"(
INPUT is a text file (one document, or several with --separator), or JSON lines: {"text": ...}, or a conversation
{"messages": [...], "tools": [...]}, which is rendered with the chat template beside the tokenizer; there the loss is
taken on the assistant's tokens alone. Documents are shuffled by the seed; the same inputs, seed and options give the same bytes.

Examples:
  qnext data pack --tokenizer models/starter --out packed chats.jsonl books.jsonl
  qnext data pack --tokenizer M --out packed --format text --separator "<|endoftext|>" stories.txt
  qnext data pack --tokenizer M --out packed --skip-bad --seed 7 chats.jsonl)";

constexpr const char* kInspectFooter = R"(
Samples are shown with the model's tokenizer that made the ids; with another one, ids are shown.

Examples:
  qnext data inspect packed
  qnext data inspect packed --documents 3 -m models/starter
  qnext data inspect packed --verify)";

struct PackCommand {
  PackOptions options;
  std::string format = "auto";
  bool json = false;
};

int pack(PackCommand& command) {
  static const std::map<std::string, InputFormat> kFormats = {{"auto", InputFormat::kAuto},
                                                              {"text", InputFormat::kText},
                                                              {"jsonl", InputFormat::kJsonLines},
                                                              {"chat", InputFormat::kChat}};
  command.options.format = kFormats.at(command.format);
  if (command.options.threads == 0) command.options.threads = static_cast<int>(allowed_cpus().size());
  const auto start = std::chrono::steady_clock::now();
  Progress progress("pack", "bytes");
  catch_interrupts();  // so that what was written is removed
  const PackReport report = pack_documents(command.options, [&](const PackProgress& at) {
    if (interrupted()) throw Error("interrupted");
    progress.update(static_cast<int64_t>(at.bytes_read),
                    static_cast<int64_t>(std::max(at.total_bytes, at.bytes_read)));
  });
  progress.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (const std::string& message : report.bad_records) fmt::print(stderr, "skipped: {}\n", message);
  if (report.skipped > report.bad_records.size()) {
    fmt::print(stderr, "skipped: and {} more\n", report.skipped - report.bad_records.size());
  }
  const TokenCounts& counts = report.counts;
  if (command.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"documents", counts.documents},
                                              {"tokens", counts.tokens},
                                              {"targets", counts.targets},
                                              {"shards", report.shards},
                                              {"skipped", report.skipped},
                                              {"input_bytes", report.bytes_read},
                                              {"vocab_size", report.vocab_size},
                                              {"seconds", seconds}}
                           .dump());
    return 0;
  }
  const auto large = [](uint64_t count) { return format_count(static_cast<int64_t>(count)); };
  fmt::print("{} documents, {} tokens, {} of them targets, {} shards in {}\n", large(counts.documents),
             large(counts.tokens), large(counts.targets), report.shards, command.options.out.string());
  if (report.skipped > 0) fmt::print("{} bad records skipped\n", large(report.skipped));
  fmt::print(stderr, "[{} in {:.1f} s, {}/s; memory: {} at most]\n",
             format_bytes(static_cast<int64_t>(report.bytes_read)), seconds,
             format_bytes(static_cast<int64_t>(static_cast<double>(report.bytes_read) / seconds)),
             format_bytes(peak_resident_bytes()));
  return 0;
}

struct InspectCommand {
  std::string path, model;
  uint64_t documents = 1, from = 0;
  bool verify = false, json = false;
};

/// The tokenizer that made the ids: the named one must be it, the default one need not.
std::optional<Tokenizer> tokenizer_of(const TokenDataset& data, const std::string& model) {
  try {
    Tokenizer tokenizer = find_tokenizer(model);
    if (tokenizer_fingerprint(tokenizer) == data.tokenizer_fingerprint()) return tokenizer;
    if (!model.empty()) data.require_tokenizer(tokenizer);
  } catch (const Error&) {
    if (!model.empty()) throw;
  }
  return std::nullopt;
}

/// Runs of targets and of context, one after the other, each cut in its middle.
void print_document(const TokenDataset& data, uint64_t index, const std::optional<Tokenizer>& tokenizer) {
  const auto words = data.document(index);
  const auto targets = std::count_if(words.begin(), words.end(), is_target);
  fmt::print("\ndocument {}: {} tokens, {} of them targets\n", index,
             format_count(static_cast<int64_t>(words.size())), format_count(targets));
  constexpr size_t kShownTokens = 60, kShownRuns = 24;
  size_t runs = 0;
  for (size_t begin = 0; begin < words.size();) {
    size_t end = begin;
    while (end < words.size() && is_target(words[end]) == is_target(words[begin])) ++end;
    if (++runs > kShownRuns) {
      fmt::print("  ... {} more tokens\n", format_count(static_cast<int64_t>(words.size() - begin)));
      break;
    }
    const auto text_of = [&](size_t first, size_t last) {
      std::vector<int32_t> ids;
      for (size_t i = first; i < last; ++i) ids.push_back(token_id(words[i]));
      return tokenizer ? quoted(tokenizer->decode(ids), 4096) : fmt::format("{}", fmt::join(ids, " "));
    };
    const bool cut = end - begin > kShownTokens;
    const std::string text =
        cut ? fmt::format("{} ... {}", text_of(begin, begin + kShownTokens / 2), text_of(end - kShownTokens / 2, end))
            : text_of(begin, end);
    fmt::print("  {:<7} {:>7}  {}\n", is_target(words[begin]) ? "target" : "context",
               format_count(static_cast<int64_t>(end - begin)), text);
    begin = end;
  }
}

int inspect(const InspectCommand& command) {
  const TokenDataset data{std::filesystem::path(command.path)};
  if (command.verify) data.verify();
  std::vector<uint64_t> sizes(data.document_count());
  for (uint64_t i = 0; i < sizes.size(); ++i) sizes[i] = data.document_size(i);
  std::ranges::sort(sizes);
  const auto size_at = [&](double part) {
    return sizes[static_cast<size_t>(part * static_cast<double>(sizes.size() - 1))];
  };
  if (command.json) {
    nlohmann::ordered_json json{{"documents", data.document_count()},
                                {"tokens", data.token_count()},
                                {"targets", data.target_count()},
                                {"vocab_size", data.vocab_size()},
                                {"tokenizer_fingerprint", fmt::format("{:016x}", data.tokenizer_fingerprint())},
                                {"fingerprint", fmt::format("{:016x}", data.fingerprint())},
                                {"verified", command.verify},
                                {"document_tokens",
                                 {{"min", sizes.front()},
                                  {"median", size_at(0.5)},
                                  {"p90", size_at(0.9)},
                                  {"p99", size_at(0.99)},
                                  {"max", sizes.back()}}},
                                {"shards", nlohmann::ordered_json::array()}};
    for (const TokenShard& shard : data.shards()) {
      json["shards"].push_back({{"file", shard.path().filename().string()},
                                {"documents", shard.counts().documents},
                                {"tokens", shard.counts().tokens},
                                {"targets", shard.counts().targets}});
    }
    fmt::print("{}\n", json.dump());
    return 0;
  }
  const auto large = [](uint64_t count) { return format_count(static_cast<int64_t>(count)); };
  const auto print_row = [&](const std::string& name, const TokenCounts& counts) {
    fmt::print("{:<24} {:>12} documents {:>16} tokens {:>16} targets\n", name, large(counts.documents),
               large(counts.tokens), large(counts.targets));
  };
  for (const TokenShard& shard : data.shards()) print_row(shard.path().filename().string(), shard.counts());
  print_row("in all", {data.document_count(), data.token_count(), data.target_count()});
  fmt::print("tokens per document      min {}, median {}, 90 % {}, 99 % {}, max {}\n", large(sizes.front()),
             large(size_at(0.5)), large(size_at(0.9)), large(size_at(0.99)), large(sizes.back()));
  fmt::print("vocabulary               {} ids, tokenizer {:016x}\n", large(static_cast<uint64_t>(data.vocab_size())),
             data.tokenizer_fingerprint());
  fmt::print("content                  {:016x}{}\n", data.fingerprint(),
             command.verify ? ", checksums and ids verified" : "");
  const uint64_t from = std::min(command.from, data.document_count());
  const uint64_t end = from + std::min(command.documents, data.document_count() - from);
  if (from == end) return 0;
  const auto tokenizer = tokenizer_of(data, command.model);
  for (uint64_t i = from; i < end; ++i) print_document(data, i, tokenizer);
  return 0;
}

void add_pack(CLI::App& data, Action& action) {
  CLI::App* command = data.add_subcommand("pack", "texts and conversations into token shards");
  const auto pack_command = std::make_shared<PackCommand>();
  PackOptions& options = pack_command->options;
  command->add_option("INPUT", options.inputs, "files of text or JSON lines")->required()->type_name("");
  command->add_option("--tokenizer", options.tokenizer, "directory with tokenizer.json and the chat template")
      ->required()
      ->type_name("DIR");
  command->add_option("-o,--out", options.out, "directory for the shards; made if absent")
      ->required()
      ->type_name("DIR");
  command->add_option("--format", pack_command->format, "auto (by name and content), text, jsonl or chat")
      ->check(quiet(CLI::IsMember({"auto", "text", "jsonl", "chat"})))
      ->type_name("F");
  command->add_option("--separator", options.separator, "line between the documents of a text file")
      ->type_name("LINE");
  command
      ->add_option("--end-token", options.end_token, "token that ends a text; default: <|endoftext|>, else eos_token")
      ->type_name("TOKEN");
  command->add_flag("--parse-special", options.special_in_text, "special tokens' names in texts become those tokens");
  command->add_option("--shard-tokens", options.shard_tokens, "tokens per shard, about; default 67108864")
      ->check(quiet(CLI::Range(uint64_t{1}, uint64_t{1} << 40)))
      ->type_name("N");
  command->add_option("--seed", options.seed, "seed of the shuffle; default 0")->type_name("S");
  command->add_flag("--skip-bad", options.skip_bad, "count bad records instead of stopping at the first");
  command->add_flag("--overwrite", options.overwrite, "replace the data set that DIR holds");
  options.threads = 0;
  command->add_option("--threads", options.threads, "threads; default: one per CPU this process may use")
      ->check(quiet(CLI::Range(1, 4096)))
      ->type_name("N");
  command->add_flag("--json", pack_command->json, "print what was done as one JSON object");
  command->footer(kPackFooter);
  command->callback([pack_command, &action] { action = [pack_command] { return pack(*pack_command); }; });
}

void add_inspect(CLI::App& data, Action& action) {
  CLI::App* command = data.add_subcommand("inspect", "what token shards hold, with samples and their targets");
  const auto options = std::make_shared<InspectCommand>();
  command->add_option("PATH", options->path, "directory that `qnext data pack` made, or one shard")
      ->required()
      ->type_name("");
  command->add_option("-m,--model", options->model, "model or directory whose tokenizer made the ids")
      ->type_name("DIR");
  command->add_option("-n,--documents", options->documents, "documents to show; default 1")->type_name("N");
  command->add_option("--from", options->from, "number of the first document to show; default 0")->type_name("N");
  command->add_flag("--verify", options->verify, "read everything: checksums and ids");
  command->add_flag("--json", options->json, "print one JSON object, without samples");
  command->footer(kInspectFooter);
  command->callback([options, &action] { action = [options] { return inspect(*options); }; });
}

}  // namespace

void add_data_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("data", "training data: pack it into token shards, inspect them");
  command->require_subcommand(1);
  command->footer("\nExamples:\n  qnext data pack --help\n  qnext data inspect --help");
  add_pack(*command, action);
  add_inspect(*command, action);
}

}  // namespace qnext::cli
