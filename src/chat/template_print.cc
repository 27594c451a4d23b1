// Values as text: str(), repr() and json.dumps().
#include <algorithm>
#include <cmath>

#include "chat/template_text.h"
#include "chat/template_value.h"

namespace qnext::jinja {

namespace {

/// Writes into one growing text and keeps it inside the budget.
class Printer {
 public:
  explicit Printer(Budget& budget) : budget_(budget) {}

  void repr(const Value& value) {
    const Budget::Level level(budget_);
    budget_.steps(1);
    switch (value.kind()) {
      case Kind::kNone:
        append("None");
        break;
      case Kind::kUndefined:
        append("Undefined");
        break;
      case Kind::kBool:
        append(value.as_bool() ? "True" : "False");
        break;
      case Kind::kInt:
        append(int_text(*value.as_int()));
        break;
      case Kind::kFloat:
        append(float_repr(value.as_float()));
        break;
      case Kind::kString:
        budget_.scan(value.text().size());
        append_string_repr(out_, value.text());
        append("");
        break;
      case Kind::kSequence:
        repr_sequence(value.sequence());
        break;
      case Kind::kDict:
        repr_dict(value.dict());
        break;
      case Kind::kObject:
        repr_object(value);
        break;
    }
  }

  void json(const Value& value, const JsonStyle& style, int32_t depth) {
    const Budget::Level level(budget_);
    budget_.steps(1);
    switch (value.kind()) {
      case Kind::kNone:
        append("null");
        break;
      case Kind::kBool:
        append(value.as_bool() ? "true" : "false");
        break;
      case Kind::kInt:
        append(int_text(*value.as_int()));
        break;
      case Kind::kFloat:
        append(json_float(value.as_float()));
        break;
      case Kind::kString:
        json_string(value.text(), style);
        break;
      case Kind::kDict:
        json_dict(value.dict(), style, depth);
        break;
      case Kind::kSequence:
        if (value.sequence().kind <= SequenceKind::kTuple) {
          json_array(value.sequence(), style, depth);
          break;
        }
        [[fallthrough]];
      default:
        throw Failure(fmt::format("Object of type {} is not JSON serializable", type_name(value)));
    }
  }

  std::string take() {
    budget_.make(out_.size());
    return std::move(out_);
  }

 private:
  void append(std::string_view text) {
    out_ += text;
    if (out_.size() > budget_.max_text_bytes()) budget_.make(out_.size());
  }

  void repr_sequence(const Sequence& sequence) {
    if (sequence.kind == SequenceKind::kRange) {
      append(fmt::format("range({}, {}{})", sequence.start, sequence.stop,
                         sequence.step == 1 ? "" : ", " + int_text(sequence.step)));
      return;
    }
    constexpr std::string_view kOpen[] = {"[", "(", "", "dict_items([", "dict_keys([", "dict_values(["};
    append(kOpen[static_cast<size_t>(sequence.kind)]);
    bool first = true;
    for (const Value& item : sequence.items) {
      if (!first) append(", ");
      first = false;
      repr(item);
    }
    if (sequence.kind == SequenceKind::kTuple) {
      append(sequence.items.size() == 1 ? ",)" : ")");
    } else {
      append(sequence.is_view() ? "])" : "]");
    }
  }

  void repr_dict(const Dict& dict) {
    append("{");
    bool first = true;
    for (const auto& [key, value] : dict.entries) {
      if (!first) append(", ");
      first = false;
      repr(key);
      append(": ");
      repr(value);
    }
    append("}");
  }

  void repr_object(const Value& value) {
    const auto space = value.as<Namespace>();
    if (!space) {
      // Python would print an address in memory.
      throw Failure(fmt::format("cannot print a {}{}", type_name(value),
                                value.as<Iterator>() ? " (its items need the filter list or join)" : ""));
    }
    append("<Namespace {");
    bool first = true;
    for (const auto& [key, item] : space->attributes) {
      if (!first) append(", ");
      first = false;
      append_string_repr(out_, key);
      append(": ");
      repr(item);
    }
    append("}>");
  }

  static std::string json_float(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return float_repr(value);
  }

  void json_string(std::string_view text, const JsonStyle& style) {
    budget_.scan(text.size());
    append_json_string(out_, text, style.ensure_ascii);
    append("");
  }

  void break_line(const JsonStyle& style, int32_t depth) {
    if (!style.indent) return;
    append("\n");
    for (int32_t i = 0; i < depth; ++i) append(*style.indent);
  }

  void json_array(const Sequence& sequence, const JsonStyle& style, int32_t depth) {
    append("[");
    bool first = true;
    for (const Value& item : sequence.items) {
      if (!first) append(style.item_separator);
      first = false;
      break_line(style, depth + 1);
      json(item, style, depth + 1);
    }
    if (!sequence.items.empty()) break_line(style, depth);
    append("]");
  }

  void json_dict(const Dict& dict, const JsonStyle& style, int32_t depth) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [&](auto* a, auto* b) { return less(budget_, a->first, b->first, "<"); });
    }
    append("{");
    bool first = true;
    for (const auto* entry : entries) {
      if (!first) append(style.item_separator);
      first = false;
      break_line(style, depth + 1);
      json_key(entry->first, style);
      append(style.key_separator);
      json(entry->second, style, depth + 1);
    }
    if (!entries.empty()) break_line(style, depth);
    append("}");
  }

  void json_key(const Value& key, const JsonStyle& style) {
    switch (key.kind()) {
      case Kind::kString:
        json_string(key.text(), style);
        break;
      case Kind::kNone:
        append("\"null\"");
        break;
      case Kind::kBool:
        append(key.as_bool() ? "\"true\"" : "\"false\"");
        break;
      case Kind::kInt:
        append('"' + int_text(*key.as_int()) + '"');
        break;
      case Kind::kFloat:
        append('"' + json_float(key.as_float()) + '"');
        break;
      default:
        throw Failure(fmt::format("keys must be str, int, float, bool or None, not {}", type_name(key)));
    }
  }

  Budget& budget_;
  std::string out_;
};

}  // namespace

std::string to_text(Budget& budget, const Value& value) {
  if (value.is_undefined()) return "";
  if (value.is_string()) {
    budget.scan(value.text().size());
    return value.text();
  }
  return repr(budget, value);
}

std::string repr(Budget& budget, const Value& value) {
  Printer printer(budget);
  printer.repr(value);
  return printer.take();
}

std::string to_json(Budget& budget, const Value& value, const JsonStyle& style) {
  Printer printer(budget);
  printer.json(value, style, 0);
  return printer.take();
}

}  // namespace qnext::jinja
