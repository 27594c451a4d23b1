#include "chat/prompt.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;

constexpr char32_t kPrivateUseBegin = 0x100000, kPrivateUseEnd = 0x10FFFE;

std::string utf8_of(char32_t c) {
  return {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
          static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
}

/// Texts of the added tokens, and a quick test for where one may begin.
class AddedTokens {
 public:
  explicit AddedTokens(const Tokenizer& tokenizer) {
    for (const int32_t id : tokenizer.added_ids()) {
      if (tokenizer.token_bytes(id).empty()) continue;
      texts_.emplace_back(tokenizer.token_bytes(id));
      special_.push_back(tokenizer.is_special(id));
      begins_[static_cast<unsigned char>(texts_.back().front())] = true;
    }
    const auto same_first = [&](const std::string& text) { return text.front() == texts_.front().front(); };
    if (!texts_.empty() && std::ranges::all_of(texts_, same_first)) only_first_ = texts_.front().front();
  }

  /// The first place from `from` on where a token may begin; text.size() if there is none.
  size_t candidate(std::string_view text, size_t from) const {
    if (only_first_) return std::min(text.find(*only_first_, from), text.size());
    while (from < text.size() && !begins_[static_cast<unsigned char>(text[from])]) ++from;
    return from;
  }

  /// Index of the longest added token that begins at text[at].
  std::optional<size_t> at(std::string_view text, size_t at) const {
    if (!begins_[static_cast<unsigned char>(text[at])]) return std::nullopt;
    std::optional<size_t> best;
    for (size_t i = 0; i < texts_.size(); ++i) {
      if (text.substr(at).starts_with(texts_[i]) && (!best || texts_[i].size() > texts_[*best].size())) best = i;
    }
    return best;
  }
  const std::vector<std::string>& texts() const { return texts_; }
  bool is_special(size_t index) const { return special_[index]; }

 private:
  std::vector<std::string> texts_;
  std::vector<bool> special_;
  bool begins_[256] = {};
  std::optional<char> only_first_;  ///< when all begin with the same byte, as most do
};

template <class Visit>
void for_each_string(Json& value, const Visit& visit) {
  if (value.is_string()) {
    visit(value.get_ref<std::string&>());
  } else if (value.is_structured()) {
    for (Json& child : value) for_each_string(child, visit);
  }
}

/// Calls visit(text, of_assistant) for every string that tokens are replaced in.
template <class Visit>
void for_each_typed_string(Json& messages, Json& tools, AssistantTokens assistant, const Visit& visit) {
  for (Json& message : messages) {
    if (!message.is_object()) continue;
    const bool of_assistant = message.value("role", "") == "assistant";
    if (of_assistant && assistant == AssistantTokens::kParsed) continue;
    for (const auto& [key, value] : message.items()) {
      if (key != "role") for_each_string(value, [&](std::string& text) { visit(text, of_assistant); });
    }
  }
  for_each_string(tools, [&](std::string& text) { visit(text, false); });
}

/// The first code point of a run of `count` private-use characters that no text contains.
char32_t free_private_use(const std::vector<std::string_view>& texts, size_t count) {
  char32_t base = kPrivateUseBegin;
  for (const std::string_view text : texts) {
    for (size_t i = text.find('\xF4'); i != text.npos && i + 3 < text.size(); i = text.find('\xF4', i + 1)) {
      const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[i + k]); };
      if (byte(1) < 0x80 || byte(1) > 0x8F) continue;  // U+100000 to U+10FFFF
      const char32_t c = 0x100000u | (byte(1) & 15u) << 12 | (byte(2) & 63u) << 6 | (byte(3) & 63u);
      if (c >= base) base = c + 1;
    }
  }
  if (base + count > kPrivateUseEnd) {
    throw Error(
        "the conversation uses private-use characters up to U+10FFFD, which are needed to keep special tokens apart");
  }
  return base;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

std::string restored(std::string text, const Prompt& prompt) {
  for (const auto& [character, original] : prompt.typed) replace_all(text, character, original);
  return text;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> replace_typed_tokens(const Tokenizer& tokenizer, Json& messages,
                                                                      Json& tools, AssistantTokens assistant) {
  const AddedTokens added(tokenizer);
  std::vector<std::string_view> texts;
  for (Json* json : {&messages, &tools}) {
    for_each_string(*json, [&](const std::string& text) { texts.push_back(text); });
  }
  const char32_t base = free_private_use(texts, added.texts().size());

  std::vector<std::pair<std::string, std::string>> typed;
  std::vector<bool> used(added.texts().size(), false);
  for_each_typed_string(messages, tools, assistant, [&](std::string& text, bool of_assistant) {
    std::string safe;
    for (size_t i = 0; i < text.size();) {
      const size_t next = added.candidate(text, i);
      safe.append(text, i, next - i);
      if ((i = next) == text.size()) break;
      const std::optional<size_t> token = added.at(text, i);
      if (!token || (of_assistant && !added.is_special(*token))) {
        safe += text[i++];
        continue;
      }
      const std::string character = utf8_of(base + static_cast<char32_t>(*token));
      if (!used[*token]) typed.emplace_back(character, added.texts()[*token]);
      used[*token] = true;
      safe += character;
      i += added.texts()[*token].size();
    }
    text = std::move(safe);
  });
  return typed;
}

Prompt render_prompt(const ChatFormat& format, const Tokenizer& tokenizer, const Json& messages, const Json& tools,
                     bool add_generation_prompt, const Json& variables) {
  Json safe_messages = messages, safe_tools = tools;
  Prompt prompt;
  prompt.typed = replace_typed_tokens(tokenizer, safe_messages, safe_tools, AssistantTokens::kParsed);
  prompt.text = format.render(safe_messages, safe_tools, add_generation_prompt, variables);
  return prompt;
}

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const Prompt& prompt, size_t begin, size_t end) {
  const std::string_view text = std::string_view(prompt.text).substr(begin, end - begin);
  if (prompt.typed.empty()) return tokenizer.encode(text, SpecialTokens::kParse);
  const AddedTokens added(tokenizer);
  std::vector<int32_t> ids;
  size_t plain_begin = 0;
  const auto flush_plain = [&](size_t plain_end) {
    if (plain_end > plain_begin) {
      tokenizer.encode(restored(std::string(text.substr(plain_begin, plain_end - plain_begin)), prompt), ids,
                       SpecialTokens::kPlain);
    }
  };
  for (size_t i = added.candidate(text, 0); i < text.size(); i = added.candidate(text, i)) {
    const std::optional<size_t> token = added.at(text, i);
    if (!token) {
      ++i;
      continue;
    }
    flush_plain(i);
    tokenizer.encode(added.texts()[*token], ids, SpecialTokens::kParse);
    plain_begin = i += added.texts()[*token].size();
  }
  flush_plain(text.size());
  return ids;
}

std::string visible_text(const Prompt& prompt) { return restored(prompt.text, prompt); }

}  // namespace qnext
