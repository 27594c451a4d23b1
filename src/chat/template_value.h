#pragma once
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "chat/template_budget.h"

namespace qnext::jinja {

/// Python's int as far as 127 bits; beyond, operations fail instead of rounding.
using Int = __int128;

class Value;
struct Sequence;
struct Dict;
enum class SequenceKind;
struct Undefined {
  std::string message;  ///< what an operation on it fails with
};

/// What a template holds but cannot look into: functions, macros, namespaces, loops, iterators.
struct Object {
  virtual ~Object() = default;
  virtual std::string_view type_name() const = 0;  ///< as Python names it in messages
  virtual int32_t depth() const { return 0; }      ///< nesting of the data it holds
};

/// In the order of Value::Data's alternatives.
enum class Kind { kNone, kUndefined, kBool, kInt, kFloat, kString, kSequence, kDict, kObject };

/// A Python value. Immutable but for objects; copies share.
class Value {
 public:
  using Data = std::variant<std::monostate, std::shared_ptr<const Undefined>, bool, Int, double,
                            std::shared_ptr<const std::string>, std::shared_ptr<const Sequence>,
                            std::shared_ptr<const Dict>, std::shared_ptr<Object>>;

  Value() = default;  ///< None
  static Value undefined(std::string message);
  static Value boolean(bool value) { return Value(Data(value)); }
  static Value integer(Int value) { return Value(Data(value)); }
  static Value real(double value) { return Value(Data(value)); }
  static Value string(std::string text) { return Value(Data(std::make_shared<const std::string>(std::move(text)))); }
  static Value string(std::string_view text) { return string(std::string(text)); }
  static Value string(const char* text) { return string(std::string(text)); }
  static Value object(std::shared_ptr<Object> object) { return Value(Data(std::move(object))); }

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool is_none() const { return kind() == Kind::kNone; }
  bool is_undefined() const { return kind() == Kind::kUndefined; }
  bool is_bool() const { return kind() == Kind::kBool; }
  bool is_int() const { return kind() == Kind::kInt; }  ///< not bool, unlike Python's isinstance
  bool is_float() const { return kind() == Kind::kFloat; }
  bool is_string() const { return kind() == Kind::kString; }
  bool is_sequence() const { return kind() == Kind::kSequence; }
  bool is_dict() const { return kind() == Kind::kDict; }
  bool is_number() const { return is_bool() || is_int() || is_float(); }

  // The caller has checked the kind.
  const std::string& message() const { return std::get<1>(data_)->message; }
  bool as_bool() const { return std::get<bool>(data_); }
  double as_float() const { return std::get<double>(data_); }
  const std::string& text() const { return *std::get<5>(data_); }
  const Sequence& sequence() const { return *std::get<6>(data_); }
  const Dict& dict() const { return *std::get<7>(data_); }
  std::shared_ptr<const Sequence> share_sequence() const { return std::get<6>(data_); }
  std::shared_ptr<const Dict> share_dict() const { return std::get<7>(data_); }
  std::shared_ptr<const std::string> share_text() const { return std::get<5>(data_); }

  /// An int or a bool as an int.
  std::optional<Int> as_int() const;
  /// An int, a bool or a float as a float.
  std::optional<double> as_number() const;
  /// The object if it is a T, else nullptr.
  template <typename T>
  std::shared_ptr<T> as() const {
    const auto* object = std::get_if<std::shared_ptr<Object>>(&data_);
    return object ? std::dynamic_pointer_cast<T>(*object) : nullptr;
  }
  int32_t depth() const;

 private:
  friend Value make_sequence(Budget&, SequenceKind, std::vector<Value>);
  friend Value make_range(Budget&, Int, Int, Int);
  friend Value make_dict(Budget&, std::vector<std::pair<Value, Value>>);
  explicit Value(Data data) : data_(std::move(data)) {}
  Data data_;
};

/// The last three are dict views: iterable and sized, not indexable.
enum class SequenceKind { kList, kTuple, kRange, kItemsView, kKeysView, kValuesView };
struct Sequence {
  bool is_view() const { return kind >= SequenceKind::kItemsView; }
  SequenceKind kind;
  std::vector<Value> items;
  int32_t depth;
  Int start = 0, stop = 0, step = 1;  ///< of a range
};

/// Keys in insertion order.
struct Dict {
  /// The value, or nullptr. Throws for a key that Python cannot hash.
  const Value* find(Budget& budget, const Value& key) const;
  const Value* find(Budget& budget, std::string_view key) const;

  std::vector<std::pair<Value, Value>> entries;
  std::unordered_map<std::string_view, size_t> index;  ///< of string keys, when there are many entries
  int32_t depth = 1;
};

Value make_sequence(Budget& budget, SequenceKind kind, std::vector<Value> items);
inline Value make_list(Budget& budget, std::vector<Value> items) {
  return make_sequence(budget, SequenceKind::kList, std::move(items));
}
inline Value make_tuple(Budget& budget, std::vector<Value> items) {
  return make_sequence(budget, SequenceKind::kTuple, std::move(items));
}
Value make_range(Budget& budget, Int start, Int stop, Int step);
/// Later entries replace the values of equal earlier keys.
Value make_dict(Budget& budget, std::vector<std::pair<Value, Value>> entries);
/// A JSON value as template data. Throws Failure for invalid UTF-8 and nesting beyond the limit.
Value from_json(Budget& budget, const nlohmann::ordered_json& json, int32_t depth = 0);

/// A one-shot iterator: the result of map, select, items, ...
struct Iterator : Object {
  using Next = std::function<std::optional<Value>()>;
  Iterator(Next next_, int32_t depth_) : next(std::move(next_)), depth_of_source(depth_) {}
  std::string_view type_name() const override { return "generator"; }
  int32_t depth() const override { return depth_of_source; }
  Next next;
  int32_t depth_of_source;
};
/// iter(value); throws "'int' object is not iterable".
std::shared_ptr<Iterator> iterate(Budget& budget, const Value& value);
Value make_iterator(Budget& budget, int32_t source_depth, Iterator::Next next);
std::vector<Value> list_of(Budget& budget, const Value& value);  ///< list(value)
/// len(value), nothing for what has none.
std::optional<size_t> length_of(Budget& budget, const Value& value);

/// namespace(): the one thing a template can change.
struct Namespace : Object {
  std::string_view type_name() const override { return "Namespace"; }
  const Value* find(Budget& budget, std::string_view name) const;
  void set(Budget& budget, std::string_view name, Value value);
  std::vector<std::pair<std::string, Value>> attributes;
};

bool truthy(const Value& value);
std::string_view type_name(const Value& value);              ///< Python's: str, int, NoneType, ...
std::string to_text(Budget& budget, const Value& value);     ///< str(value)
std::string repr(Budget& budget, const Value& value);        ///< repr(value)
bool equal(Budget& budget, const Value& a, const Value& b);  ///< ==
/// a < b; throws "'<' not supported between instances of 'int' and 'str'" with the operator's sign.
bool less(Budget& budget, const Value& a, const Value& b, std::string_view sign, bool or_equal = false);
bool contains(Budget& budget, const Value& container, const Value& item);  ///< item in container
std::string int_text(Int value);

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  ///< one level of it
  std::string item_separator = ", ", key_separator = ": ";
  bool sort_keys = false;
};
std::string to_json(Budget& budget, const Value& value, const JsonStyle& style);  ///< json.dumps

}  // namespace qnext::jinja
