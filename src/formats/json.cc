#include "formats/json.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"

namespace qnext {

namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;

/// Sees every event of the parse and refuses what nlohmann would accept silently.
class StrictObserver {
 public:
  explicit StrictObserver(const std::string& file) : file_(file) {}

  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    using Event = json::parse_event_t;
    if (depth > kMaxDepth) {
      throw FileError(file_, "JSON", fmt::format("nesting of at most {} levels", kMaxDepth), "more");
    }
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::object_end) keys_.pop_back();
    if (event == Event::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second)
        throw FileError(file_, qnext::quoted(key), "each key once", "the key twice");
    }
    return true;
  }

 private:
  const std::string& file_;
  std::vector<std::set<std::string>> keys_;  // of the objects that are open, outermost first
};

}  // namespace

json parse_json_object(std::string_view text, const std::string& file) {
  json parsed;
  try {
    // By reference: nlohmann copies its callback.
    StrictObserver observer(file);
    parsed = json::parse(text.begin(), text.end(), std::ref(observer));
  } catch (const json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ...": the part after the tag is for people.
    std::string_view found = error.what();
    if (const size_t tag_end = found.find("] "); tag_end != found.npos) found.remove_prefix(tag_end + 2);
    throw FileError(file, "JSON", "valid JSON", qnext::quoted(found, 200));
  }
  if (!parsed.is_object()) throw FileError(file, "JSON", "an object", describe_json(parsed));
  return parsed;
}

std::string describe_json(const json& value) {
  switch (value.type()) {
    case json::value_t::object:
      return fmt::format("an object of {} fields", value.size());
    case json::value_t::array:
      return fmt::format("a list of {}", value.size());
    case json::value_t::string:
      return qnext::quoted(value.get_ref<const std::string&>());
    default:
      return value.dump();
  }
}

const json* JsonFields::find(std::string_view key) const {
  const auto it = object_->find(key);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

void JsonFields::fail(std::string_view key, const std::string& expected) const {
  const json* value = find(key);
  throw FileError(*file_, prefix_ + std::string(key), expected, value == nullptr ? "nothing" : describe_json(*value));
}

void JsonFields::fail_item(std::string_view key, size_t index, const std::string& expected) const {
  throw FileError(*file_, fmt::format("{}{}[{}]", prefix_, key, index), expected,
                  describe_json(find(key)->at(index)));
}

std::optional<int64_t> JsonFields::integer(std::string_view key, int64_t min, int64_t max) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  // is_number_unsigned holds for every non-negative integer; beyond int64 its value must not be read as signed.
  const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                                                : value->is_number_integer();
  if (!fits || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    fail(key, fmt::format("an integer from {} to {}", min, max));
  }
  return value->get<int64_t>();
}

int64_t JsonFields::required_integer(std::string_view key, int64_t min, int64_t max) const {
  const std::optional<int64_t> value = integer(key, min, max);
  if (!value.has_value()) fail(key, fmt::format("an integer from {} to {}", min, max));
  return *value;
}

std::optional<double> JsonFields::number(std::string_view key, double min, double max) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  const double x = value->is_number() ? value->get<double>() : NAN;
  if (!(x >= min && x <= max)) fail(key, fmt::format("a number from {} to {}", min, max));
  return x;
}

std::optional<bool> JsonFields::boolean(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonFields::text(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(key, "a string");
  return value->get<std::string>();
}

std::optional<JsonFields> JsonFields::object(std::string_view key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fail(key, "an object");
  return JsonFields(*value, *file_, prefix_ + std::string(key) + ".");
}

}  // namespace qnext
