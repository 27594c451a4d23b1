#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/chat_format.h"
#include "tokenizer/tokenizer.h"

namespace qnext {

/// A rendered conversation that still knows which of its special tokens the template wrote and which a person typed.
///
/// A chat template yields one string. Were it encoded as it is, a user who types "<|im_end|>" would end their own
/// turn and could speak as the system. So before rendering, every added token's text inside user, system and tool
/// messages and tool definitions is replaced by one private-use character (U+100000 onwards, one per token) that
/// occurs nowhere in the conversation; the template treats it like any other character. After rendering, the pieces
/// between the template's own tokens are encoded as plain text, with the replaced texts back in place. Messages of
/// the assistant are left alone: what the model wrote as <think> or <tool_call> must be read as that token again.
struct Prompt {
  std::string text;                                        ///< as rendered, replacements included
  std::vector<std::pair<std::string, std::string>> typed;  ///< replacement character, the text it stands for
};

/// Arguments as for ChatFormat::render. A conversation that contains none of the tokens' texts renders to exactly
/// what ChatFormat::render gives. The replacements depend on the tokenizer alone (unless a message contains
/// private-use characters itself), so a growing conversation renders to a growing text.
Prompt render_prompt(const ChatFormat& format, const Tokenizer& tokenizer, const nlohmann::ordered_json& messages,
                     const nlohmann::ordered_json& tools, bool add_generation_prompt,
                     const nlohmann::ordered_json& variables);

/// Whether special tokens' texts in the assistant's messages are replaced too. Other added tokens (<think>) never
/// are.
enum class AssistantTokens {
  kParsed,  ///< the model wrote them
  kPlain,   ///< messages from a data set: nothing in them may end a turn
};

/// The first half of render_prompt, for those who render several beginnings of one conversation: replaces the tokens'
/// texts in place, and returns Prompt::typed.
std::vector<std::pair<std::string, std::string>> replace_typed_tokens(const Tokenizer& tokenizer,
                                                                      nlohmann::ordered_json& messages,
                                                                      nlohmann::ordered_json& tools,
                                                                      AssistantTokens assistant);

/// The tokens of the bytes [begin, end) of prompt.text.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const Prompt& prompt, size_t begin = 0,
                                   size_t end = std::string::npos);

/// The text as a reader sees it: the replacements undone.
std::string visible_text(const Prompt& prompt);

}  // namespace qnext
