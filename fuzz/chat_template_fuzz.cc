// Chat templates from bytes: parsed and rendered with a fixed conversation and low limits. Whatever the bytes, the
// result is a text or a qnext::Error, soon.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "chat/template.h"

namespace {

const nlohmann::ordered_json& conversation() {
  static const auto json = nlohmann::ordered_json::parse(R"({
    "messages": [
      {"role": "system", "content": "Sé breve."},
      {"role": "user", "content": "Weather in Paris? 🙂"},
      {"role": "assistant", "content": "<think>\nhm\n</think>\n\n", "reasoning_content": null,
       "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "n": 2.5}}}]},
      {"role": "tool", "content": "18 C"},
      {"role": "user", "content": [{"type": "text", "text": "thanks"}]}],
    "tools": [{"type": "function", "function": {"name": "weather", "description": " d ", "parameters":
      {"type": "object", "properties": {"city": {"type": "string", "enum": ["a", 1, null, true]}}, "required": ["city"]}}}],
    "add_generation_prompt": true, "s": "a,b", "n": 7, "f": -1.5e300, "l": [3, 1, 2], "d": {"k": "v", "items": 1},
    "big": 18446744073709551615})");
  return json;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  qnext::TemplateLimits limits;
  limits.steps = 20'000;
  limits.output_bytes = 1 << 16;
  limits.depth = 60;
  limits.template_bytes = 1 << 14;
  try {
    const auto parsed =
        qnext::ChatTemplate::parse(std::string(reinterpret_cast<const char*>(data), size), "fuzz", limits);
    parsed.render(conversation(), 1'700'000'000);
  } catch (const qnext::Error&) {
  }
  return 0;
}
