// qnext run: continue a text, or converse.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "chat/chat_format.h"
#include "cli/chat_lines.h"
#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/line_editor.h"
#include "cli/model_options.h"
#include "cli/talker.h"
#include "cli/terminal.h"

namespace qnext::cli {
namespace {

constexpr int kExitInterrupted = 130;  // as shells report a program that SIGINT ended

constexpr const char* kFooter = R"(
Without PROMPT: on a terminal you are asked for one; otherwise it is read from standard input.
Without --chat the prompt is continued as it stands (special tokens in it count as such, see --plain). With --chat it is
the first message of a conversation in the model's own chat format, and special tokens that you type are ordinary text.
Ctrl-C stops the answer; at the prompt, twice in a row, it leaves, as does Ctrl-D.

Examples:
  qnext run "Once upon a time"
  qnext run --chat --system "Answer in one sentence."
  qnext run --chat --single-turn "Write a short story about a lighthouse."
  qnext run --temperature 0 --max-tokens 32 --json "1, 2, 3," | jq .text
  qnext run --model BASE --lora RUN/step-00001000 "Hello"      an adapter that qnext train made
  cat notes.txt | qnext run --chat --single-turn --seed 7)";

constexpr const char* kChatHelp = R"(  /reset       forget the conversation, keep the system message
  /save FILE   write the conversation as JSON
  /load FILE   continue a saved conversation
  /stats       tokens, speed and memory so far
  /exit        leave (as does Ctrl-D)
A line that ends in \ continues on the next; a message that begins with / is typed with //.
Ctrl-C stops an answer.
)";

/// Streams text to stdout and progress to stderr, and lets Ctrl-C cancel.
class Watcher {
 public:
  /// `preface` is printed before the first piece, once the prompt is known to be acceptable.
  explicit Watcher(const RunOptions& options, std::string preface = {})
      : preface_(std::move(preface)),
        print_(!options.json),
        progress_("reading the prompt", "tokens", !options.quiet) {}

  GenerateEvents events() {
    GenerateEvents events;
    events.cancel = &interrupted();
    events.on_prefill = [this](int64_t done, int64_t total) {
      print(std::exchange(preface_, {}));
      progress_.update(done, total);
      if (done == total) progress_.finish();
    };
    events.on_text = [this](std::string_view piece) { print(piece); };
    return events;
  }

 private:
  void print(std::string_view text) {
    if (!print_ || text.empty()) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  std::string preface_;
  bool print_;
  Progress progress_;
};

/// Why an answer ended, where that is not plain to see.
void explain(const GenerateResult& result, const RunOptions& options, int64_t context) {
  if (options.quiet || options.json) return;
  if (result.reason == FinishReason::kMaxTokens) {
    fmt::print(stderr, "[stopped after {} tokens: --max-tokens]\n", format_count(options.sampling.max_tokens));
  } else if (result.reason == FinishReason::kContextFull) {
    fmt::print(stderr, "[stopped: the context of {} tokens is full]\n", format_count(context));
  } else if (result.reason == FinishReason::kCancelled) {
    fmt::print(stderr, "[stopped by Ctrl-C]\n");
  }
}

void print_summary(const ChatStatistics& s, const Talker& talker) {
  const std::string reused =
      s.prompt_tokens_reused > 0 ? fmt::format(" (and {} reused)", format_count(s.prompt_tokens_reused)) : "";
  fmt::print(
      stderr,
      "[prompt: {} tokens{}, {}; answer: {} tokens, {}; memory: {} at most, of it {} for the sequence; seed {}]\n",
      format_count(s.prompt_tokens_read), reused, format_rate(s.prompt_tokens_read, s.prefill_seconds),
      format_count(s.answer_tokens), format_rate(s.answer_tokens, s.decode_seconds),
      format_bytes(peak_resident_bytes()), format_bytes(talker.model->sequence().bytes()), talker.sampling.seed);
}

/// The end of a program that gave one answer.
int finish_single(const GenerateResult& result, const ChatStatistics& statistics, const RunOptions& options,
                  const Talker& talker) {
  if (options.json) {
    // A token may be half a character, so text from a model is made valid rather than refused.
    fmt::print("{}\n", result_json(result, talker).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("\n");
    std::fflush(stdout);
    explain(result, options, talker.engine->options().context);
    if (!options.quiet) print_summary(statistics, talker);
  }
  return result.reason == FinishReason::kCancelled ? kExitInterrupted : 0;
}

void add_to(ChatStatistics& s, const GenerateResult& result) {
  ++s.answers;
  s.answer_tokens += static_cast<int64_t>(result.tokens.size());
  s.prompt_tokens_read += result.prompt_tokens - result.reused_tokens;
  s.prompt_tokens_reused += result.reused_tokens;
  s.prefill_seconds += result.prefill_seconds;
  s.decode_seconds += result.decode_seconds;
}

int complete(const RunOptions& options) {
  Talker talker(options);
  const std::string text = options.has_prompt ? options.prompt : read_input("-");
  const std::vector<int32_t> prompt =
      talker.tokenizer.encode(text, options.plain ? SpecialTokens::kPlain : SpecialTokens::kParse);
  talker.open(options, static_cast<int64_t>(prompt.size()));
  Timeline timeline(*talker.model);
  Sampler sampler = talker.sampler();
  Watcher watcher(options, options.has_prompt ? text : "");
  const GenerateResult result = generate(timeline, talker.tokenizer, prompt, sampler,
                                         talker.generate_options(options.sampling), watcher.events());
  ChatStatistics statistics;
  add_to(statistics, result);
  return finish_single(result, statistics, options, talker);
}

void print_stats(const ChatSession& session, const Talker& talker) {
  const ChatStatistics& s = session.statistics();
  fmt::print(stderr, "{} messages, {} of {} tokens of context in use\n", session.messages().size(),
             format_count(session.tokens_read()), format_count(talker.engine->options().context));
  fmt::print(stderr, "the whole conversation was read again {} time{}{}\n", s.rereads, s.rereads == 1 ? "" : "s",
             s.rereads ? " (its beginning had changed: the template rewrote it, or a message was taken back)" : "");
  print_summary(s, talker);
  fmt::print(stderr, "{}", describe(talker.engine->plan()));
}

class Conversation {
 public:
  explicit Conversation(const RunOptions& options)
      : options_(options),
        talker_(open(options)),
        session_(*talker_.model, talker_.tokenizer, talker_.files.chat_format(), talker_.sampler(),
                 talker_.generate_options(options.sampling), options.system),
        watcher_(options),
        interactive_(isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1) {}

  int single_turn() {
    const std::string text = options_.has_prompt ? options_.prompt : read_input("-");
    return finish_single(session_.ask(text, watcher_.events()), session_.statistics(), options_, talker_);
  }

  int converse() {
    if (interactive_ && !options_.quiet)
      fmt::print(stderr, "{} - /help for help, Ctrl-D to leave\n", talker_.path.string());
    if (options_.has_prompt) answer(options_.prompt);
    LineEditor editor(history_path());
    bool leaving = false;
    for (std::string line;;) {
      clear_interrupt();
      const LineEditor::Outcome outcome = editor.read(interactive_ ? "> " : "", line);
      if (outcome == LineEditor::Outcome::kEnd) break;
      if (outcome == LineEditor::Outcome::kInterrupted) {
        if (leaving || !interactive_) break;
        fmt::print(stderr, "(Ctrl-C again, or Ctrl-D, leaves)\n");
        leaving = true;
        continue;
      }
      leaving = false;
      if (line.find_first_not_of(" \t\n") == std::string::npos) continue;
      if (line[0] == '/' && !line.starts_with("//")) {
        if (!obey(line)) break;
      } else {
        answer(line.starts_with("//") ? line.substr(1) : line);
      }
    }
    if (!options_.quiet && session_.statistics().answers > 0) print_summary(session_.statistics(), talker_);
    return 0;
  }

 private:
  static Talker open(const RunOptions& options) {
    Talker talker(options);
    talker.open(options, 0);
    return talker;
  }

  void answer(const std::string& text) {
    clear_interrupt();
    try {
      const GenerateResult result = session_.ask(text, watcher_.events());
      fmt::print("\n");
      std::fflush(stdout);
      explain(result, options_, talker_.engine->options().context);
      if (result.reason == FinishReason::kCancelled && result.tokens.empty()) {
        fmt::print(stderr, "[your message was taken back]\n");
      }
    } catch (const Error& error) {
      fmt::print(stderr, "\nqnext: error: {}\n[your message was taken back]\n", error.what());
      if (!interactive_) throw;
    }
  }

  /// Carries out a /command; false to leave.
  bool obey(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string command = line.substr(0, space);
    std::string argument = space == std::string::npos
                               ? ""
                               : line.substr(line.find_first_not_of(' ', space) == std::string::npos
                                                 ? line.size()
                                                 : line.find_first_not_of(' ', space));
    while (argument.ends_with(' ')) argument.pop_back();
    try {
      if (command == "/exit" || command == "/quit") return false;
      if (command == "/help") {
        fmt::print(stderr, "{}", kChatHelp);
      } else if (command == "/stats") {
        print_stats(session_, talker_);
      } else if (command == "/reset") {
        session_.reset();
        fmt::print(stderr, "[a new conversation]\n");
      } else if (command == "/save" || command == "/load") {
        if (argument.empty()) throw Error(command + " needs a file name");
        if (command == "/save") {
          session_.save(argument);
        } else {
          session_.load(argument);
        }
        fmt::print(stderr, "[{} messages {} {}]\n", session_.messages().size(),
                   command == "/save" ? "saved to" : "from", argument);
      } else {
        fmt::print(stderr, "{} is not a command; /help lists them, // begins a message with /\n", command);
      }
    } catch (const Error& error) {
      fmt::print(stderr, "qnext: error: {}\n", error.what());
    }
    return true;
  }

  const RunOptions& options_;
  Talker talker_;
  ChatSession session_;
  Watcher watcher_;
  bool interactive_;
};

int run(const RunOptions& options) {
  catch_interrupts();
  if (options.chat) {
    if (options.json && !options.single_turn) return converse_in_lines(options, std::cin);
    Conversation conversation(options);
    return options.single_turn ? conversation.single_turn() : conversation.converse();
  }
  if (!options.has_prompt && isatty(STDIN_FILENO)) {
    RunOptions asked = options;
    LineEditor editor(history_path());
    if (editor.read("text to continue> ", asked.prompt) != LineEditor::Outcome::kLine) return 0;
    asked.has_prompt = true;
    return complete(asked);
  }
  return complete(options);
}

}  // namespace

void add_run_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("run", "continue a text, or converse with --chat");
  const auto options = std::make_shared<RunOptions>();
  const CLI::Option* prompt =
      command->add_option("PROMPT", options->prompt, "the text to continue, or the first message");
  add_model_option(*command, options->model);
  add_lora_option(*command, options->model);
  CLI::Option* chat = command->add_flag("-c,--chat", options->chat, "converse through the model's chat format");
  command->add_flag("-1,--single-turn", options->single_turn, "with --chat: answer once and leave")->needs(chat);
  command->add_option("--system", options->system, "with --chat: the system message")->type_name("TEXT")->needs(chat);
  command->add_flag("--plain", options->plain, "special tokens in the prompt are ordinary text")->excludes(chat);
  command
      ->add_option("--context", options->model.context,
                   "most tokens of prompt and answer; default: what the model allows")
      ->check(quiet(CLI::PositiveNumber))
      ->type_name("N");
  command->add_flag("--json", options->json,
                    "print one JSON object: text, tokens, finish_reason, timings, memory, sampling; with --chat and "
                    "without --single-turn one per line read, for programs (docs/formats.md)");
  command->add_flag("-q,--quiet", options->quiet, "print the answer alone");
  add_sampling_options(*command, options->sampling);
  add_engine_options(*command, options->model);
  command->footer(kFooter);
  command->callback([options, prompt, &action] {
    options->has_prompt = prompt->count() > 0;
    if (options->json && options->chat && !options->single_turn && options->has_prompt) {
      throw CLI::ValidationError("PROMPT", "with --chat --json, messages come as JSON lines on standard input");
    }
    action = [options] { return run(*options); };
  });
}

}  // namespace qnext::cli
