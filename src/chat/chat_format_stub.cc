#include "chat/chat_format.h"
#include <nlohmann/json.hpp>
namespace qnext {
struct ChatTemplate::Impl {};
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(std::unique_ptr<Impl> i) : impl_(std::move(i)) {}
ChatTemplate ChatTemplate::parse(std::string, const std::string&, const TemplateLimits&) { return ChatTemplate(nullptr); }
ChatFormat ChatFormat::chatml() { return ChatFormat(ChatTemplate::parse("", ""), "ChatML", "", ""); }
ChatFormat ChatFormat::load(const std::filesystem::path&) { return chatml(); }
std::string ChatFormat::render(const nlohmann::ordered_json& m, const nlohmann::ordered_json&, bool g, const nlohmann::ordered_json&) const {
  std::string s;
  for (auto& x : m) s += "<|im_start|>" + x["role"].get<std::string>() + "\n" + (x["content"].is_string() ? x["content"].get<std::string>() : x["content"].dump()) + "<|im_end|>\n";
  if (g) s += "<|im_start|>assistant\n";
  return s;
}
}
