// qnext tokenizer: making one.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/terminal.h"
#include "data/records.h"
#include "runtime/memory_plan.h"
#include "tokenizer/bpe_trainer.h"

namespace qnext::cli {
namespace {

constexpr const char* kTrainFooter = R"(
F is a text file, or JSON lines: {"text": ...}, or {"messages": [...]}, whose contents are learned from. DIR gets
tokenizer.json and tokenizer_config.json, in the form that Hugging Face's libraries read. The vocabulary is the 256 bytes,
then what was learned, then the special tokens. The special ones by default:
  <|endoftext|> <|im_start|> <|im_end|> <tool_call> </tool_call> <tool_response> </tool_response> <think> </think>

Examples:
  qnext tokenizer train --vocab-size 4096 --input corpus.jsonl --out my-tokenizer
  qnext tokenizer train --vocab-size 8192 --input a.txt b.txt --special "<|endoftext|>" --out my-tokenizer)";

struct TrainCommand {
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path out, chat_template;
  std::vector<std::string> special;
  int32_t vocab_size = 0;
  uint64_t min_frequency = 1;
};

void write_whole(const std::filesystem::path& path, const std::string& text) {
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(text)).data(), text.size(), 0);
  file.commit();
}

int train(const TrainCommand& command) {
  const auto start = std::chrono::steady_clock::now();
  BpeTrainer trainer({.vocab_size = command.vocab_size,
                      .min_frequency = command.min_frequency,
                      .special_tokens = command.special.empty() ? default_special_tokens() : command.special});
  RecordReader reader(command.inputs, InputFormat::kAuto);
  std::string chat_template;
  if (!command.chat_template.empty()) chat_template = read_input(command.chat_template.string());
  {
    Progress progress("read", "bytes");
    uint64_t texts = 0;
    for (Record record; reader.next(record);) {
      try {
        for_each_text(record, [&](std::string_view text) {
          trainer.add(text);
          ++texts;
        });
      } catch (const Error& error) {
        throw Error(fmt::format("{}: {}", reader.place(record), error.what()));
      }
      progress.update(static_cast<int64_t>(reader.bytes_read()),
                      static_cast<int64_t>(std::max(reader.total_bytes(), reader.bytes_read())));
    }
    if (trainer.different_words() == 0) throw Error(fmt::format("the inputs hold no text ({} records)", texts));
  }
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const double read_seconds = seconds();
  Progress progress("merge", "merges");
  const BpeTrainer::Result result = trainer.train([&](int64_t done, int64_t total) { progress.update(done, total); });
  progress.finish();
  std::filesystem::create_directories(command.out);
  write_whole(command.out / "tokenizer.json", tokenizer_json(result));
  write_whole(command.out / "tokenizer_config.json", tokenizer_config_json(result));
  if (!command.chat_template.empty()) write_whole(command.out / "chat_template.jinja", chat_template);
  fmt::print("{} tokens: 256 bytes, {} learned, {} special, in {}\n", result.vocab_size(), result.tokens.size() - 256,
             result.special_tokens.size(), command.out.string());
  if (result.vocab_size() < static_cast<size_t>(command.vocab_size)) {
    fmt::print(stderr, "note: no pair is left that occurs {} times: {} tokens fewer than asked for\n",
               command.min_frequency, static_cast<size_t>(command.vocab_size) - result.vocab_size());
  }
  fmt::print(stderr, "[{} and {} different words read in {:.1f} s, merged in {:.1f} s; memory: {} at most]\n",
             format_bytes(static_cast<int64_t>(reader.bytes_read())),
             format_count(static_cast<int64_t>(trainer.different_words())), read_seconds, seconds() - read_seconds,
             format_bytes(peak_resident_bytes()));
  return 0;
}

}  // namespace

void add_tokenizer_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("tokenizer", "make a tokenizer: byte-level BPE learned from texts");
  command->require_subcommand(1);
  command->footer("\nExamples:\n  qnext tokenizer train --help");
  CLI::App* train_command = command->add_subcommand("train", "learn a byte-level BPE from texts");
  const auto options = std::make_shared<TrainCommand>();
  train_command->add_option("--vocab-size", options->vocab_size, "tokens, the special ones included")
      ->required()
      ->type_name("N");
  train_command->add_option("-i,--input", options->inputs, "texts to learn from")->required()->type_name("F...");
  train_command->add_option("-o,--out", options->out, "directory for the tokenizer; made if absent")
      ->required()
      ->type_name("DIR");
  train_command
      ->add_option("--special", options->special,
                   "special tokens instead of the default ones; <|...|> are hidden "
                   "in decoded text, others shown")
      ->type_name("TOKEN...");
  train_command
      ->add_option("--min-frequency", options->min_frequency, "merge only pairs that occur so often; default 1")
      ->type_name("N");
  train_command->add_option("--chat-template", options->chat_template, "Jinja file to put beside it")
      ->type_name("FILE");
  train_command->footer(kTrainFooter);
  train_command->callback([options, &action] { action = [options] { return train(*options); }; });
}

}  // namespace qnext::cli
