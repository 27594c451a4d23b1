#include "data/conversation.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "chat/prompt.h"
#include "data/token_shard.h"

namespace qnext {

namespace {

using Json = nlohmann::ordered_json;

struct Span {
  size_t begin, end;  ///< bytes of the rendered text
};

bool is_white(std::string_view text) { return text.find_first_not_of(" \t\r\n") == text.npos; }

std::string kind_of(const Json& value) { return value.is_null() ? "null" : std::string(value.type_name()); }

class Conversation {
 public:
  Conversation(Json&& record, const Tokenizer& tokenizer, const ChatFormat& format)
      : tokenizer_(tokenizer), format_(format) {
    if (!record.is_object()) throw Error(fmt::format("expected an object, found {}", kind_of(record)));
    messages_ = checked(record, "messages", Json::value_t::array, true);
    tools_ = checked(record, "tools", Json::value_t::array, false);
    variables_ = checked(record, "chat_template_kwargs", Json::value_t::object, false);
    if (messages_.empty()) throw Error("messages: expected at least one, found none");
    for (size_t i = 0; i < messages_.size(); ++i) {
      const Json& message = messages_[i];
      if (!message.is_object()) {
        throw Error(fmt::format("messages[{}]: expected an object, found {}", i, kind_of(message)));
      }
      const auto role = message.find("role");
      if (role == message.end() || !role->is_string()) {
        throw Error(fmt::format("messages[{}].role: expected a string, found {}", i,
                                role == message.end() ? "nothing" : kind_of(*role)));
      }
      if (*role == "assistant") assistants_.push_back(i);
    }
    if (assistants_.empty()) throw Error("messages: expected one of the assistant, found none: nothing to learn");
    prompt_.typed = replace_typed_tokens(tokenizer, messages_, tools_, AssistantTokens::kPlain);
    for (const int32_t id : tokenizer.added_ids()) {
      if (tokenizer.is_special(id)) special_.emplace_back(tokenizer.token_bytes(id));
    }
  }

  void append(std::vector<uint32_t>& words) {
    prompt_.text = format_.render(messages_, tools_, false, variables_);
    std::optional<std::vector<Span>> spans;
    if (assistants_.size() > 2) {
      try {
        spans = separate_turns();
      } catch (const Error&) {  // a template that refuses a message alone
      }
    }
    if (!spans) spans = growing_turns();
    size_t done = 0;
    const auto add = [&](size_t end, bool target) {
      for (const int32_t id : encode_prompt(tokenizer_, prompt_, done, end)) words.push_back(token_word(id, target));
      done = end;
    };
    const size_t before = words.size();
    for (const Span& span : *spans) {
      add(span.begin, false);
      add(span.end, true);
    }
    while (words.size() > before && !is_target(words.back())) words.pop_back();
    if (words.size() == before) throw Error("messages: the assistant's are empty: nothing to learn");
  }

 private:
  static Json checked(Json& record, const char* key, Json::value_t type, bool required) {
    const auto found = record.find(key);
    if (!required && (found == record.end() || found->is_null())) return nullptr;
    if (found == record.end() || found->type() != type) {
      throw Error(fmt::format("{}: expected {}, found {}", key, type == Json::value_t::array ? "a list" : "an object",
                              found == record.end() ? "nothing" : kind_of(*found)));
    }
    return std::move(*found);
  }

  Json first_messages(size_t count) const {
    return Json::array_t(messages_.begin(), messages_.begin() + static_cast<ptrdiff_t>(count));
  }
  /// A beginning of the conversation, before or with messages[i].
  std::string render_until(const Json& beginning, bool add_generation_prompt, size_t i) const {
    try {
      return render(beginning, add_generation_prompt);
    } catch (const Error& error) {
      throw Error(fmt::format("messages[{}]: the conversation {} it cannot be rendered: {}", i,
                              add_generation_prompt ? "before" : "up to", error.what()));
    }
  }
  std::string render(const Json& messages, bool add_generation_prompt) const {
    return format_.render(messages, tools_, add_generation_prompt, variables_);
  }

  /// Where the turn in `text` ends: after its last special token if only a line end follows, else where text ends.
  size_t turn_end(std::string_view text) const {
    size_t end = 0;
    for (const std::string& token : special_) {
      const size_t at = text.rfind(token);
      if (at != text.npos) end = std::max(end, at + token.size());
    }
    return end > 0 && is_white(text.substr(end)) ? end : text.size();
  }

  /// The definition: beginnings of the conversation, each rendered.
  std::vector<Span> growing_turns() const {
    std::vector<Span> spans;
    Json beginning = Json::array();
    for (const size_t i : assistants_) {
      while (beginning.size() < i) beginning.push_back(messages_[beginning.size()]);
      const std::string before = render_until(beginning, true, i);
      beginning.push_back(messages_[i]);
      const std::string after = i + 1 == messages_.size() ? prompt_.text : render_until(beginning, false, i);
      if (!prompt_.text.starts_with(before)) {
        throw Error(fmt::format(
            "messages[{}]: the chat template ({}) does not render this turn as a continuation of the prompt "
            "that asks for it: \"{}\" is not what stands there",
            i, format_.source_name(), qnext::quoted(difference(before))));
      }
      if (!prompt_.text.starts_with(after) || after.size() < before.size()) {
        throw Error(
            fmt::format("messages[{}]: the chat template ({}) renders this turn otherwise when more messages follow: "
                        "make each turn a record of its own, as its last message",
                        i, format_.source_name()));
      }
      spans.push_back({before.size(), before.size() + turn_end(std::string_view(after).substr(before.size()))});
    }
    return spans;
  }

  /// What of `text` follows where the whole conversation differs from it.
  std::string_view difference(std::string_view text) const {
    size_t same = 0;
    while (same < text.size() && same < prompt_.text.size() && text[same] == prompt_.text[same]) ++same;
    return text.substr(same);
  }

  /// The same spans found in linear time, or nothing where that is not certain. Special tokens in messages are
  /// replaced, so every one in the text is the template's: each occurrence of the generation prompt begins a turn,
  /// and the next token that ends turns ends it. What lies between must be what the template makes of that message
  /// alone, after a user's question: so no turn is rendered otherwise for what follows it. The first and the last
  /// beginning are rendered as a whole too.
  std::optional<std::vector<Span>> separate_turns() {
    const std::string_view text = prompt_.text;
    Json beginning = first_messages(assistants_.front());
    const std::string plain = render(beginning, false), first = render(beginning, true);
    if (!first.starts_with(plain) || !text.starts_with(first)) return std::nullopt;
    const std::string opening = first.substr(plain.size());
    const bool has_special =
        std::ranges::any_of(special_, [&](const std::string& token) { return opening.find(token) != opening.npos; });
    if (!has_special) return std::nullopt;
    beginning.push_back(messages_[assistants_.front()]);
    const std::string turn = render(beginning, false);
    if (!text.starts_with(turn) || turn.size() < first.size()) return std::nullopt;
    const std::string_view body = std::string_view(turn).substr(first.size());
    const std::string_view closed = body.substr(0, turn_end(body));
    const auto closing =
        std::ranges::find_if(special_, [&](const std::string& token) { return closed.ends_with(token); });
    if (closing == special_.end()) return std::nullopt;

    const Json question = {{"role", "user"}, {"content", "x"}};
    const std::string alone = format_.render(Json::array({question}), nullptr, true, variables_);
    if (!alone.ends_with(opening)) return std::nullopt;
    std::vector<Span> spans;
    for (size_t at = plain.size();;) {
      at = text.find(opening, at);
      if (at == text.npos) break;
      if (spans.size() == assistants_.size()) return std::nullopt;
      const size_t begin = at + opening.size(), end_token = text.find(*closing, begin);
      if (end_token == text.npos) return std::nullopt;
      const size_t end = end_token + closing->size();
      const std::string single =
          format_.render(Json::array({question, messages_[assistants_[spans.size()]]}), nullptr, false, variables_);
      const std::string_view rest = std::string_view(single).substr(std::min(alone.size(), single.size()));
      if (!single.starts_with(alone) || !rest.starts_with(text.substr(begin, end - begin)) ||
          !is_white(rest.substr(end - begin))) {
        return std::nullopt;
      }
      spans.push_back({begin, end});
      at = end;
    }
    if (spans.size() != assistants_.size() || spans.front().begin != first.size()) return std::nullopt;
    // Without a copy of the messages: what comes after is moved away and back.
    const auto tail = static_cast<ptrdiff_t>(assistants_.back());
    std::vector<Json> after(std::make_move_iterator(messages_.begin() + tail),
                            std::make_move_iterator(messages_.end()));
    messages_.erase(messages_.begin() + tail, messages_.end());
    std::string last;
    try {
      last = render(messages_, true);
    } catch (const Error&) {  // `last` is empty then, which no turn begins with
    }
    for (Json& message : after) messages_.push_back(std::move(message));
    if (!text.starts_with(last) || spans.back().begin != last.size()) return std::nullopt;
    return spans;
  }

  const Tokenizer& tokenizer_;
  const ChatFormat& format_;
  Json messages_, tools_, variables_;
  std::vector<size_t> assistants_;    ///< indices of messages
  std::vector<std::string> special_;  ///< texts of the special tokens
  Prompt prompt_;                     ///< the whole conversation
};

}  // namespace

void append_conversation(Json&& record, const Tokenizer& tokenizer, const ChatFormat& format,
                         std::vector<uint32_t>& words) {
  Conversation(std::move(record), tokenizer, format).append(words);
}

}  // namespace qnext
