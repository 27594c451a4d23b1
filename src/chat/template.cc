#include "chat/template.h"

#include <ctime>

#include "chat/template_eval.h"
#include "chat/template_lexer.h"
#include "chat/template_parser.h"
#include "chat/template_text.h"

namespace qnext {

struct ChatTemplate::Impl {
  std::string file;
  TemplateLimits limits;
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

ChatTemplate ChatTemplate::parse(std::string source, const std::string& file, const TemplateLimits& limits) {
  if (source.size() > static_cast<size_t>(limits.template_bytes)) {
    throw FileError(file, "template", fmt::format("at most {} bytes", limits.template_bytes),
                    fmt::format("{}", source.size()));
  }
  if (!jinja::is_utf8(source)) throw FileError(file, "template", "UTF-8 text", "other bytes");
  return ChatTemplate(std::make_unique<Impl>(Impl{file, limits, jinja::parse(source, file, limits)}));
}

std::string ChatTemplate::render(const nlohmann::ordered_json& variables, std::optional<int64_t> now) const {
  jinja::Interpreter interpreter(impl_->limits, now.value_or(static_cast<int64_t>(std::time(nullptr))));
  try {
    return interpreter.run(impl_->body, variables);
  } catch (const jinja::Failure& failure) {
    throw Error(fmt::format("{}: template line {}: {}", impl_->file, interpreter.line(), failure.what()));
  }
}

}  // namespace qnext
