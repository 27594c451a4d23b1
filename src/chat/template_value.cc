#include "chat/template_value.h"

#include <algorithm>
#include <cmath>
#include <compare>
#include <limits>
#include <nlohmann/json.hpp>

#include "chat/template_text.h"

namespace qnext::jinja {

namespace {
constexpr size_t kIndexedDictSize = 9;  // below, comparing the keys one by one is faster than a hash table
constexpr size_t kMaxRange = 100'000;   // jinja2.sandbox.MAX_RANGE

void check_hashable(const Value& key) {
  const bool tuple = key.is_sequence() && key.sequence().kind == SequenceKind::kTuple;
  if (tuple) {
    for (const Value& item : key.sequence().items) check_hashable(item);
  } else if (key.is_dict() || (key.is_sequence() && key.sequence().kind != SequenceKind::kRange)) {
    throw Failure(fmt::format("unhashable type: '{}'", type_name(key)));
  }
}
}  // namespace

Value Value::undefined(std::string message) {
  return Value(Data(std::make_shared<const Undefined>(Undefined{std::move(message)})));
}

std::optional<Int> Value::as_int() const {
  if (is_int()) return std::get<Int>(data_);
  if (is_bool()) return as_bool() ? 1 : 0;
  return std::nullopt;
}

std::optional<double> Value::as_number() const {
  if (is_float()) return as_float();
  if (const auto number = as_int()) return static_cast<double>(*number);
  return std::nullopt;
}

int32_t Value::depth() const {
  switch (kind()) {
    case Kind::kSequence:
      return sequence().depth;
    case Kind::kDict:
      return dict().depth;
    case Kind::kObject:
      return std::get<8>(data_)->depth();
    default:
      return 0;
  }
}

Value make_sequence(Budget& budget, SequenceKind kind, std::vector<Value> items) {
  int32_t depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  budget.steps(1 + static_cast<int64_t>(items.size()));
  budget.data_depth(depth + 1);
  return Value(Value::Data(std::make_shared<const Sequence>(Sequence{kind, std::move(items), depth + 1})));
}

Value make_range(Budget& budget, Int start, Int stop, Int step) {
  if (step == 0) throw Failure("range() arg 3 must not be zero");
  constexpr Int kFar = Int{1} << 100;  // so that the differences below cannot overflow
  if (start > kFar || start < -kFar || stop > kFar || stop < -kFar || step > kFar || step < -kFar) {
    throw Failure("range() arguments are too large");
  }
  const Int count = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
  if (count > static_cast<Int>(kMaxRange)) {
    throw Failure(fmt::format("Range too big. The sandbox blocks ranges larger than {}.", kMaxRange));
  }
  std::vector<Value> items;
  for (Int i = 0; i < count; ++i) items.push_back(Value::integer(start + i * step));
  budget.steps(1 + static_cast<int64_t>(items.size()));
  return Value(Value::Data(
      std::make_shared<const Sequence>(Sequence{SequenceKind::kRange, std::move(items), 1, start, stop, step})));
}

const Value* Dict::find(Budget& budget, std::string_view key) const {
  if (!index.empty() || entries.size() >= kIndexedDictSize) {
    const auto found = index.find(key);
    return found == index.end() ? nullptr : &entries[found->second].second;
  }
  budget.steps(1);
  for (const auto& [k, v] : entries) {
    if (k.is_string() && k.text() == key) return &v;
  }
  return nullptr;
}

const Value* Dict::find(Budget& budget, const Value& key) const {
  if (key.is_string()) return find(budget, std::string_view(key.text()));
  check_hashable(key);
  for (const auto& [k, v] : entries) {
    if (!k.is_string() && equal(budget, k, key)) return &v;
  }
  budget.steps(static_cast<int64_t>(entries.size() / 8));
  return nullptr;
}

Value make_dict(Budget& budget, std::vector<std::pair<Value, Value>> entries) {
  auto dict = std::make_shared<Dict>();
  for (auto& [key, value] : entries) {
    budget.steps(1);
    dict->depth = std::max(dict->depth, 1 + std::max(key.depth(), value.depth()));
    if (const Value* old = dict->find(budget, key)) {
      *const_cast<Value*>(old) = std::move(value);  // the dict is still ours alone
      continue;
    }
    dict->entries.emplace_back(std::move(key), std::move(value));
    // The views point into shared texts, which outlive moves of their Values.
    const auto add = [&](size_t i) {
      const Value& k = dict->entries[i].first;
      if (k.is_string()) dict->index.emplace(k.text(), i);
    };
    if (dict->entries.size() > kIndexedDictSize) {
      add(dict->entries.size() - 1);
    } else if (dict->entries.size() == kIndexedDictSize) {
      for (size_t i = 0; i < kIndexedDictSize; ++i) add(i);
    }
  }
  budget.data_depth(dict->depth);
  return Value(Value::Data(std::shared_ptr<const Dict>(std::move(dict))));
}

Value from_json(Budget& budget, const nlohmann::ordered_json& json, int32_t depth) {
  budget.data_depth(depth);
  switch (json.type()) {
    case nlohmann::json::value_t::null:
      return Value();
    case nlohmann::json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case nlohmann::json::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case nlohmann::json::value_t::number_unsigned:
      return Value::integer(static_cast<Int>(json.get<uint64_t>()));
    case nlohmann::json::value_t::number_float:
      return Value::real(json.get<double>());
    case nlohmann::json::value_t::string: {
      const auto& text = json.get_ref<const std::string&>();
      if (!is_utf8(text))
        throw Failure(fmt::format("text of the conversation is not UTF-8: {}", qnext::quoted(text)));
      return Value::string(text);
    }
    case nlohmann::json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json(budget, item, depth + 1));
      return make_list(budget, std::move(items));
    }
    case nlohmann::json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      entries.reserve(json.size());
      for (const auto& [key, item] : json.items()) {
        if (!is_utf8(key))
          throw Failure(fmt::format("a key of the conversation is not UTF-8: {}", qnext::quoted(key)));
        entries.emplace_back(Value::string(key), from_json(budget, item, depth + 1));
      }
      return make_dict(budget, std::move(entries));
    }
    default:
      throw Failure("the conversation holds a value that is not JSON");
  }
}

Value make_iterator(Budget& budget, int32_t source_depth, Iterator::Next next) {
  budget.steps(4);
  budget.data_depth(source_depth + 1);
  return Value::object(std::make_shared<Iterator>(std::move(next), source_depth + 1));
}

std::shared_ptr<Iterator> iterate(Budget& budget, const Value& value) {
  Iterator::Next next;
  switch (value.kind()) {
    case Kind::kUndefined:
      next = [] { return std::nullopt; };
      break;
    case Kind::kString:
      next = [&budget, text = value.share_text(), at = size_t{0}]() mutable -> std::optional<Value> {
        if (at == text->size()) return std::nullopt;
        budget.steps(1);
        const size_t begin = at;
        next_code_point(*text, at);
        return Value::string(text->substr(begin, at - begin));
      };
      break;
    case Kind::kSequence:
      next = [&budget, sequence = value.share_sequence(), i = size_t{0}]() mutable -> std::optional<Value> {
        if (i == sequence->items.size()) return std::nullopt;
        budget.steps(1);
        return sequence->items[i++];
      };
      break;
    case Kind::kDict:
      next = [&budget, dict = value.share_dict(), i = size_t{0}]() mutable -> std::optional<Value> {
        if (i == dict->entries.size()) return std::nullopt;
        budget.steps(1);
        return dict->entries[i++].first;
      };
      break;
    default:
      if (auto iterator = value.as<Iterator>()) return iterator;
      throw Failure(fmt::format("'{}' object is not iterable", type_name(value)));
  }
  budget.data_depth(value.depth() + 1);
  return std::make_shared<Iterator>(std::move(next), value.depth() + 1);
}

std::vector<Value> list_of(Budget& budget, const Value& value) {
  if (value.is_sequence()) {
    budget.steps(static_cast<int64_t>(value.sequence().items.size()));
    return value.sequence().items;
  }
  std::vector<Value> items;
  const auto iterator = iterate(budget, value);
  while (auto item = iterator->next()) items.push_back(std::move(*item));
  return items;
}

std::optional<size_t> length_of(Budget& budget, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      budget.scan(value.text().size());
      return code_point_count(value.text());
    case Kind::kSequence:
      return value.sequence().items.size();
    case Kind::kDict:
      return value.dict().entries.size();
    default:
      return std::nullopt;
  }
}

const Value* Namespace::find(Budget& budget, std::string_view name) const {
  budget.steps(1 + static_cast<int64_t>(attributes.size() / 8));
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::set(Budget& budget, std::string_view name, Value value) {
  if (const Value* old = find(budget, name)) {
    *const_cast<Value*>(old) = std::move(value);
  } else {
    attributes.emplace_back(std::string(name), std::move(value));
  }
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kNone:
    case Kind::kUndefined:
      return false;
    case Kind::kBool:
      return value.as_bool();
    case Kind::kInt:
      return *value.as_int() != 0;
    case Kind::kFloat:
      return value.as_float() != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kSequence:
      return !value.sequence().items.empty();
    case Kind::kDict:
      return !value.dict().entries.empty();
    case Kind::kObject:
      return true;
  }
  return true;
}

std::string_view type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kNone:
      return "NoneType";
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kDict:
      return "dict";
    case Kind::kObject:
      return value.as<Object>()->type_name();
    case Kind::kSequence:
      break;
  }
  constexpr std::string_view kNames[] = {"list", "tuple", "range", "dict_items", "dict_keys", "dict_values"};
  return kNames[static_cast<size_t>(value.sequence().kind)];
}

std::string int_text(Int value) { return fmt::format("{}", value); }

namespace {
/// Numbers compare by value whatever their types. A long double holds every int of 64 bits.
std::partial_ordering compare_numbers(const Value& a, const Value& b) {
  const auto x = a.as_int(), y = b.as_int();
  if (x && y) return *x <=> *y;
  const auto wide = [](const Value& v) {
    return v.is_float() ? static_cast<long double>(v.as_float()) : static_cast<long double>(*v.as_int());
  };
  return wide(a) <=> wide(b);
}

bool equal_dicts(Budget& budget, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(budget, key);
    if (other == nullptr || !equal(budget, value, *other)) return false;
  }
  return true;
}

[[noreturn]] void not_supported(std::string_view sign, const Value& a, const Value& b) {
  if (a.is_undefined() || b.is_undefined()) throw Failure(a.is_undefined() ? a.message() : b.message());
  throw Failure(
      fmt::format("'{}' not supported between instances of '{}' and '{}'", sign, type_name(a), type_name(b)));
}
}  // namespace

bool equal(Budget& budget, const Value& a, const Value& b) {
  budget.steps(1);
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kNone:
    case Kind::kUndefined:
      return true;
    case Kind::kString:
      budget.scan(std::min(a.text().size(), b.text().size()));
      return a.text() == b.text();
    case Kind::kDict:
      return equal_dicts(budget, a.dict(), b.dict());
    case Kind::kObject:
      return a.as<Object>() == b.as<Object>();
    default:
      break;
  }
  const Sequence &x = a.sequence(), &y = b.sequence();
  if (x.kind != y.kind) return false;
  if (x.is_view() && x.kind == SequenceKind::kValuesView) return &x == &y;
  if (x.items.size() != y.items.size()) return false;
  for (size_t i = 0; i < x.items.size(); ++i) {
    if (!equal(budget, x.items[i], x.is_view() ? x.items[i] : y.items[i])) return false;
    if (x.is_view() && !contains(budget, b, x.items[i])) return false;  // views compare as sets
  }
  return true;
}

bool less(Budget& budget, const Value& a, const Value& b, std::string_view sign, bool or_equal) {
  budget.steps(1);
  const auto holds = [or_equal](std::partial_ordering order) { return order < 0 || (or_equal && order == 0); };
  if (a.is_number() && b.is_number()) return holds(compare_numbers(a, b));
  if (a.is_string() && b.is_string()) {
    budget.scan(std::min(a.text().size(), b.text().size()));
    return holds(a.text() <=> b.text());  // the order of UTF-8 bytes is that of code points
  }
  if (!a.is_sequence() || !b.is_sequence()) not_supported(sign, a, b);
  const Sequence &x = a.sequence(), &y = b.sequence();
  if (x.kind != y.kind || (x.kind != SequenceKind::kList && x.kind != SequenceKind::kTuple))
    not_supported(sign, a, b);
  const size_t common = std::min(x.items.size(), y.items.size());
  for (size_t i = 0; i < common; ++i) {
    if (!equal(budget, x.items[i], y.items[i])) return less(budget, x.items[i], y.items[i], sign, or_equal);
  }
  return holds(x.items.size() <=> y.items.size());
}

bool contains(Budget& budget, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kString:
      if (!item.is_string()) {
        throw Failure(fmt::format("'in <string>' requires string as left operand, not {}", type_name(item)));
      }
      budget.scan(container.text().size() + item.text().size());
      return find_bytes(container.text(), item.text(), 0) != std::string_view::npos;
    case Kind::kDict:
      return container.dict().find(budget, item) != nullptr;
    case Kind::kSequence:
      for (const Value& element : container.sequence().items) {
        if (equal(budget, element, item)) return true;
      }
      return false;
    default:
      break;
  }
  const auto iterator = container.as<Iterator>();
  if (!iterator) throw Failure(fmt::format("argument of type '{}' is not iterable", type_name(container)));
  while (const auto element = iterator->next()) {
    if (equal(budget, *element, item)) return true;
  }
  return false;
}

}  // namespace qnext::jinja
