// Filters of single values; template_sequence_filters.cc has those of sequences.
#include "chat/template_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "chat/template_eval.h"
#include "chat/template_text.h"

namespace qnext::jinja {

namespace {

using Args = const CallArguments&;

void no_arguments(std::string_view filter, Args args) { const Bound bound(filter, args, {}); }

/// soft_str: the text of any value.
template <std::string (*kFunction)(std::string_view)>
Value map_text(Interpreter& in, const Value& value, Args args) {
  no_arguments("the filter", args);
  const std::string text = in.text(value);
  in.budget().make(3 * text.size());
  return Value::string(kFunction(text));
}

Value tojson(Interpreter& in, const Value& value, Args args) {
  const Bound bound("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.flag(0, false);
  if (bound[1] && bound[1]->is_string()) {
    style.indent = bound[1]->text();
  } else if (bound[1] && !bound[1]->is_none()) {
    constexpr int64_t kWidest = 1000;
    const int64_t width = bound.integer(1, 0);
    if (width > kWidest) throw Failure(fmt::format("tojson indents by at most {} spaces", kWidest));
    style.indent = std::string(static_cast<size_t>(std::max<int64_t>(0, width)), ' ');
  }
  if (style.indent) style.item_separator = std::string(1, ',');
  if (bound[2] && !bound[2]->is_none()) {
    const std::vector<Value> separators = list_of(in.budget(), *bound[2]);
    if (separators.size() != 2 || !separators[0].is_string() || !separators[1].is_string()) {
      throw Failure("tojson separators must be two texts");
    }
    style.item_separator = separators[0].text();
    style.key_separator = separators[1].text();
  }
  style.sort_keys = bound.flag(3, false);
  return Value::string(to_json(in.budget(), value, style));
}

Value trim(Interpreter& in, const Value& value, Args args) {
  const Bound bound("trim", args, {"chars"});
  const std::string text = in.text(value);
  std::optional<std::string_view> characters;
  if (bound[0] && !bound[0]->is_none()) characters = bound.text(0);
  in.budget().scan(text.size() * std::max<size_t>(1, characters ? characters->size() : 1));
  return Value::string(strip(text, Side::kBoth, characters));
}

Value length(Interpreter& in, const Value& value, Args args) {
  no_arguments("length", args);
  if (const auto loop = value.as<Loop>()) return Value::integer(static_cast<Int>(loop->length(in.budget())));
  const auto size = length_of(in.budget(), value);
  if (!size) throw Failure(fmt::format("object of type '{}' has no len()", type_name(value)));
  return Value::integer(static_cast<Int>(*size));
}

Value string(Interpreter& in, const Value& value, Args args) {
  no_arguments("string", args);
  return value.is_string() ? value : Value::string(in.text(value));
}

Value default_filter(Interpreter&, const Value& value, Args args) {
  const Bound bound("default", args, {"default_value", "boolean"});
  if (value.is_undefined() || (bound.flag(1, false) && !truthy(value))) {
    return bound[0] ? *bound[0] : Value::string("");
  }
  return value;
}

/// int(text, base), or nothing.
std::optional<Int> parse_int(std::string_view text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  text = strip(text, Side::kBoth, std::nullopt);
  bool negative = false;
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) {
    negative = text.front() == '-';
    text.remove_prefix(1);
  }
  if (text.size() > 1 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    const int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == marked || base == 0)) {
      base = marked;
      text.remove_prefix(2);
      if (text.starts_with('_')) text.remove_prefix(1);
    } else if (base == 0 && text.find_first_not_of("0_") != std::string_view::npos) {
      return std::nullopt;  // 012 is no decimal literal
    }
  }
  if (base == 0) base = 10;
  Int value = 0;
  bool digit_before = false;
  for (const char c : text) {
    if (c == '_' && digit_before) {
      digit_before = false;
      continue;
    }
    const char lower = static_cast<char>(c | 0x20);
    const int digit = c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'z' ? lower - 'a' + 10 : 99;
    if (digit >= base) return std::nullopt;
    digit_before = true;
    if (__builtin_mul_overflow(value, static_cast<Int>(base), &value) ||
        __builtin_add_overflow(value, static_cast<Int>(digit), &value)) {
      throw Failure("an integer goes beyond 127 bits");
    }
  }
  if (!digit_before) return std::nullopt;
  return negative ? -value : value;
}

/// float(text), or nothing.
std::optional<double> parse_float(std::string_view text) {
  text = strip(text, Side::kBoth, std::nullopt);
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](size_t k) { return k < text.size() && text[k] >= '0' && text[k] <= '9'; };
    if (text[i] == '_' && i > 0 && digit(i - 1) && digit(i + 1)) continue;
    plain += text[i];
  }
  if (plain.starts_with('+')) plain.erase(0, 1);
  const char sign_next = plain.size() > 1 && plain[0] == '-' ? plain[1] : plain.empty() ? '\0' : plain[0];
  const bool word = sign_next == 'i' || sign_next == 'I' || sign_next == 'n' || sign_next == 'N';
  if (!word && sign_next != '.' && !(sign_next >= '0' && sign_next <= '9')) return std::nullopt;
  if (plain.find('(') != std::string::npos) return std::nullopt;  // nan(...) is C's
  double value = 0;
  const auto result = std::from_chars(plain.data(), plain.data() + plain.size(), value);
  if (result.ptr != plain.data() + plain.size() || result.ec == std::errc::invalid_argument) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) value = std::strtod(plain.c_str(), nullptr);
  return value;
}

std::optional<Int> truncate(double value) {
  if (!(std::fabs(value) < 0x1p126)) return std::nullopt;
  return static_cast<Int>(value);
}

Value int_filter(Interpreter& in, const Value& value, Args args) {
  const Bound bound("int", args, {"default", "base"});
  const Value otherwise = bound[0] ? *bound[0] : Value::integer(0);
  if (value.is_undefined()) throw Failure(value.message());
  if (const auto number = value.as_int()) return Value::integer(*number);
  if (value.is_float()) {
    if (std::isnan(value.as_float())) return otherwise;
    const auto number = truncate(value.as_float());
    if (!number) throw Failure("cannot convert this float to an integer");
    return Value::integer(*number);
  }
  if (!value.is_string()) return otherwise;
  in.budget().scan(value.text().size());
  if (const auto number = parse_int(value.text(), bound.integer(1, 10))) return Value::integer(*number);
  if (const auto real = parse_float(value.text())) {
    if (const auto number = truncate(*real)) return Value::integer(*number);
    if (std::isfinite(*real)) throw Failure("an integer goes beyond 127 bits");
  }
  return otherwise;
}

Value float_filter(Interpreter& in, const Value& value, Args args) {
  const Bound bound("float", args, {"default"});
  if (value.is_undefined()) throw Failure(value.message());
  if (const auto number = value.as_number()) return Value::real(*number);
  if (value.is_string()) {
    in.budget().scan(value.text().size());
    if (const auto number = parse_float(value.text())) return Value::real(*number);
  }
  return bound[0] ? *bound[0] : Value::real(0);
}

Value replace_filter(Interpreter& in, const Value& value, Args args) {
  const Bound bound("replace", args, {"old", "new", "count"}, 2);
  const int64_t limit = bound[2] && !bound[2]->is_none() ? bound.integer(2, -1) : -1;
  return Value::string(
      replace(in.budget(), in.text(value), in.text(bound.required(0)), in.text(bound.required(1)), limit));
}

Value absolute(Interpreter&, const Value& value, Args args) {
  no_arguments("abs", args);
  if (const auto number = value.as_int()) return Value::integer(*number < 0 ? -*number : *number);
  if (!value.is_float()) throw Failure(fmt::format("bad operand type for abs(): '{}'", type_name(value)));
  return Value::real(std::fabs(value.as_float()));
}

/// round(value, digits): to the nearest decimal, halves of the exact binary value to even.
double round_half_even(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > 300) return value;
  if (digits < -308) return std::copysign(0.0, value);
  if (digits <= 0) {
    const double scale = std::pow(10.0, static_cast<double>(-digits));
    return std::nearbyint(value / scale) * scale;
  }
  return std::strtod(fmt::format("{:.{}f}", value, digits).c_str(), nullptr);
}

Value round_filter(Interpreter&, const Value& value, Args args) {
  const Bound bound("round", args, {"precision", "method"});
  const int64_t digits = bound.integer(0, 0);
  const std::string method = bound[1] ? bound.text(1) : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    throw Failure("method must be common, ceil or floor");
  if (!value.is_number()) throw Failure(fmt::format("type {} doesn't define __round__ method", type_name(value)));
  if (method == "common") {
    if (value.is_float()) return Value::real(round_half_even(value.as_float(), digits));
    if (digits >= 0) return Value::integer(*value.as_int());
    throw Failure("rounding integers to tens is not supported");
  }
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const double scaled = *value.as_number() * scale;
  if (!std::isfinite(scaled) || scale == 0) throw Failure("cannot round this number");
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value escape(Interpreter& in, const Value& value, Args args) {
  no_arguments("escape", args);
  const std::string text = in.text(value);
  in.budget().make(5 * text.size());
  return Value::string(escape_html(text));
}

Value indent(Interpreter& in, const Value& value, Args args) {
  const Bound bound("indent", args, {"width", "first", "blank"});
  if (!value.is_string()) throw Failure(value.is_undefined() ? value.message() : "indent takes a text");
  std::string indention;
  if (bound[0] && bound[0]->is_string()) {
    indention = bound[0]->text();
  } else {
    const int64_t width = std::max<int64_t>(0, bound.integer(0, 4));
    in.budget().make(static_cast<size_t>(width));
    indention.assign(static_cast<size_t>(width), ' ');
  }
  in.budget().scan(value.text().size());
  const std::string text = value.text() + "\n";  // so that a last, empty line counts
  const bool blank = bound.flag(2, false);
  std::string out;
  if (bound.flag(1, false)) out = indention;
  bool is_first = true;
  for (const std::string_view line : splitlines(in.budget(), text, false)) {
    if (!is_first) {
      out += '\n';
      if (blank || !line.empty()) out += indention;
    }
    is_first = false;
    out += line;
    if (out.size() > in.budget().max_text_bytes()) in.budget().make(out.size());
  }
  in.budget().make(out.size());
  return Value::string(std::move(out));
}

Value wordcount(Interpreter& in, const Value& value, Args args) {
  no_arguments("wordcount", args);
  const std::string text = in.text(value);
  Int count = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const bool word = is_word(next_code_point(text, at));
    count += word && !in_word;
    in_word = word;
  }
  return Value::integer(count);
}

Value attr(Interpreter& in, const Value& value, Args args) {
  const Bound bound("attr", args, {"name"}, 1);
  // Unlike value.name, it does not look among a dict's keys.
  if (value.is_dict() && find_method(value, bound.text(0)) == nullptr) {
    return Value::undefined(fmt::format("'dict object' has no attribute {}", quoted(bound.text(0))));
  }
  return in.attribute(value, bound.text(0));
}

Value format_filter(Interpreter& in, const Value& value, Args args) {
  if (!args.named.empty()) throw Failure("the filter format with names is not supported");
  return Value::string(format_percent(in.budget(), in.text(value), make_tuple(in.budget(), args.positional)));
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"tojson", tojson},
    {"trim", trim},
    {"length", length},
    {"count", length},
    {"string", string},
    {"default", default_filter},
    {"d", default_filter},
    {"int", int_filter},
    {"float", float_filter},
    {"replace", replace_filter},
    {"upper", map_text<upper>},
    {"lower", map_text<lower>},
    {"title", map_text<title_filter>},
    {"capitalize", map_text<capitalize>},
    {"abs", absolute},
    {"round", round_filter},
    {"safe", string},
    {"e", escape},
    {"escape", escape},
    {"forceescape", escape},
    {"indent", indent},
    {"wordcount", wordcount},
    {"attr", attr},
    {"format", format_filter},
};

}  // namespace

FilterFunction find_filter(std::string_view name) {
  for (const auto& [id, function] : kFilters) {
    if (id == name) return function;
  }
  return find_sequence_filter(name);
}

}  // namespace qnext::jinja
