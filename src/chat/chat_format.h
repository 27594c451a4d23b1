#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "chat/template.h"

namespace qnext {

/// How a model's conversations become prompt text: its own template, or ChatML where it ships none.
class ChatFormat {
 public:
  /// From a model directory: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json` (a string, or a
  /// list of {name, template} of which "default" is taken), else ChatML. Throws FileError.
  static ChatFormat load(const std::filesystem::path& directory);
  /// From a template's text. `file` names it in messages.
  static ChatFormat from_template(std::string source, const std::string& file, std::string bos_token,
                                  std::string eos_token);
  /// <|im_start|>ROLE\nCONTENT<|im_end|>\n per message.
  static ChatFormat chatml();

  /// messages: [{"role", "content", ...}]; tools: array or null; variables: further template variables
  /// (enable_thinking, ...). bos_token/eos_token are those of tokenizer_config.json. Returns the prompt text.
  std::string render(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                     bool add_generation_prompt, const nlohmann::ordered_json& variables) const;
  const std::string& source_name() const { return source_name_; }  ///< file it came from, or "ChatML"
  /// The template's text; null when it is the built-in ChatML.
  const std::string* source() const { return source_ ? &*source_ : nullptr; }
  const std::string& eos_token() const { return eos_token_; }

 private:
  static ChatFormat built_in(std::string bos_token, std::string eos_token);
  ChatFormat(ChatTemplate parsed, std::optional<std::string> source, std::string source_name, std::string bos_token,
             std::string eos_token)
      : template_(std::move(parsed)),
        source_(std::move(source)),
        source_name_(std::move(source_name)),
        bos_token_(std::move(bos_token)),
        eos_token_(std::move(eos_token)) {}
  ChatTemplate template_;
  std::optional<std::string> source_;
  std::string source_name_, bos_token_, eos_token_;
};

}  // namespace qnext
