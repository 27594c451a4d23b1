// printf-style formatting: "%s: %.2f" % (name, value).
#include <cmath>

#include "chat/template_filters.h"
#include "chat/template_text.h"

namespace qnext::jinja {

namespace {

/// One conversion: %[flags][width][.precision]type.
struct Spec {
  bool left = false, plus = false, space = false, zero = false, alternative = false;
  size_t width = 0;
  std::optional<size_t> precision;
  char type = 0;
};

constexpr size_t kWidest = 10'000;

/// Digits (or * , which is refused) at `at`.
size_t read_number(std::string_view format, size_t& at) {
  if (at < format.size() && format[at] == '*') throw Failure("the width * of a % format is not supported");
  size_t number = 0;
  for (; at < format.size() && format[at] >= '0' && format[at] <= '9'; ++at) {
    number = number * 10 + static_cast<size_t>(format[at] - '0');
    if (number > kWidest) throw Failure(fmt::format("the width of a % format is more than {}", kWidest));
  }
  return number;
}

Spec read_spec(std::string_view format, size_t& at) {
  Spec spec;
  for (; at < format.size(); ++at) {
    const char c = format[at];
    if (c == '(') throw Failure("% formats with names are not supported");
    if (c == '-') {
      spec.left = true;
    } else if (c == '+') {
      spec.plus = true;
    } else if (c == ' ') {
      spec.space = true;
    } else if (c == '0') {
      spec.zero = true;
    } else if (c == '#') {
      spec.alternative = true;
    } else {
      break;
    }
  }
  spec.width = read_number(format, at);
  if (at < format.size() && format[at] == '.') spec.precision = read_number(format, ++at);
  while (at < format.size() && (format[at] == 'h' || format[at] == 'l' || format[at] == 'L')) ++at;
  if (at == format.size()) throw Failure("incomplete format");
  spec.type = format[at++];
  return spec;
}

std::string signed_text(const Spec& spec, bool negative, std::string_view prefix, std::string digits) {
  std::string sign = negative ? "-" : spec.plus ? "+" : spec.space ? " " : "";
  sign += prefix;
  if (spec.zero && !spec.left && sign.size() + digits.size() < spec.width) {
    digits.insert(0, spec.width - sign.size() - digits.size(), '0');
  }
  return sign + digits;
}

std::string format_int(const Spec& spec, const Value& value) {
  std::optional<Int> number = value.as_int();
  if (!number && value.is_float() && (spec.type == 'd' || spec.type == 'i' || spec.type == 'u')) {
    if (!(std::fabs(value.as_float()) < 0x1p126)) throw Failure("cannot convert this float to an integer");
    number = static_cast<Int>(value.as_float());
  }
  if (!number) throw Failure(fmt::format("%{} format: an integer is required, not {}", spec.type, type_name(value)));
  const auto magnitude =
      *number < 0 ? -static_cast<unsigned __int128>(*number) : static_cast<unsigned __int128>(*number);
  std::string digits, prefix;
  switch (spec.type) {
    case 'x':
      digits = fmt::format("{:x}", magnitude), prefix = "0x";
      break;
    case 'X':
      digits = fmt::format("{:X}", magnitude), prefix = "0X";
      break;
    case 'o':
      digits = fmt::format("{:o}", magnitude), prefix = "0o";
      break;
    default:
      digits = fmt::format("{}", magnitude);
  }
  if (spec.precision && digits.size() < *spec.precision) digits.insert(0, *spec.precision - digits.size(), '0');
  return signed_text(spec, *number < 0, spec.alternative ? prefix : "", digits);
}

std::string format_float(const Spec& spec, const Value& value) {
  const auto number = value.as_number();
  if (!number) throw Failure(fmt::format("must be real number, not {}", type_name(value)));
  const double magnitude = std::fabs(*number);
  std::string digits;
  if (!std::isfinite(*number)) {
    digits = std::isnan(*number) ? "nan" : "inf";
    if (spec.type < 'a') digits = upper(digits);
  } else {
    const int precision = static_cast<int>(spec.precision.value_or(6));
    char pattern[] = {'%', '.', '*', spec.type, '\0'};
    char alternative[] = {'%', '#', '.', '*', spec.type, '\0'};
    std::string buffer(static_cast<size_t>(precision) + 400, '\0');
    const int size =
        std::snprintf(buffer.data(), buffer.size(), spec.alternative ? alternative : pattern, precision, magnitude);
    digits = buffer.substr(0, static_cast<size_t>(size));
  }
  return signed_text(spec, std::signbit(*number) && !std::isnan(*number), "", digits);
}

std::string format_one(Budget& budget, const Spec& spec, const Value& value) {
  switch (spec.type) {
    case 's':
    case 'r': {
      std::string text = spec.type == 's' ? to_text(budget, value) : repr(budget, value);
      return spec.precision ? text.substr(0, byte_offset(text, *spec.precision)) : text;
    }
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
      return format_int(spec, value);
    case 'f':
    case 'F':
    case 'e':
    case 'E':
    case 'g':
    case 'G':
      return format_float(spec, value);
    case 'c': {
      if (value.is_string() && code_point_count(value.text()) == 1) return value.text();
      const auto code = value.as_int();
      if (!code || *code < 0 || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000)) {
        throw Failure("%c requires a character");
      }
      std::string out;
      append_code_point(out, static_cast<char32_t>(*code));
      return out;
    }
    default:
      throw Failure(fmt::format("unsupported format character {}", quoted(std::string(1, spec.type))));
  }
}

}  // namespace

std::string format_percent(Budget& budget, std::string_view format, const Value& arguments) {
  const bool is_tuple = arguments.is_sequence() && arguments.sequence().kind == SequenceKind::kTuple;
  const size_t count = is_tuple ? arguments.sequence().items.size() : 1;
  size_t used = 0;
  std::string out;
  for (size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out += format[at++];
      continue;
    }
    const Spec spec = read_spec(format, ++at);
    if (spec.type == '%') {
      out += '%';
      continue;
    }
    if (used == count) throw Failure("not enough arguments for format string");
    const std::string text = format_one(budget, spec, is_tuple ? arguments.sequence().items[used] : arguments);
    ++used;
    const size_t size = code_point_count(text);
    const std::string padding(spec.width > size ? spec.width - size : 0, ' ');
    out += spec.left ? text + padding : padding + text;
    budget.make(out.size());
  }
  const bool all_used =
      used == count || (!is_tuple && (arguments.is_dict() || (arguments.is_sequence() && used == 0)));
  if (!all_used) throw Failure("not all arguments converted during string formatting");
  budget.make(out.size());
  return out;
}

}  // namespace qnext::jinja
