// The tests of `is`, and how arguments are bound to parameters.
#include <algorithm>
#include <cmath>

#include "chat/template_eval.h"
#include "chat/template_text.h"

namespace qnext::jinja {

Bound::Bound(std::string_view function, const CallArguments& arguments,
             std::initializer_list<std::string_view> parameters, size_t required)
    : function_(function), values_(parameters.size(), nullptr) {
  if (arguments.positional.size() > parameters.size()) {
    throw Failure(fmt::format("{} takes at most {} arguments, {} given", function, parameters.size(),
                              arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end() || name.empty()) {
      throw Failure(fmt::format("{} takes no keyword argument {}", function, quoted(name)));
    }
    const auto i = static_cast<size_t>(found - parameters.begin());
    if (values_[i] != nullptr) throw Failure(fmt::format("{} got two values for {}", function, quoted(name)));
    values_[i] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) throw Failure(fmt::format("{} takes at least {} arguments", function, required));
  }
}

int64_t to_int64(const Value& value, std::string_view what) {
  if (value.is_undefined()) throw Failure(value.message());
  const auto number = value.as_int();
  if (!number) throw Failure(fmt::format("{} must be an integer, not {}", what, type_name(value)));
  constexpr Int kFar = Int{1} << 62;
  return static_cast<int64_t>(std::clamp(*number, -kFar, kFar));  // as good as any number beyond every size
}

int64_t Bound::integer(size_t i, int64_t otherwise) const {
  return values_[i] ? to_int64(*values_[i], fmt::format("argument {} of {}", i + 1, function_)) : otherwise;
}

const std::string& Bound::text(size_t i) const {
  if (values_[i] == nullptr || !values_[i]->is_string()) {
    throw Failure(fmt::format("argument {} of {} must be str, not {}", i + 1, function_,
                              values_[i] ? type_name(*values_[i]) : "nothing"));
  }
  return values_[i]->text();
}

namespace {

using Arguments = const CallArguments&;

void no_arguments(Arguments a) { const Bound bound("the test", a, {}); }

Value modulo(Interpreter&, const Value& value, Int divisor) {
  const auto number = value.as_int();
  if (!number && !value.is_float()) {
    if (value.is_undefined()) throw Failure(value.message());
    throw Failure(fmt::format("unsupported operand type(s) for %: '{}' and 'int'", type_name(value)));
  }
  if (divisor == 0) throw Failure("integer division or modulo by zero");
  if (number) return Value::integer((*number % divisor + divisor) % divisor);
  const double remainder = std::fmod(value.as_float(), static_cast<double>(divisor));
  return Value::real(remainder < 0 ? remainder + static_cast<double>(divisor) : remainder);
}

bool is_sequence_like(const Value& v) {
  return v.is_string() || v.is_dict() || v.is_undefined() || (v.is_sequence() && !v.sequence().is_view());
}
bool is_callable(const Value& v) {
  return v.is_undefined() || v.as<Function>() || v.as<BoundMethod>() || v.as<Macro>() || v.as<LoopMethod>() ||
         v.as<Loop>();
}
bool is_iterable(const Value& v) {
  return v.is_string() || v.is_dict() || v.is_undefined() || v.is_sequence() || v.as<Iterator>() || v.as<Loop>();
}

/// jinja2 looks the name up in a dict, which fails for what has no hash.
bool is_name_of(const Value& v) {
  if (v.is_dict() || (v.is_sequence() && v.sequence().kind == SequenceKind::kList)) {
    throw Failure(fmt::format("unhashable type: '{}'", type_name(v)));
  }
  return v.is_string();
}

const Value& other(Arguments a) {
  const Bound bound("the test", a, {""}, 1);
  return bound.required(0);
}

#define QNEXT_KIND_TEST(name, condition)                                                      \
  {name, []([[maybe_unused]] Interpreter& in, [[maybe_unused]] const Value& v, Arguments a) { \
     no_arguments(a);                                                                         \
     return static_cast<bool>(condition);                                                     \
   }}
#define QNEXT_COMPARISON(name, condition)                   \
  {name, [](Interpreter& in, const Value& v, Arguments a) { \
     Budget& b = in.budget();                               \
     return condition;                                      \
   }}

constexpr std::pair<std::string_view, TestFunction> kTests[] = {
    QNEXT_KIND_TEST("defined", !v.is_undefined()),
    QNEXT_KIND_TEST("undefined", v.is_undefined()),
    QNEXT_KIND_TEST("none", v.is_none()),
    QNEXT_KIND_TEST("string", v.is_string()),
    QNEXT_KIND_TEST("mapping", v.is_dict()),
    QNEXT_KIND_TEST("sequence", is_sequence_like(v)),
    QNEXT_KIND_TEST("iterable", is_iterable(v)),
    QNEXT_KIND_TEST("number", v.is_number()),
    QNEXT_KIND_TEST("integer", v.is_int()),
    QNEXT_KIND_TEST("float", v.is_float()),
    QNEXT_KIND_TEST("boolean", v.is_bool()),
    QNEXT_KIND_TEST("true", v.is_bool() && v.as_bool()),
    QNEXT_KIND_TEST("false", v.is_bool() && !v.as_bool()),
    QNEXT_KIND_TEST("callable", is_callable(v)),
    QNEXT_KIND_TEST("escaped", false),
    QNEXT_KIND_TEST("filter", is_name_of(v) && find_filter(v.text()) != nullptr),
    QNEXT_KIND_TEST("test", is_name_of(v) && find_test(v.text()) != nullptr),
    {"odd",
     [](Interpreter& in, const Value& v, Arguments a) {
       no_arguments(a);
       return equal(in.budget(), modulo(in, v, 2), Value::integer(1));
     }},
    {"even",
     [](Interpreter& in, const Value& v, Arguments a) {
       no_arguments(a);
       return equal(in.budget(), modulo(in, v, 2), Value::integer(0));
     }},
    {"divisibleby",
     [](Interpreter& in, const Value& v, Arguments a) {
       const Bound bound("divisibleby", a, {"num"}, 1);
       return equal(in.budget(), modulo(in, v, bound.integer(0, 1)), Value::integer(0));
     }},
    {"lower",
     [](Interpreter& in, const Value& v, Arguments a) {
       no_arguments(a);
       return is_lower(in.text(v));
     }},
    {"upper",
     [](Interpreter& in, const Value& v, Arguments a) {
       no_arguments(a);
       return is_upper(in.text(v));
     }},
    {"in",
     [](Interpreter& in, const Value& v, Arguments a) {
       const Bound bound("in", a, {"seq"}, 1);
       return contains(in.budget(), bound.required(0), v);
     }},
    {"sameas",
     [](Interpreter& in, const Value& v, Arguments a) {
       const Bound bound("sameas", a, {"other"}, 1);
       const Value& o = bound.required(0);
       const bool singleton = v.is_bool() || v.is_none();
       if (!singleton && !o.is_bool() && !o.is_none()) throw Failure("sameas is supported for true, false and none");
       return v.kind() == o.kind() && equal(in.budget(), v, o);
     }},
    QNEXT_COMPARISON("==", equal(b, v, other(a))),
    QNEXT_COMPARISON("eq", equal(b, v, other(a))),
    QNEXT_COMPARISON("equalto", equal(b, v, other(a))),
    QNEXT_COMPARISON("!=", !equal(b, v, other(a))),
    QNEXT_COMPARISON("ne", !equal(b, v, other(a))),
    QNEXT_COMPARISON("<", less(b, v, other(a), "<")),
    QNEXT_COMPARISON("lt", less(b, v, other(a), "<")),
    QNEXT_COMPARISON("lessthan", less(b, v, other(a), "<")),
    QNEXT_COMPARISON("<=", less(b, v, other(a), "<=", true)),
    QNEXT_COMPARISON("le", less(b, v, other(a), "<=", true)),
    QNEXT_COMPARISON(">", less(b, other(a), v, ">")),
    QNEXT_COMPARISON("gt", less(b, other(a), v, ">")),
    QNEXT_COMPARISON("greaterthan", less(b, other(a), v, ">")),
    QNEXT_COMPARISON(">=", less(b, other(a), v, ">=", true)),
    QNEXT_COMPARISON("ge", less(b, other(a), v, ">=", true)),
};

#undef QNEXT_KIND_TEST
#undef QNEXT_COMPARISON

}  // namespace

TestFunction find_test(std::string_view name) {
  for (const auto& [id, function] : kTests) {
    if (id == name) return function;
  }
  return nullptr;
}

}  // namespace qnext::jinja
