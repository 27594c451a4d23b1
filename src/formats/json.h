#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace qnext {

/// Parses `text` as one JSON object. `file` names it in messages. Throws FileError for everything else: malformed
/// JSON or UTF-8, text after the object, a key twice in one object (parsers disagree about which one counts), nesting
/// deeper than 64.
nlohmann::json parse_json_object(std::string_view text, const std::string& file);

/// Checked access to the fields of a JSON object: each getter throws FileError naming file, field, expected and found
/// when the field has another type or lies outside its range. A field that is null counts as absent, as it does in
/// transformers. A view: the object and the file name must outlive it.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, const std::string& file, std::string prefix = "")
      : object_(&object), file_(&file), prefix_(std::move(prefix)) {}

  /// The value, or nullptr when absent or null.
  const nlohmann::json* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  /// An integer literal in [min, max]; 3.0 is not one.
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max) const;
  int64_t required_integer(std::string_view key, int64_t min, int64_t max) const;
  /// A finite number in [min, max].
  std::optional<double> number(std::string_view key, double min, double max) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;
  std::optional<JsonFields> object(std::string_view key) const;

  /// Throws FileError for this field with the value it has.
  [[noreturn]] void fail(std::string_view key, const std::string& expected) const;
  /// The same for an item of this field, which is a list.
  [[noreturn]] void fail_item(std::string_view key, size_t index, const std::string& expected) const;

 private:
  const nlohmann::json* object_;
  const std::string* file_;
  std::string prefix_;  ///< "rope_parameters." for the fields of a nested object
};

/// A JSON value for an error message: scalars as written (cut), containers by kind and size.
std::string describe_json(const nlohmann::json& value);

}  // namespace qnext
