#pragma once
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace qnext {

/// What one rendering may cost; beyond it, rendering stops with an Error that names the limit.
struct TemplateLimits {
  int64_t steps = 5'000'000;        ///< nodes, loop iterations, list items, and 64 bytes of any text: time and memory
  int64_t output_bytes = 64 << 20;  ///< of the output and of every intermediate text
  int32_t depth = 200;  ///< nesting of the source and of data; of evaluation, macro calls included, 4 times it
  int64_t template_bytes = 1 << 20;  ///< of the template's source
};

/// A chat template: the Jinja subset that model files use, interpreted. It sees the given variables and nothing else:
/// there are no host objects, imports, includes or attribute access beyond the keys of data and the string/list/dict
/// methods of template_methods.cc. Equal to jinja2's ImmutableSandboxedEnvironment(trim_blocks=True,
/// lstrip_blocks=True, extensions=[loopcontrols]) with transformers' tojson, raise_exception, strftime_now and
/// {% generation %}, but for these: recursive loops, blocks, imports, non-ASCII names, integers from 2^127 and
/// complex numbers are refused; so is printing what Python shows with an address; safe and escape give ordinary text.
class ChatTemplate {
 public:
  /// Parses. Throws FileError ("FILE: template line N: expected ..., found ...") for a construct it lacks.
  static ChatTemplate parse(std::string source, const std::string& file, const TemplateLimits& limits = {});
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  /// Renders with the keys of `variables` (an ordered JSON object: messages, tools, add_generation_prompt, ...) as
  /// globals. Throws Error for raise_exception (with its text), undefined operations, and exceeded limits.
  /// Thread-safe: rendering never changes the template.
  /// strftime_now reads `now` (Unix seconds, shown in local time), by default the clock.
  std::string render(const nlohmann::ordered_json& variables, std::optional<int64_t> now = std::nullopt) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace qnext
