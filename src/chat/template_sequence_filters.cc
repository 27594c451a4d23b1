// Filters of sequences and mappings. Those that are generators in jinja2 are evaluated as lazily here.
#include <algorithm>
#include <unordered_set>

#include "chat/template_eval.h"
#include "chat/template_text.h"

namespace qnext::jinja {

namespace {

using Args = const CallArguments&;

/// The path of an attribute argument: "a.b.0" is the keys a and b and the index 0.
std::vector<Value> attribute_path(Budget& budget, const Value* attribute) {
  std::vector<Value> path;
  if (attribute == nullptr || attribute->is_none()) return path;
  if (!attribute->is_string()) return {*attribute};
  for (const std::string_view part : split(budget, attribute->text(), ".", -1)) {
    const bool number = all_of_class(part, "isdecimal") && part.size() < 18 && all_of_class(part, "isascii");
    Int index = 0;
    for (const char c : part) index = index * 10 + (number ? c - '0' : 0);
    path.push_back(number && !part.empty() ? Value::integer(index) : Value::string(part));
  }
  return path;
}

Value follow(Interpreter& in, Value value, const std::vector<Value>& path, const Value* otherwise = nullptr) {
  for (const Value& key : path) {
    in.budget().steps(1);
    value = in.item(value, key);
    if (otherwise != nullptr && !otherwise->is_none() && value.is_undefined()) value = *otherwise;
  }
  return value;
}

Value ignore_case(Interpreter& in, const Value& value) {
  if (!value.is_string()) return value;
  in.budget().make(3 * value.text().size());
  return Value::string(lower(value.text()));
}

/// sorted(values, key=keys): stable, and descending keeps the order of equals too.
std::vector<Value> sorted(Interpreter& in, std::vector<Value> values, const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return less(in.budget(), keys[reverse ? b : a], keys[reverse ? a : b], "<");
  });
  std::vector<Value> out;
  for (const size_t i : order) out.push_back(std::move(values[i]));
  return out;
}

Value items(Interpreter& in, const Value& value, Args args) {
  const Bound bound("items", args, {});
  // A generator: what is not a mapping is found when it is first asked.
  return make_iterator(in.budget(), value.depth() + 1, [&in, value, i = size_t{0}]() mutable -> std::optional<Value> {
    if (value.is_undefined()) return std::nullopt;
    if (!value.is_dict()) throw Failure("Can only get item pairs from a mapping.");
    if (i == value.dict().entries.size()) return std::nullopt;
    const auto& [key, item] = value.dict().entries[i++];
    return make_tuple(in.budget(), {key, item});
  });
}

Value dictsort(Interpreter& in, const Value& value, Args args) {
  const Bound bound("dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = bound[1] ? bound.text(1) : "key";
  if (by != "key" && by != "value") throw Failure("You can only sort by either \"key\" or \"value\"");
  if (!value.is_dict()) {
    throw Failure(value.is_undefined() ? value.message()
                                       : fmt::format("'{}' object has no attribute 'items'", type_name(value)));
  }
  std::vector<Value> pairs, keys;
  for (const auto& [key, item] : value.dict().entries) {
    pairs.push_back(make_tuple(in.budget(), {key, item}));
    const Value& sort_key = by == "key" ? key : item;
    keys.push_back(bound.flag(0, false) ? sort_key : ignore_case(in, sort_key));
  }
  return make_list(in.budget(), sorted(in, std::move(pairs), keys, bound.flag(2, false)));
}

Value list(Interpreter& in, const Value& value, Args args) {
  const Bound bound("list", args, {});
  return make_list(in.budget(), list_of(in.budget(), value));
}

Value join(Interpreter& in, const Value& value, Args args) {
  const Bound bound("join", args, {"d", "attribute"});
  const std::string separator = bound[0] ? in.text(*bound[0]) : "";
  const auto path = attribute_path(in.budget(), bound[1]);
  const auto source = iterate(in.budget(), value);
  std::string out;
  for (bool first = true; const auto item = source->next(); first = false) {
    const std::string text = in.text(follow(in, *item, path));
    if (out.size() + text.size() + separator.size() > in.budget().max_text_bytes()) {
      in.budget().make(out.size() + text.size() + separator.size());
    }
    if (!first) out += separator;
    out += text;
    in.budget().scan(separator.size());
  }
  in.budget().make(out.size());
  return Value::string(std::move(out));
}

Value first(Interpreter& in, const Value& value, Args args) {
  const Bound bound("first", args, {});
  const auto item = iterate(in.budget(), value)->next();
  return item ? *item : Value::undefined("No first item, sequence was empty.");
}

bool is_reversible(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_dict() || value.is_sequence();
}

Value last(Interpreter& in, const Value& value, Args args) {
  const Bound bound("last", args, {});
  if (!is_reversible(value)) throw Failure(fmt::format("'{}' object is not reversible", type_name(value)));
  const std::vector<Value> all = list_of(in.budget(), value);
  return all.empty() ? Value::undefined("No last item, sequence was empty.") : all.back();
}

Value reverse(Interpreter& in, const Value& value, Args args) {
  const Bound bound("reverse", args, {});
  if (value.is_string()) {
    in.budget().make(value.text().size());
    const std::vector<Value> characters = list_of(in.budget(), value);
    std::string out;
    for (auto c = characters.rbegin(); c != characters.rend(); ++c) out += c->text();
    return Value::string(std::move(out));
  }
  std::vector<Value> all = list_of(in.budget(), value);
  std::reverse(all.begin(), all.end());
  const Value list = make_list(in.budget(), std::move(all));
  // What Python can reverse in place gives an iterator, what it must read first a list.
  return is_reversible(value) ? Value::object(iterate(in.budget(), list)) : list;
}

Value sort(Interpreter& in, const Value& value, Args args) {
  const Bound bound("sort", args, {"reverse", "case_sensitive", "attribute"});
  std::vector<std::vector<Value>> paths;
  if (bound[2] && bound[2]->is_string()) {
    for (const std::string_view part : split(in.budget(), bound[2]->text(), ",", -1)) {
      const Value attribute = Value::string(part);
      paths.push_back(attribute_path(in.budget(), &attribute));
    }
  } else {
    paths.push_back(attribute_path(in.budget(), bound[2]));
  }
  std::vector<Value> all = list_of(in.budget(), value), keys;
  for (const Value& item : all) {
    std::vector<Value> key;
    for (const auto& path : paths) {
      const Value part = follow(in, item, path);
      key.push_back(bound.flag(1, false) ? part : ignore_case(in, part));
    }
    keys.push_back(make_list(in.budget(), std::move(key)));
  }
  return make_list(in.budget(), sorted(in, std::move(all), keys, bound.flag(0, false)));
}

Value unique(Interpreter& in, const Value& value, Args args) {
  const Bound bound("unique", args, {"case_sensitive", "attribute"});
  const auto path = attribute_path(in.budget(), bound[1]);
  const bool case_sensitive = bound.flag(0, false);
  // Seen texts are hashed; the few keys of other types are compared one by one.
  struct Seen {
    std::unordered_set<std::string> texts;
    std::vector<Value> others;
  };
  return make_iterator(in.budget(), value.depth(),
                       [&in, value, path, case_sensitive, seen = std::make_shared<Seen>(),
                        source = std::shared_ptr<Iterator>()]() mutable -> std::optional<Value> {
                         if (!source) source = iterate(in.budget(), value);
                         while (auto item = source->next()) {
                           Value key = follow(in, *item, path);
                           if (!case_sensitive) key = ignore_case(in, key);
                           if (key.is_string()) {
                             in.budget().make(key.text().size());
                             if (seen->texts.insert(key.text()).second) return item;
                             continue;
                           }
                           make_dict(in.budget(), {{key, Value()}});  // fails for what cannot be hashed
                           const bool known =
                               std::any_of(seen->others.begin(), seen->others.end(),
                                           [&](const Value& other) { return equal(in.budget(), other, key); });
                           if (known) continue;
                           seen->others.push_back(std::move(key));
                           return item;
                         }
                         return std::nullopt;
                       });
}

Value extreme(Interpreter& in, const Value& value, Args args, bool want_max) {
  const Bound bound("min", args, {"case_sensitive", "attribute"});
  const auto path = attribute_path(in.budget(), bound[1]);
  const auto source = iterate(in.budget(), value);
  std::optional<Value> best, best_key;
  while (auto item = source->next()) {
    Value key = follow(in, *item, path);
    if (!bound.flag(0, false)) key = ignore_case(in, key);
    if (!best || less(in.budget(), want_max ? *best_key : key, want_max ? key : *best_key, want_max ? ">" : "<")) {
      best = std::move(item);
      best_key = std::move(key);
    }
  }
  return best ? *best : Value::undefined("No aggregated item, sequence was empty.");
}
Value min(Interpreter& in, const Value& value, Args args) { return extreme(in, value, args, false); }
Value max(Interpreter& in, const Value& value, Args args) { return extreme(in, value, args, true); }

Value sum(Interpreter& in, const Value& value, Args args) {
  const Bound bound("sum", args, {"attribute", "start"});
  const auto path = attribute_path(in.budget(), bound[0]);
  Value total = bound[1] ? *bound[1] : Value::integer(0);
  if (total.is_string()) throw Failure("sum() can't sum strings [use ''.join(seq) instead]");
  const auto source = iterate(in.budget(), value);
  while (const auto item = source->next()) total = in.add(total, follow(in, *item, path));
  return total;
}

Value map(Interpreter& in, const Value& value, Args args) {
  return make_iterator(
      in.budget(), value.depth(),
      [&in, value, args = std::make_shared<CallArguments>(args), source = std::shared_ptr<Iterator>(),
       path = std::vector<Value>(), ended = false]() mutable -> std::optional<Value> {
        if (ended || (!source && !truthy(value))) return std::nullopt;
        const bool by_attribute =
            args->positional.empty() && !args->named.empty() &&
            std::any_of(args->named.begin(), args->named.end(), [](const auto& n) { return n.first == "attribute"; });
        const Budget::Level level(in.budget());
        if (!source) {
          if (by_attribute) {
            const Bound bound("map", *args, {"attribute", "default"});
            path = attribute_path(in.budget(), bound[0]);
          } else if (args->positional.empty()) {
            throw Failure("map requires a filter argument");
          }
          source = iterate(in.budget(), value);
        }
        const auto item = source->next();
        if (!item) {
          ended = true;
          return std::nullopt;
        }
        if (by_attribute) {
          const Bound bound("map", *args, {"attribute", "default"});
          return follow(in, *item, path, bound[1]);
        }
        if (!args->positional.front().is_string()) throw Failure("map takes the name of a filter");
        const CallArguments rest{{args->positional.begin() + 1, args->positional.end()}, args->named};
        return in.filter(args->positional.front().text(), *item, rest);
      });
}

/// select, reject and, with an attribute first, selectattr, rejectattr.
Value choose(Interpreter& in, const Value& value, Args args, bool by_attribute, bool keep) {
  return make_iterator(
      in.budget(), value.depth(),
      [&in, value, args = std::make_shared<CallArguments>(args), by_attribute, keep,
       source = std::shared_ptr<Iterator>(), path = std::vector<Value>()]() mutable -> std::optional<Value> {
        if (!source && !truthy(value)) return std::nullopt;
        const Budget::Level level(in.budget());
        const size_t test_at = by_attribute ? 1 : 0;
        if (!source) {
          if (by_attribute && args->positional.empty()) throw Failure("Missing parameter for attribute name");
          if (by_attribute) path = attribute_path(in.budget(), &args->positional.front());
          source = iterate(in.budget(), value);
        }
        while (auto item = source->next()) {
          const Value tested = follow(in, *item, path);
          bool holds = false;
          if (args->positional.size() <= test_at) {
            holds = truthy(tested);
          } else {
            const Value& name = args->positional[test_at];
            if (!name.is_string()) throw Failure("the name of a test must be a text");
            const auto begin = args->positional.begin() + static_cast<std::ptrdiff_t>(test_at) + 1;
            holds = in.test(name.text(), tested, {{begin, args->positional.end()}, args->named});
          }
          if (holds == keep) return item;
        }
        return std::nullopt;
      });
}
Value select(Interpreter& in, const Value& v, Args args) { return choose(in, v, args, false, true); }
Value reject(Interpreter& in, const Value& v, Args args) { return choose(in, v, args, false, false); }
Value selectattr(Interpreter& in, const Value& v, Args args) { return choose(in, v, args, true, true); }
Value rejectattr(Interpreter& in, const Value& v, Args args) { return choose(in, v, args, true, false); }

Value batch(Interpreter& in, const Value& value, Args args) {
  const Bound bound("batch", args, {"linecount", "fill_with"}, 1);
  const int64_t size = bound.integer(0, 1);
  const Value fill = bound[1] ? *bound[1] : Value();
  return make_iterator(in.budget(), value.depth() + 1,
                       [&in, value, size, fill, source = std::shared_ptr<Iterator>(),
                        held = std::optional<Value>()]() mutable -> std::optional<Value> {
                         if (!source) source = iterate(in.budget(), value);
                         std::vector<Value> row;
                         if (held) row.push_back(*std::exchange(held, std::nullopt));
                         while (auto item = source->next()) {
                           if (static_cast<int64_t>(row.size()) == size) {
                             held = std::move(item);
                             return make_list(in.budget(), std::move(row));
                           }
                           row.push_back(std::move(*item));
                         }
                         if (row.empty()) return std::nullopt;
                         while (!fill.is_none() && static_cast<int64_t>(row.size()) < size) {
                           in.budget().steps(1);
                           row.push_back(fill);
                         }
                         return make_list(in.budget(), std::move(row));
                       });
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"items", items},
    {"dictsort", dictsort},
    {"list", list},
    {"join", join},
    {"first", first},
    {"last", last},
    {"reverse", reverse},
    {"sort", sort},
    {"unique", unique},
    {"min", min},
    {"max", max},
    {"sum", sum},
    {"map", map},
    {"select", select},
    {"reject", reject},
    {"selectattr", selectattr},
    {"rejectattr", rejectattr},
    {"batch", batch},
};

}  // namespace

FilterFunction find_sequence_filter(std::string_view name) {
  for (const auto& [id, function] : kFilters) {
    if (id == name) return function;
  }
  return nullptr;
}

}  // namespace qnext::jinja
