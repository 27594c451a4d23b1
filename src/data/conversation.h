#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "chat/chat_format.h"
#include "tokenizer/tokenizer.h"

namespace qnext {

/// Appends the words (data/token_shard.h) of a conversation: as the chat format renders it, with the assistant's
/// tokens as targets and nothing else. `record` is {"messages": [...], "tools": [...] or absent,
/// "chat_template_kwargs": {...} or absent}.
///
/// A turn's targets are what the model itself would have produced: everything after the generation prompt (thinking
/// and tool calls too) up to and with the token that ends the turn, <|im_end|>. The line end after it is not. Text is
/// cut into tokens at these edges, as it is when the model generates. The document ends with its last target.
///
/// The edges are those of growing beginnings of the conversation, rendered with the generation prompt before each
/// assistant message: each must be a beginning of the whole. Where a template renders a turn otherwise once more
/// follow (it drops earlier thinking), one document cannot hold what the model saw at each turn: an Error says which
/// message.
///
/// Throws Error for anything else that is wrong with the record, naming the field. Time is linear in the conversation
/// for templates whose turns do not depend on each other, else quadratic in the number of turns.
void append_conversation(nlohmann::ordered_json&& record, const Tokenizer& tokenizer, const ChatFormat& format,
                         std::vector<uint32_t>& words);

}  // namespace qnext
