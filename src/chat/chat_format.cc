#include "chat/chat_format.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/mapped_file.h"

namespace qnext {

namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kMaxConfigBytes = 64 << 20;  // tokenizer_config.json lists every added token

constexpr const char* kChatMl =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

std::string describe(const Json& json) { return json.is_string() ? "a string" : std::string(json.type_name()); }

Json read_config(const std::filesystem::path& path) {
  Json config;
  try {
    config = Json::parse(read_text_file(path, kMaxConfigBytes));
  } catch (const Json::exception& error) {
    throw FileError(path.string(), "content", "JSON", qnext::quoted(error.what(), 200));
  }
  if (!config.is_object()) throw FileError(path.string(), "content", "an object", describe(config));
  return config;
}

/// A special token of tokenizer_config.json: a string, an object with "content", null, or absent.
std::string special_token(const Json& config, const char* field, const std::string& file) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && found->at("content").is_string()) {
    return found->at("content").get<std::string>();
  }
  throw FileError(file, field, "a string, null, or an object with a string content", describe(*found));
}

/// The template of tokenizer_config.json: a string, or the "default" of a list of named ones; nothing if absent.
std::optional<std::string> config_template(const Json& config, const std::string& file) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) {
    throw FileError(file, "chat_template", "a string or a list of {name, template}", describe(*found));
  }
  for (const Json& entry : *found) {
    const bool named = entry.is_object() && entry.contains("name") && entry.at("name").is_string() &&
                       entry.contains("template") && entry.at("template").is_string();
    if (!named)
      throw FileError(file, "chat_template", "a list of {name, template}",
                      qnext::quoted(entry.dump(-1, ' ', true), 60));
    if (entry.at("name") == "default") return entry.at("template").get<std::string>();
  }
  throw FileError(file, "chat_template", "a template named default", "none of that name");
}

}  // namespace

ChatFormat ChatFormat::load(const std::filesystem::path& directory) {
  const auto config_path = directory / "tokenizer_config.json";
  const std::string config_file = config_path.string();
  const Json config = std::filesystem::exists(config_path) ? read_config(config_path) : Json::object();
  std::string bos = special_token(config, "bos_token", config_file);
  std::string eos = special_token(config, "eos_token", config_file);

  const auto make = [&](std::string source, const std::string& file) {
    return from_template(std::move(source), file, std::move(bos), std::move(eos));
  };
  const auto template_path = directory / "chat_template.jinja";
  if (std::filesystem::exists(template_path)) {
    const TemplateLimits limits;
    return make(read_text_file(template_path, static_cast<size_t>(limits.template_bytes)), template_path.string());
  }
  if (auto source = config_template(config, config_file)) return make(std::move(*source), config_file);
  return built_in(std::move(bos), std::move(eos));
}

ChatFormat ChatFormat::from_template(std::string source, const std::string& file, std::string bos_token,
                                     std::string eos_token) {
  ChatTemplate parsed = ChatTemplate::parse(source, file);
  return ChatFormat(std::move(parsed), std::move(source), file, std::move(bos_token), std::move(eos_token));
}

ChatFormat ChatFormat::built_in(std::string bos_token, std::string eos_token) {
  return ChatFormat(ChatTemplate::parse(kChatMl, "ChatML"), std::nullopt, "ChatML", std::move(bos_token),
                    std::move(eos_token));
}

ChatFormat ChatFormat::chatml() { return built_in("", ""); }

std::string ChatFormat::render(const Json& messages, const Json& tools, bool add_generation_prompt,
                               const Json& variables) const {
  if (!messages.is_array()) throw Error("messages must be a list");
  Json all = Json::object();
  // Further variables first, as in transformers: the conversation itself cannot be replaced by them.
  if (variables.is_object()) {
    all = variables;
  } else if (!variables.is_null()) {
    throw Error("the variables of a chat template must be an object");
  }
  if (!bos_token_.empty()) all["bos_token"] = bos_token_;
  if (!eos_token_.empty()) all["eos_token"] = eos_token_;
  all["messages"] = messages;
  all["tools"] = tools;
  all["add_generation_prompt"] = add_generation_prompt;
  return template_.render(all);
}

}  // namespace qnext
