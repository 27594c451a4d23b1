// For tests/chat/compare.py: reads lines of {"template", "variables", "now"?} and writes, for each, one line with
// {"text"} or {"error"}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "chat/template.h"

int main() {
  using Json = nlohmann::ordered_json;
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const Json request = Json::parse(line);
    Json reply;
    try {
      const auto parsed = qnext::ChatTemplate::parse(request.at("template").get<std::string>(), "template");
      std::optional<int64_t> now;
      if (request.contains("now")) now = request.at("now").get<int64_t>();
      reply["text"] = parsed.render(request.at("variables"), now);
    } catch (const qnext::Error& error) {
      reply["error"] = error.what();
    }
    std::cout << reply.dump(-1, ' ', true) << '\n';
  }
}
