// Methods of strings, lists, tuples and dicts, and the global functions.
#include <algorithm>
#include <ctime>

#include "chat/template_eval.h"
#include "chat/template_text.h"

namespace qnext::jinja {

enum class Owner { kString, kList, kTuple, kRange, kDict };
using MethodBody = Value (*)(Interpreter&, const Value& self, const CallArguments&);
struct Method {
  Owner owner;
  std::string_view name;
  MethodBody body = nullptr;  ///< nullptr: Python has it, we do not
  bool changes = false;       ///< its object, which the sandbox refuses
};

std::string_view method_name(const Method& method) { return method.name; }
bool changes_object(const Method& method) { return method.changes; }

namespace {

using Arguments = const CallArguments&;

std::optional<std::string_view> optional_text(const Value* value, std::string_view what) {
  if (value == nullptr || value->is_none()) return std::nullopt;
  if (!value->is_string()) throw Failure(fmt::format("{} must be a string or None, not {}", what, type_name(*value)));
  return value->text();
}

Value strip_method(Interpreter& in, const Value& self, Arguments arguments, Side side) {
  const Bound bound("strip", arguments, {""});
  const auto characters = optional_text(bound[0], "the argument of strip");
  in.budget().scan(self.text().size() * std::max<size_t>(1, characters ? characters->size() : 1));
  return Value::string(strip(self.text(), side, characters));
}

Value list_of_texts(Interpreter& in, const std::vector<std::string_view>& parts) {
  std::vector<Value> items;
  for (const std::string_view part : parts) {
    in.budget().make(part.size());
    items.push_back(Value::string(part));
  }
  return make_list(in.budget(), std::move(items));
}

Value split_method(Interpreter& in, const Value& self, Arguments arguments, bool from_right) {
  const Bound bound("split", arguments, {"sep", "maxsplit"});
  const auto separator = optional_text(bound[0], "the separator");
  if (separator && separator->empty()) throw Failure("empty separator");
  const int64_t limit = bound.integer(1, -1);
  in.budget().scan(self.text().size());
  return list_of_texts(in, from_right ? rsplit(in.budget(), self.text(), separator, limit)
                                      : split(in.budget(), self.text(), separator, limit));
}

/// The part of `text` between optional positions start and end, as str.find and str.startswith take them.
struct Window {
  std::string_view text;
  size_t first = 0;  ///< code points before it
  bool valid = true;
};
Window window(Interpreter& in, const std::string& text, const Bound& bound, size_t i) {
  if (!bound[i] && !bound[i + 1]) return {text, 0, true};
  in.budget().scan(text.size());
  const auto size = static_cast<int64_t>(code_point_count(text));
  const auto clip = [&](size_t k, int64_t otherwise) {
    if (!bound[k] || bound[k]->is_none()) return otherwise;
    const int64_t at = bound.integer(k, 0);
    return at < 0 ? std::max<int64_t>(0, at + size) : at;
  };
  const int64_t start = clip(i, 0), end = std::min(size, clip(i + 1, size));
  if (start > end) return {{}, 0, false};
  const size_t begin = byte_offset(text, static_cast<size_t>(start));
  const size_t stop = byte_offset(text, static_cast<size_t>(end));
  return {std::string_view(text).substr(begin, stop - begin), static_cast<size_t>(start), true};
}

Value affix_method(Interpreter& in, const Value& self, Arguments arguments, bool at_start) {
  const std::string_view name = at_start ? "startswith" : "endswith";
  const Bound bound(name, arguments, {"", "", ""}, 1);
  const Window view = window(in, self.text(), bound, 1);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_string())
      throw Failure(fmt::format("{} takes a str or a tuple of str, not {}", name, type_name(affix)));
    in.budget().scan(affix.text().size());
    return view.valid && (at_start ? view.text.starts_with(affix.text()) : view.text.ends_with(affix.text()));
  };
  const Value& affix = bound.required(0);
  if (!affix.is_sequence() || affix.sequence().kind != SequenceKind::kTuple) return Value::boolean(matches(affix));
  for (const Value& one : affix.sequence().items) {
    if (matches(one)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Value find_method_body(Interpreter& in, const Value& self, Arguments arguments, bool last, bool must_exist) {
  const Bound bound("find", arguments, {"", "", ""}, 1);
  const Window view = window(in, self.text(), bound, 1);
  const std::string& part = bound.text(0);
  in.budget().scan(self.text().size() + part.size());
  size_t at = std::string_view::npos;
  if (view.valid) at = last ? rfind_bytes(view.text, part, view.text.size()) : find_bytes(view.text, part, 0);
  if (at != std::string_view::npos) {
    return Value::integer(static_cast<Int>(view.first + code_point_count(view.text.substr(0, at))));
  }
  if (must_exist) throw Failure("substring not found");
  return Value::integer(-1);
}

Value count_method(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("count", arguments, {"", "", ""}, 1);
  const Window view = window(in, self.text(), bound, 1);
  const std::string& part = bound.text(0);
  in.budget().scan(self.text().size() + part.size());
  if (!view.valid) return Value::integer(0);
  if (part.empty()) return Value::integer(static_cast<Int>(code_point_count(view.text)) + 1);
  Int count = 0;
  for (size_t at = 0; (at = find_bytes(view.text, part, at)) != std::string_view::npos; at += part.size()) ++count;
  return Value::integer(count);
}

Value join_method(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("join", arguments, {""}, 1);
  const auto items = iterate(in.budget(), bound.required(0));
  std::string out;
  bool first = true;
  while (const auto item = items->next()) {
    if (!item->is_string()) throw Failure(fmt::format("join needs items of type str, found {}", type_name(*item)));
    in.budget().make(out.size() + self.text().size() + item->text().size());
    if (!first) out += self.text();
    first = false;
    out += item->text();
  }
  return Value::string(std::move(out));
}

Value replace_method(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("replace", arguments, {"", "", ""}, 2);
  return Value::string(replace(in.budget(), self.text(), bound.text(0), bound.text(1), bound.integer(2, -1)));
}

Value partition_method(Interpreter& in, const Value& self, Arguments arguments, bool from_right) {
  const Bound bound("partition", arguments, {""}, 1);
  const std::string& separator = bound.text(0);
  if (separator.empty()) throw Failure("empty separator");
  const std::string_view text = self.text();
  in.budget().make(text.size() + separator.size());
  const size_t at = from_right ? rfind_bytes(text, separator, text.size()) : find_bytes(text, separator, 0);
  if (at == std::string_view::npos) {
    const Value none = Value::string("");
    return make_tuple(in.budget(), from_right ? std::vector{none, none, self} : std::vector{self, none, none});
  }
  return make_tuple(in.budget(), {Value::string(text.substr(0, at)), Value::string(separator),
                                  Value::string(text.substr(at + separator.size()))});
}

Value splitlines_method(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("splitlines", arguments, {"keepends"});
  in.budget().scan(self.text().size());
  return list_of_texts(in, splitlines(in.budget(), self.text(), bound.flag(0, false)));
}

/// str.format with {} {0} {name} and {{ }}, without conversions and format specifications.
Value format_method(Interpreter& in, const Value& self, Arguments arguments) {
  const std::string& format = self.text();
  std::string out;
  size_t automatic = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    const char c = format[i];
    if ((c == '{' || c == '}') && i + 1 < format.size() && format[i + 1] == c) {
      out += format[++i];
    } else if (c == '}') {
      throw Failure("Single '}' encountered in format string");
    } else if (c != '{') {
      out += c;
    } else {
      const size_t end = format.find('}', i);
      if (end == std::string::npos) throw Failure("expected '}' before end of string");
      const std::string_view field = std::string_view(format).substr(i + 1, end - i - 1);
      if (field.find_first_of(".[!:{") != std::string_view::npos) {
        throw Failure("str.format fields other than {}, {0} and {name} are not supported");
      }
      const Value* value = nullptr;
      if (all_of_class(field, "isdecimal") || field.empty()) {
        size_t at = field.empty() ? automatic++ : 0;
        for (const char digit : field) at = std::min<size_t>(1'000'000, at * 10 + static_cast<size_t>(digit - '0'));
        if (at < arguments.positional.size()) value = &arguments.positional[at];
      } else {
        for (const auto& [name, v] : arguments.named) {
          if (name == field) value = &v;
        }
      }
      if (value == nullptr) throw Failure(fmt::format("str.format has no argument for {}", quoted(field)));
      out += in.text(*value);
      i = end;
    }
    if (out.size() > in.budget().max_text_bytes()) in.budget().make(out.size());
  }
  in.budget().make(out.size());
  return Value::string(std::move(out));
}

Value pad_method(Interpreter& in, const Value& self, Arguments arguments, Side text_side) {
  const Bound bound("center", arguments, {"", ""}, 1);
  const int64_t width = bound.integer(0, 0);
  const std::string fill = bound[1] ? bound.text(1) : " ";
  if (code_point_count(fill) != 1) throw Failure("The fill character must be exactly one character long");
  const auto size = static_cast<int64_t>(code_point_count(self.text()));
  const int64_t missing = std::max<int64_t>(0, width - size);
  if (missing > 0) in.budget().make(std::min<size_t>(static_cast<size_t>(missing), size_t{1} << 40) * fill.size());
  const int64_t left = text_side == Side::kLeft    ? 0
                       : text_side == Side::kRight ? missing
                                                   : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (int64_t i = left; i < missing; ++i) out += fill;
  in.budget().make(out.size());
  return Value::string(std::move(out));
}

template <std::string (*kFunction)(std::string_view)>
Value map_text(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("the method", arguments, {});
  in.budget().make(3 * self.text().size());
  return Value::string(kFunction(self.text()));
}
template <bool (*kFunction)(std::string_view)>
Value ask_text(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("the method", arguments, {});
  in.budget().scan(self.text().size());
  return Value::boolean(kFunction(self.text()));
}
#define QNEXT_CLASS_METHOD(name)                                            \
  {Owner::kString, name, [](Interpreter& in, const Value& s, Arguments a) { \
     const Bound bound(name, a, {});                                        \
     in.budget().scan(s.text().size());                                     \
     return Value::boolean(all_of_class(s.text(), name));                   \
   }}

Value affix_removal(Interpreter& in, const Value& self, Arguments arguments, bool prefix) {
  const Bound bound("removeprefix", arguments, {""}, 1);
  const std::string& affix = bound.text(0);
  std::string_view text = self.text();
  in.budget().make(text.size());
  if (prefix ? text.starts_with(affix) : text.ends_with(affix)) {
    text = prefix ? text.substr(affix.size()) : text.substr(0, text.size() - affix.size());
  }
  return Value::string(text);
}

Value sequence_count(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("count", arguments, {""}, 1);
  Int count = 0;
  for (const Value& item : self.sequence().items) count += equal(in.budget(), item, bound.required(0));
  return Value::integer(count);
}
Value sequence_index(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("index", arguments, {""}, 1);
  const auto& items = self.sequence().items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (equal(in.budget(), items[i], bound.required(0))) return Value::integer(static_cast<Int>(i));
  }
  throw Failure("the value is not in the list");
}

Value dict_get(Interpreter& in, const Value& self, Arguments arguments) {
  const Bound bound("get", arguments, {"", ""}, 1);
  const Value* value = self.dict().find(in.budget(), bound.required(0));
  return value ? *value : bound[1] ? *bound[1] : Value();
}
Value dict_view(Interpreter& in, const Value& self, Arguments arguments, SequenceKind kind) {
  const Bound bound("the method", arguments, {});
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict().entries) {
    items.push_back(kind == SequenceKind::kItemsView  ? make_tuple(in.budget(), {key, value})
                    : kind == SequenceKind::kKeysView ? key
                                                      : value);
  }
  return make_sequence(in.budget(), kind, std::move(items));
}
Value same_object(Interpreter&, const Value& self, Arguments arguments) {
  const Bound bound("copy", arguments, {});
  return self;  // values are immutable, so a copy is the value
}

#define QNEXT_LAMBDA(call) [](Interpreter& in, const Value& s, Arguments a) { return call; }

constexpr Method kMethods[] = {
    {Owner::kString, "strip", QNEXT_LAMBDA(strip_method(in, s, a, Side::kBoth))},
    {Owner::kString, "lstrip", QNEXT_LAMBDA(strip_method(in, s, a, Side::kLeft))},
    {Owner::kString, "rstrip", QNEXT_LAMBDA(strip_method(in, s, a, Side::kRight))},
    {Owner::kString, "split", QNEXT_LAMBDA(split_method(in, s, a, false))},
    {Owner::kString, "rsplit", QNEXT_LAMBDA(split_method(in, s, a, true))},
    {Owner::kString, "splitlines", splitlines_method},
    {Owner::kString, "partition", QNEXT_LAMBDA(partition_method(in, s, a, false))},
    {Owner::kString, "rpartition", QNEXT_LAMBDA(partition_method(in, s, a, true))},
    {Owner::kString, "startswith", QNEXT_LAMBDA(affix_method(in, s, a, true))},
    {Owner::kString, "endswith", QNEXT_LAMBDA(affix_method(in, s, a, false))},
    {Owner::kString, "removeprefix", QNEXT_LAMBDA(affix_removal(in, s, a, true))},
    {Owner::kString, "removesuffix", QNEXT_LAMBDA(affix_removal(in, s, a, false))},
    {Owner::kString, "replace", replace_method},
    {Owner::kString, "find", QNEXT_LAMBDA(find_method_body(in, s, a, false, false))},
    {Owner::kString, "rfind", QNEXT_LAMBDA(find_method_body(in, s, a, true, false))},
    {Owner::kString, "index", QNEXT_LAMBDA(find_method_body(in, s, a, false, true))},
    {Owner::kString, "rindex", QNEXT_LAMBDA(find_method_body(in, s, a, true, true))},
    {Owner::kString, "count", count_method},
    {Owner::kString, "join", join_method},
    {Owner::kString, "format", format_method},
    {Owner::kString, "center", QNEXT_LAMBDA(pad_method(in, s, a, Side::kBoth))},
    {Owner::kString, "ljust", QNEXT_LAMBDA(pad_method(in, s, a, Side::kLeft))},
    {Owner::kString, "rjust", QNEXT_LAMBDA(pad_method(in, s, a, Side::kRight))},
    {Owner::kString, "upper", map_text<upper>},
    {Owner::kString, "lower", map_text<lower>},
    {Owner::kString, "title", map_text<title>},
    {Owner::kString, "capitalize", map_text<capitalize>},
    {Owner::kString, "isupper", ask_text<is_upper>},
    {Owner::kString, "islower", ask_text<is_lower>},
    QNEXT_CLASS_METHOD("isdigit"),
    QNEXT_CLASS_METHOD("isdecimal"),
    QNEXT_CLASS_METHOD("isnumeric"),
    QNEXT_CLASS_METHOD("isalpha"),
    QNEXT_CLASS_METHOD("isalnum"),
    QNEXT_CLASS_METHOD("isspace"),
    QNEXT_CLASS_METHOD("isprintable"),
    QNEXT_CLASS_METHOD("isascii"),
    {Owner::kString, "casefold"},
    {Owner::kString, "encode"},
    {Owner::kString, "expandtabs"},
    {Owner::kString, "format_map"},
    {Owner::kString, "isidentifier"},
    {Owner::kString, "istitle"},
    {Owner::kString, "maketrans"},
    {Owner::kString, "swapcase"},
    {Owner::kString, "translate"},
    {Owner::kString, "zfill"},
    {Owner::kList, "count", sequence_count},
    {Owner::kList, "index", sequence_index},
    {Owner::kList, "copy", same_object},
    {Owner::kList, "append", nullptr, true},
    {Owner::kList, "clear", nullptr, true},
    {Owner::kList, "extend", nullptr, true},
    {Owner::kList, "insert", nullptr, true},
    {Owner::kList, "pop", nullptr, true},
    {Owner::kList, "remove", nullptr, true},
    {Owner::kList, "reverse", nullptr, true},
    {Owner::kList, "sort", nullptr, true},
    {Owner::kTuple, "count", sequence_count},
    {Owner::kTuple, "index", sequence_index},
    {Owner::kRange, "count", sequence_count},
    {Owner::kRange, "index", sequence_index},
    {Owner::kRange, "start"},
    {Owner::kRange, "stop"},
    {Owner::kRange, "step"},
    {Owner::kDict, "get", dict_get},
    {Owner::kDict, "items", QNEXT_LAMBDA(dict_view(in, s, a, SequenceKind::kItemsView))},
    {Owner::kDict, "keys", QNEXT_LAMBDA(dict_view(in, s, a, SequenceKind::kKeysView))},
    {Owner::kDict, "values", QNEXT_LAMBDA(dict_view(in, s, a, SequenceKind::kValuesView))},
    {Owner::kDict, "copy", same_object},
    {Owner::kDict, "fromkeys"},
    {Owner::kDict, "clear", nullptr, true},
    {Owner::kDict, "pop", nullptr, true},
    {Owner::kDict, "popitem", nullptr, true},
    {Owner::kDict, "setdefault", nullptr, true},
    {Owner::kDict, "update", nullptr, true},
};

#undef QNEXT_LAMBDA
#undef QNEXT_CLASS_METHOD

// ---- global functions

Value range_function(Interpreter& in, Arguments arguments) {
  const auto& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.named.empty()) throw Failure("range() takes 1 to 3 integers");
  for (const Value& value : given) {
    if (!value.as_int()) throw Failure(fmt::format("range() takes integers, not {}", type_name(value)));
  }
  const Int first = *given[0].as_int();
  if (given.size() == 1) return make_range(in.budget(), 0, first, 1);
  return make_range(in.budget(), first, *given[1].as_int(), given.size() == 3 ? *given[2].as_int() : 1);
}

/// dict(mapping or pairs, name=value, ...)
std::vector<std::pair<Value, Value>> dict_entries(Interpreter& in, Arguments arguments, std::string_view name) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1) throw Failure(fmt::format("{} takes at most 1 positional argument", name));
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional.front();
    if (source.is_dict()) {
      in.budget().steps(static_cast<int64_t>(source.dict().entries.size()));
      entries = source.dict().entries;
    } else {
      const auto items = iterate(in.budget(), source);
      while (const auto item = items->next()) {
        std::vector<Value> pair = list_of(in.budget(), *item);
        if (pair.size() != 2) throw Failure(fmt::format("{} needs pairs, found {} items", name, pair.size()));
        entries.emplace_back(std::move(pair[0]), std::move(pair[1]));
      }
    }
  }
  for (const auto& [key, value] : arguments.named) entries.emplace_back(Value::string(key), value);
  return entries;
}
Value dict_function(Interpreter& in, Arguments arguments) {
  return make_dict(in.budget(), dict_entries(in, arguments, "dict"));
}
Value namespace_function(Interpreter& in, Arguments arguments) {
  const Value checked = make_dict(in.budget(), dict_entries(in, arguments, "namespace"));
  std::vector<std::pair<std::string, Value>> attributes;
  for (const auto& [key, value] : checked.dict().entries) {
    if (!key.is_string()) throw Failure("attributes of a namespace must have names");
    if (key.text().starts_with('_')) {
      throw Failure(fmt::format("a namespace cannot hold the underscore-prefixed attribute {}", quoted(key.text())));
    }
    attributes.emplace_back(key.text(), value);
  }
  return in.new_namespace(std::move(attributes));
}
Value raise_function(Interpreter& in, Arguments arguments) {
  const Bound bound("raise_exception", arguments, {"message"}, 1);
  throw Raised(in.text(bound.required(0)));
}
Value strftime_function(Interpreter& in, Arguments arguments) {
  const Bound bound("strftime_now", arguments, {"format"}, 1);
  const std::string& format = bound.text(0);
  constexpr size_t kMaxFormat = 256;
  if (format.size() > kMaxFormat) throw Failure(fmt::format("a time format is at most {} bytes", kMaxFormat));
  const std::time_t now = static_cast<std::time_t>(in.now());
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(128 * (format.size() + 1), '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return Value::string(std::move(out));
}

}  // namespace

const Method* find_method(const Value& value, std::string_view name) {
  std::optional<Owner> owner;
  if (value.is_string()) owner = Owner::kString;
  if (value.is_dict()) owner = Owner::kDict;
  if (value.is_sequence()) {
    const SequenceKind kind = value.sequence().kind;
    if (kind == SequenceKind::kList) owner = Owner::kList;
    if (kind == SequenceKind::kTuple) owner = Owner::kTuple;
    if (kind == SequenceKind::kRange) owner = Owner::kRange;
  }
  if (!owner) return nullptr;
  for (const Method& method : kMethods) {
    if (method.owner == *owner && method.name == name) return &method;
  }
  return nullptr;
}

Value call_method(Interpreter& interpreter, const Method& method, const Value& self, const CallArguments& arguments) {
  if (method.body == nullptr) {
    throw Failure(fmt::format("the method {} of {} is not supported", method.name, type_name(self)));
  }
  return method.body(interpreter, self, arguments);
}

Value find_global(std::string_view name) {
  constexpr std::pair<std::string_view, Function::Body> kFunctions[] = {{"range", range_function},
                                                                        {"dict", dict_function},
                                                                        {"namespace", namespace_function},
                                                                        {"raise_exception", raise_function},
                                                                        {"strftime_now", strftime_function}};
  for (const auto& [id, body] : kFunctions) {
    if (id == name) return Value::object(std::make_shared<Function>(body));
  }
  return Value::undefined("");
}

}  // namespace qnext::jinja
