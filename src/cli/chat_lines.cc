#include "cli/chat_lines.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "cli/chat_session.h"
#include "cli/terminal.h"

namespace qnext::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxLineBytes = size_t{256} << 20;
constexpr int kMaxDepth = 64;
constexpr int kExitInterrupted = 130;

/// What one line asks for.
struct Request {
  bool anew = false;  ///< `messages` replace the conversation; otherwise there is one, and it is added
  std::vector<ChatMessage> messages;
  std::string tools;
  TypedSampling sampling;
  bool stream = false;
};

[[noreturn]] void wrong(const std::string& field, const char* expected, const Json& found) {
  throw FileError("request", field, expected, found.is_string() ? "a string" : found.dump().substr(0, 40));
}

std::string text_field(const Json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) throw FileError("request", where + key, "a string", "none");
  if (!it->is_string()) wrong(where + key, "a string", *it);
  return it->get<std::string>();
}

ChatMessage message_from(const Json& json, const std::string& where) {
  if (!json.is_object()) wrong(where, "an object", json);
  ChatMessage message{text_field(json, "role", where + "."), {}, {}};
  const auto content = json.find("content");
  if (content != json.end() && !content->is_null()) message.content = text_field(json, "content", where + ".");
  const auto calls = json.find("tool_calls");
  if (calls != json.end() && !calls->is_null()) {
    if (!calls->is_array()) wrong(where + ".tool_calls", "an array", *calls);
    message.tool_calls = calls->dump();
  }
  return message;
}

double number(const Json& json, const char* key, double low, double high) {
  if (!json.is_number() || json.get<double>() < low || json.get<double>() > high) {
    throw FileError("request", key, fmt::format("a number from {} to {}", low, high), json.dump().substr(0, 40));
  }
  return json.get<double>();
}

int64_t integer(const Json& json, const char* key, int64_t high) {
  if (!json.is_number_integer() || json < 0 || json > high) {
    throw FileError("request", key, fmt::format("a whole number from 0 to {}", high), json.dump().substr(0, 40));
  }
  return json.get<int64_t>();
}

Request parse_request(const std::string& line, const TypedSampling& defaults) {
  const Json json = Json::parse(
      line,
      [](int depth, Json::parse_event_t, const Json&) {
        if (depth > kMaxDepth)
          throw FileError("request", "JSON", fmt::format("at most {} levels", kMaxDepth), "more");
        return true;
      },
      false);
  if (json.is_discarded()) throw FileError("request", "line", "a JSON object", line.substr(0, 40));
  if (!json.is_object()) wrong("line", "a JSON object", json);
  Request request;
  request.sampling = defaults;
  for (const auto& [key, value] : json.items()) {
    if (key == "messages") {
      if (!value.is_array() || value.empty()) wrong(key, "an array of messages", value);
      request.anew = true;
      for (size_t i = 0; i < value.size(); ++i)
        request.messages.push_back(message_from(value[i], fmt::format("messages[{}]", i)));
    } else if (key == "tools") {
      if (!value.is_array()) wrong(key, "an array", value);
      if (!value.empty()) request.tools = value.dump();
    } else if (key == "max_tokens") {
      request.sampling.max_tokens = integer(value, "max_tokens", int64_t{1} << 40);
    } else if (key == "temperature") {
      request.sampling.temperature = number(value, "temperature", 0, 1e6);
    } else if (key == "top_p") {
      request.sampling.top_p = number(value, "top_p", 0, 1);
    } else if (key == "top_k") {
      request.sampling.top_k = integer(value, "top_k", int64_t{1} << 31);
    } else if (key == "seed") {
      request.sampling.seed = static_cast<uint64_t>(integer(value, "seed", int64_t{1} << 62));
    } else if (key == "stop") {
      if (!value.is_array()) wrong(key, "an array of strings", value);
      request.sampling.stop.clear();
      for (const Json& stop : value) {
        if (!stop.is_string() || stop.get_ref<const std::string&>().empty()) wrong("stop", "strings", stop);
        request.sampling.stop.push_back(stop.get<std::string>());
      }
    } else if (key == "stream") {
      if (!value.is_boolean()) wrong(key, "true or false", value);
      request.stream = value.get<bool>();
    } else if (key != "content" && key != "role") {
      throw FileError("request", "key",
                      "messages, tools, role, content, max_tokens, temperature, top_p, top_k, seed, stop or stream",
                      key);
    }
  }
  if (request.anew && json.contains("content")) throw FileError("request", "content", "none beside messages", "one");
  if (!request.anew) {
    if (!request.tools.empty()) throw FileError("request", "tools", "messages beside them", "none");
    const std::string role = json.contains("role") ? text_field(json, "role", "") : "user";
    request.messages.push_back({role, text_field(json, "content", ""), {}});
  }
  return request;
}

void print(const Json& json) {
  // A token may be half a character, so text from a model is made valid rather than refused.
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
  std::fflush(stdout);
}

}  // namespace

int converse_in_lines(const RunOptions& options, std::istream& in) {
  Talker talker(options);
  talker.open(options, 0);
  ChatSession session(*talker.model, talker.tokenizer, talker.files.chat_format(), talker.sampler(),
                      talker.generate_options(options.sampling), options.system);
  const uint64_t seed = talker.sampling.seed;
  for (std::string line; std::getline(in, line);) {
    if (interrupted()) return kExitInterrupted;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      if (line.size() > kMaxLineBytes) {
        throw FileError("request", "line", fmt::format("at most {} bytes", kMaxLineBytes),
                        std::to_string(line.size()));
      }
      Request request = parse_request(line, options.sampling);
      // Answers do not depend on how many came before: every request samples from its seed's beginning.
      if (!request.sampling.seed) request.sampling.seed = seed;
      talker.sampling = sampling_options(request.sampling, talker.generation);
      session.set_sampler(talker.sampler());
      session.set_options(talker.generate_options(request.sampling));
      GenerateEvents events;
      events.cancel = &interrupted();
      Progress progress("reading the prompt", "tokens", !options.quiet);
      events.on_prefill = [&progress](int64_t done, int64_t total) {
        progress.update(done, total);
        if (done == total) progress.finish();
      };
      if (request.stream) events.on_text = [](std::string_view piece) { print({{"piece", piece}}); };
      const GenerateResult result =
          request.anew ? session.restart(std::move(request.messages), std::move(request.tools), events)
                       : session.ask(std::move(request.messages.front()), events);
      print(result_json(result, talker));
      if (result.reason == FinishReason::kCancelled) return kExitInterrupted;
    } catch (const Error& error) {
      print({{"error", error.what()}});
    }
  }
  return 0;
}

}  // namespace qnext::cli
