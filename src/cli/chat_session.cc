#include "cli/chat_session.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/mapped_file.h"

namespace qnext::cli {

using Json = nlohmann::ordered_json;

namespace {

Json messages_json(const std::vector<ChatMessage>& list) {
  Json messages = Json::array();
  for (const ChatMessage& message : list) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
    if (!message.tool_calls.empty()) messages.back()["tool_calls"] = Json::parse(message.tool_calls);
  }
  return messages;
}

}  // namespace

ChatSession::ChatSession(TokenModel& model, const Tokenizer& tokenizer, ChatFormat format, Sampler sampler,
                         GenerateOptions options, std::string system)
    : tokenizer_(tokenizer),
      format_(std::move(format)),
      sampler_(std::move(sampler)),
      options_(std::move(options)),
      system_(std::move(system)),
      timeline_(model) {
  reset();
}

void ChatSession::reset() {
  messages_.clear();
  tools_.clear();
  marks_.clear();
  timeline_.reset();
  if (!system_.empty()) messages_.push_back({"system", system_, {}});
}

/// The prompt's tokens; the beginning that the timeline knows keeps the timeline's tokens.
std::vector<int32_t> ChatSession::encode(const Prompt& prompt) {
  while (!marks_.empty()) {
    const auto [text, tokens] = marks_.back();
    if (std::string_view(prompt.text).starts_with(std::string_view(known_text_).substr(0, text))) {
      std::vector<int32_t> ids(timeline_.tokens().begin(), timeline_.tokens().begin() + static_cast<int64_t>(tokens));
      const std::vector<int32_t> rest = encode_prompt(tokenizer_, prompt, text);
      ids.insert(ids.end(), rest.begin(), rest.end());
      return ids;
    }
    marks_.pop_back();
  }
  return encode_prompt(tokenizer_, prompt);
}

bool ChatSession::answer(const GenerateEvents& events, GenerateResult& result) {
  try {
    const Json tools = tools_.empty() ? Json() : Json::parse(tools_);
    const Prompt prompt = render_prompt(format_, tokenizer_, messages_json(messages_), tools, true, Json::object());
    const std::vector<int32_t> ids = encode(prompt);
    const int64_t read_before = timeline_.read();
    result = generate(timeline_, tokenizer_, ids, sampler_, options_, events);

    known_text_ = prompt.text;
    marks_.push_back({known_text_.size(), ids.size()});
    if (result.reason != FinishReason::kStopString) {
      known_text_ += result.text;
      marks_.push_back({known_text_.size(), timeline_.tokens().size()});
    }
    if (read_before > 0 && result.reused_tokens == 0) ++statistics_.rereads;
    statistics_.prompt_tokens_reused += result.reused_tokens;
    const bool prompt_read = timeline_.read() >= result.prompt_tokens;
    statistics_.prompt_tokens_read += std::min(timeline_.read(), result.prompt_tokens) - result.reused_tokens;
    statistics_.prefill_seconds += result.prefill_seconds;
    statistics_.decode_seconds += result.decode_seconds;
    statistics_.answer_tokens += static_cast<int64_t>(result.tokens.size());
    if (!prompt_read) return false;
    ++statistics_.answers;
    messages_.push_back({"assistant", result.text, {}});
    return true;
  } catch (...) {
    // The timeline may hold anything now; it still knows how far its tokens agree with the next prompt's.
    marks_.clear();
    throw;
  }
}

GenerateResult ChatSession::ask(ChatMessage message, const GenerateEvents& events) {
  messages_.push_back(std::move(message));
  try {
    GenerateResult result;
    if (!answer(events, result)) messages_.pop_back();
    return result;
  } catch (...) {
    messages_.pop_back();
    throw;
  }
}

GenerateResult ChatSession::restart(std::vector<ChatMessage> messages, std::string tools,
                                    const GenerateEvents& events) {
  std::swap(messages, messages_);
  std::swap(tools, tools_);
  const auto back = [&] {
    std::swap(messages, messages_);
    std::swap(tools, tools_);
  };
  try {
    GenerateResult result;
    if (!answer(events, result)) back();
    return result;
  } catch (...) {
    back();
    throw;
  }
}

void ChatSession::save(const std::filesystem::path& file) const {
  const Json messages = messages_json(messages_);
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out << Json{{"messages", messages}}.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  if (!out.flush()) throw Error(fmt::format("{}: cannot be written", file.string()));
}

void ChatSession::load(const std::filesystem::path& file) {
  const std::string name = file.string();
  const Json json = Json::parse(read_text_file(file, size_t{64} << 20), nullptr, false);
  const Json& list = json.is_object() && json.contains("messages") ? json["messages"] : json;
  if (!list.is_array())
    throw FileError(name, "messages", "an array of messages", json.is_discarded() ? "no JSON" : json.type_name());
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& message = list[i];
    const auto text = [&](const char* key) {
      if (!message.is_object() || !message.contains(key) || !message[key].is_string()) {
        throw FileError(name, fmt::format("messages[{}].{}", i, key), "a string",
                        message.is_object() && message.contains(key) ? message[key].type_name() : "none");
      }
      return message[key].get<std::string>();
    };
    messages.push_back({text("role"), text("content"), {}});
  }
  messages_ = std::move(messages);
}

}  // namespace qnext::cli
