#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "chat/chat_format.h"
#include "chat/prompt.h"
#include "runtime/generate.h"

namespace qnext::cli {

struct ChatMessage {
  std::string role, content;
  std::string tool_calls;  ///< a JSON array's text, for the template; empty: none
};

/// What a session has cost so far.
struct ChatStatistics {
  int64_t answers = 0;
  int64_t answer_tokens = 0;
  int64_t prompt_tokens_read = 0;
  int64_t prompt_tokens_reused = 0;  ///< would have been read again without the running sequence
  int64_t rereads = 0;               ///< times the whole prompt had to be read again
  double prefill_seconds = 0, decode_seconds = 0;
};

/// A conversation with a model through its chat format. The model's sequence runs on from turn to turn: as long as
/// the template renders the growing conversation to a growing text, only the new part is read, and the answers stay
/// the very tokens that the model sampled (encoding their text again may give others). Where the template changes
/// what came before (dropped thinking, trimmed answers), the whole prompt is read again and counted in `rereads`.
class ChatSession {
 public:
  ChatSession(TokenModel& model, const Tokenizer& tokenizer, ChatFormat format, Sampler sampler,
              GenerateOptions options, std::string system);

  /// Adds a message of the user and generates the answer, which is added too. When the prompt was not read to its end
  /// (cancelled) or an Error is thrown, the message is taken back.
  GenerateResult ask(const std::string& text, const GenerateEvents& events) {
    return ask({"user", text, {}}, events);
  }
  GenerateResult ask(ChatMessage message, const GenerateEvents& events);
  /// Replaces the conversation, and the tools that are declared in it (a JSON array's text, or empty), and generates
  /// an answer to it as `ask` does. What of it the model has read is not read again. On failure the former one is
  /// back.
  GenerateResult restart(std::vector<ChatMessage> messages, std::string tools, const GenerateEvents& events);
  /// For the answers from now on.
  void set_sampler(Sampler sampler) { sampler_ = std::move(sampler); }
  void set_options(GenerateOptions options) { options_ = std::move(options); }

  /// Forgets everything but the system message.
  void reset();
  /// The conversation as JSON: {"messages": [{"role", "content"}, ...]}. Throws Error.
  void save(const std::filesystem::path& file) const;
  /// Replaces the conversation with a saved one (or a bare array of messages). Throws Error and changes nothing when
  /// the file is not such a conversation.
  void load(const std::filesystem::path& file);

  const std::vector<ChatMessage>& messages() const { return messages_; }
  const ChatStatistics& statistics() const { return statistics_; }
  int64_t tokens_read() const { return timeline_.read(); }

 private:
  /// A place where a prefix of known_text_ stands for a prefix of the timeline's tokens.
  struct Mark {
    size_t text, tokens;
  };
  std::vector<int32_t> encode(const Prompt& prompt);
  /// Generates an answer to messages_ and adds it; false when the prompt was not read to its end.
  bool answer(const GenerateEvents& events, GenerateResult& result);

  const Tokenizer& tokenizer_;
  ChatFormat format_;
  Sampler sampler_;
  GenerateOptions options_;
  std::string system_, tools_;
  Timeline timeline_;
  std::vector<ChatMessage> messages_;
  std::string known_text_;  ///< what the timeline's tokens stand for
  std::vector<Mark> marks_;
  ChatStatistics statistics_;
};

}  // namespace qnext::cli
