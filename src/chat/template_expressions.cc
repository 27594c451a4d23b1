// Expressions of a rendering.
#include <algorithm>
#include <cmath>

#include "chat/template_eval.h"
#include "chat/template_text.h"

namespace qnext::jinja {

namespace {
[[noreturn]] void fail_operands(std::string_view sign, const Value& a, const Value& b) {
  if (a.is_undefined() || b.is_undefined()) throw Failure(a.is_undefined() ? a.message() : b.message());
  throw Failure(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", sign, type_name(a), type_name(b)));
}
[[noreturn]] void fail_overflow() { throw Failure("an integer goes beyond 127 bits"); }

std::string quoted_name(std::string_view name) {
  std::string out;
  append_string_repr(out, name.substr(0, byte_offset(name, 80)));
  return out;
}

Value no_attribute(const Value& object, std::string_view name) {
  return Value::undefined(object.is_none()
                              ? fmt::format("'None' has no attribute {}", quoted_name(name))
                              : fmt::format("'{} object' has no attribute {}", type_name(object), quoted_name(name)));
}

/// The position of a sequence's index, or nothing when it is outside.
std::optional<size_t> position(Int index, size_t size) {
  const Int length = static_cast<Int>(size);
  if (index < 0) index += length;
  if (index < 0 || index >= length) return std::nullopt;
  return static_cast<size_t>(index);
}

/// Python's slice.indices: the first position, the one not reached any more, and the step.
struct SliceBounds {
  Int first, last, step;
};
SliceBounds slice_bounds(size_t size, std::optional<Int> start, std::optional<Int> stop,
                         std::optional<Int> step_given) {
  const Int length = static_cast<Int>(size), step = step_given.value_or(1);
  if (step == 0) throw Failure("slice step cannot be zero");
  const Int lowest = step < 0 ? -1 : 0, highest = step < 0 ? length - 1 : length;
  const auto bound = [&](std::optional<Int> given, Int otherwise) {
    if (!given) return otherwise;
    return std::clamp(*given < 0 ? *given + length : *given, lowest, highest);
  };
  return {bound(start, step < 0 ? highest : lowest), bound(stop, step < 0 ? lowest : highest), step};
}

std::vector<size_t> positions_of(Budget& budget, const SliceBounds& slice, size_t size) {
  const Int far = static_cast<Int>(size) + 1;
  const Int step = std::clamp(slice.step, -far, far);  // longer steps take no more items
  std::vector<size_t> positions;
  for (Int i = slice.first; step < 0 ? i > slice.last : i < slice.last; i += step) {
    budget.steps(1);
    positions.push_back(static_cast<size_t>(i));
  }
  return positions;
}

Value power(const Value& a, const Value& b) {
  const auto x = a.as_int(), y = b.as_int();
  if (x && y && *y >= 0) {
    Int result = 1, base = *x;
    for (Int n = *y; n > 0; n >>= 1) {
      if ((n & 1) && __builtin_mul_overflow(result, base, &result)) fail_overflow();
      if (n > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
    }
    return Value::integer(result);
  }
  const double base = *a.as_number(), exponent = *b.as_number();
  if (base == 0 && exponent < 0) throw Failure("0.0 cannot be raised to a negative power");
  if (base < 0 && std::isfinite(base) && std::isfinite(exponent) && exponent != std::floor(exponent)) {
    throw Failure("a power of a negative number would be complex");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) throw Failure("a power is too large");
  return Value::real(result);
}

/// // and % of ints and floats, rounding down as Python does.
Value floor_division(const Value& a, const Value& b, bool want_quotient) {
  const auto x = a.as_int(), y = b.as_int();
  if (x && y) {
    if (*y == 0) throw Failure("integer division or modulo by zero");
    if (*y == -1) {  // the one quotient that can overflow
      Int negated = 0;
      if (__builtin_sub_overflow(Int{0}, *x, &negated)) fail_overflow();
      return Value::integer(want_quotient ? negated : 0);
    }
    const Int remainder = *x % *y;
    const bool adjust = remainder != 0 && (remainder < 0) != (*y < 0);
    return Value::integer(want_quotient ? *x / *y - adjust : remainder + (adjust ? *y : 0));
  }
  const double u = *a.as_number(), v = *b.as_number();
  if (v == 0) throw Failure("float floor division or modulo by zero");
  double remainder = std::fmod(u, v);
  double quotient = (u - remainder) / v;
  if (remainder != 0) {
    if ((remainder < 0) != (v < 0)) {
      remainder += v;
      quotient -= 1;
    }
  } else {
    remainder = std::copysign(0.0, v);
  }
  if (!want_quotient) return Value::real(remainder);
  if (quotient == 0) return Value::real(std::copysign(0.0, u / v));
  const double rounded = std::floor(quotient);
  return Value::real(quotient - rounded > 0.5 ? rounded + 1 : rounded);
}
}  // namespace

Value Interpreter::eval(const Expr& expr) {
  const Budget::Level level(budget_);
  budget_.steps(1);
  line_ = expr.line;
  return std::visit([this](const auto& node) { return eval_node(node); }, expr.node);
}

Value Interpreter::eval_node(const Constant& node) { return node.value; }

Value Interpreter::eval_node(const Name& node) {
  if (const Value* value = find_variable(node.id)) return *value;
  Value global = find_global(node.id);
  return global.is_undefined() ? Value::undefined(quoted_name(node.id) + " is undefined") : global;
}

Value Interpreter::eval_node(const ListLiteral& node) {
  std::vector<Value> items;
  for (const ExprPtr& item : node.items) items.push_back(eval(*item));
  return make_sequence(budget_, node.is_tuple ? SequenceKind::kTuple : SequenceKind::kList, std::move(items));
}

Value Interpreter::eval_node(const DictLiteral& node) {
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [key, value] : node.entries) {
    Value k = eval(*key);
    entries.emplace_back(std::move(k), eval(*value));
  }
  return make_dict(budget_, std::move(entries));
}

Value Interpreter::eval_node(const Unary& node) {
  const Value value = eval(*node.operand);
  if (node.op == UnaryOp::kNot) return Value::boolean(!truthy(value));
  if (value.is_undefined()) throw Failure(value.message());
  const bool negative = node.op == UnaryOp::kMinus;
  if (const auto number = value.as_int()) {
    Int negated = 0;
    if (__builtin_sub_overflow(Int{0}, *number, &negated)) fail_overflow();
    return Value::integer(negative ? negated : *number);
  }
  if (!value.is_float()) {
    throw Failure(fmt::format("bad operand type for unary {}: '{}'", negative ? '-' : '+', type_name(value)));
  }
  return Value::real(negative ? -value.as_float() : value.as_float());
}

Value Interpreter::eval_node(const Binary& node) {
  const Value left = eval(*node.left);
  return arithmetic(node.op, left, eval(*node.right));
}

Value Interpreter::eval_node(const Logical& node) {
  Value left = eval(*node.left);
  return truthy(left) == node.is_or ? left : eval(*node.right);
}

Value Interpreter::eval_node(const Concat& node) {
  std::string out;
  for (const ExprPtr& part : node.parts) {
    out += text(eval(*part));
    budget_.make(out.size());
  }
  return Value::string(std::move(out));
}

Value Interpreter::eval_node(const Compare& node) {
  Value left = eval(*node.first);
  for (const auto& [op, operand] : node.rest) {
    Value right = eval(*operand);
    if (!compare(op, left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

bool Interpreter::compare(CompareOp op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOp::kEqual:
      return equal(budget_, a, b);
    case CompareOp::kNotEqual:
      return !equal(budget_, a, b);
    case CompareOp::kLess:
      return less(budget_, a, b, "<");
    case CompareOp::kLessEqual:
      return less(budget_, a, b, "<=", true);
    case CompareOp::kGreater:
      return less(budget_, b, a, ">");
    case CompareOp::kGreaterEqual:
      return less(budget_, b, a, ">=", true);
    case CompareOp::kIn:
      return contains(budget_, b, a);
    case CompareOp::kNotIn:
      return !contains(budget_, b, a);
  }
  return false;
}

Value Interpreter::eval_node(const Conditional& node) {
  if (truthy(eval(*node.test))) return eval(*node.then);
  if (node.otherwise) return eval(*node.otherwise);
  return Value::undefined("the inline if-expression evaluated to false and no else section was defined.");
}

Value Interpreter::eval_node(const Attribute& node) { return attribute(eval(*node.object), node.name); }

Value Interpreter::eval_node(const Item& node) {
  const Value object = eval(*node.object);
  return item(object, eval(*node.index));
}

Value Interpreter::eval_node(const Slice& node) {
  const Value object = eval(*node.object);
  const auto bound = [&](const ExprPtr& e) -> std::optional<Int> {
    if (!e) return std::nullopt;
    const Value value = eval(*e);
    if (value.is_none()) return std::nullopt;
    if (!value.as_int()) throw Failure("slice indices must be integers or None");
    return value.as_int();
  };
  const auto start = bound(node.start), stop = bound(node.stop), step = bound(node.step);
  if (object.is_undefined()) throw Failure(object.message());
  if (object.is_string()) {
    const std::string& whole = object.text();
    budget_.scan(whole.size());
    std::vector<size_t> begins;  // of the code points, and the end
    budget_.steps(static_cast<int64_t>(whole.size() / 8));
    for (size_t at = 0; at < whole.size(); next_code_point(whole, at)) begins.push_back(at);
    begins.push_back(whole.size());
    std::string out;
    const size_t size = begins.size() - 1;
    for (const size_t i : positions_of(budget_, slice_bounds(size, start, stop, step), size)) {
      out.append(whole, begins[i], begins[i + 1] - begins[i]);
    }
    budget_.make(out.size());
    return Value::string(std::move(out));
  }
  if (!object.is_sequence() || object.sequence().is_view()) {
    throw Failure(fmt::format("'{}' object cannot be sliced", type_name(object)));
  }
  const Sequence& sequence = object.sequence();
  const SliceBounds slice = slice_bounds(sequence.items.size(), start, stop, step);
  if (sequence.kind == SequenceKind::kRange) {
    Int product = 0;
    if (__builtin_mul_overflow(sequence.step, slice.step, &product)) fail_overflow();
    return make_range(budget_, sequence.start + slice.first * sequence.step,
                      sequence.start + slice.last * sequence.step, product);
  }
  const auto positions = positions_of(budget_, slice, sequence.items.size());
  std::vector<Value> items;
  for (const size_t i : positions) items.push_back(sequence.items[i]);
  return make_sequence(budget_, sequence.kind, std::move(items));
}

Value Interpreter::eval_node(const Call& node) {
  const int line = line_;
  const Value callee = eval(*node.callee);
  const CallArguments arguments = eval_arguments(node.arguments);
  line_ = line;
  return call(callee, arguments);
}

Value Interpreter::eval_node(const Filter& node) { return eval_filter(node, Value()); }

Value Interpreter::eval_filter(const Filter& node, const Value& head) {
  // The filter of a block stands at the end of its chain; the captured text enters at the other end.
  Value input = head;
  if (node.input) {
    const auto* inner = std::get_if<Filter>(&node.input->node);
    const Budget::Level level(budget_);
    input = inner ? eval_filter(*inner, head) : eval(*node.input);
  }
  const CallArguments arguments = eval_arguments(node.arguments);
  return filter(node.name, input, arguments);
}

Value Interpreter::eval_node(const Test& node) {
  const Value input = eval(*node.input);
  const CallArguments arguments = eval_arguments(node.arguments);
  return Value::boolean(test(node.name, input, arguments));
}

CallArguments Interpreter::eval_arguments(const Arguments& arguments) {
  CallArguments out;
  for (const ExprPtr& e : arguments.positional) out.positional.push_back(eval(*e));
  for (const auto& [name, e] : arguments.named) out.named.emplace_back(name, eval(*e));
  if (arguments.more_positional) {
    const auto items = iterate(budget_, eval(*arguments.more_positional));
    while (auto item = items->next()) out.positional.push_back(std::move(*item));
  }
  if (arguments.more_named) {
    const Value more = eval(*arguments.more_named);
    if (!more.is_dict()) throw Failure(fmt::format("argument after ** must be a mapping, not {}", type_name(more)));
    for (const auto& [key, value] : more.dict().entries) {
      if (!key.is_string()) throw Failure("keywords must be strings");
      budget_.steps(1 + static_cast<int64_t>(arguments.named.size()));
      const bool doubled = std::any_of(arguments.named.begin(), arguments.named.end(),
                                       [&](const auto& n) { return n.first == key.text(); });
      if (doubled) throw Failure(fmt::format("got multiple values for keyword argument {}", quoted_name(key.text())));
      out.named.emplace_back(key.text(), value);
    }
  }
  return out;
}

Value Interpreter::filter(std::string_view name, const Value& input, const CallArguments& arguments) {
  const FilterFunction function = find_filter(name);
  if (function == nullptr) throw Failure(fmt::format("No filter named {}.", quoted_name(name)));
  return function(*this, input, arguments);
}

bool Interpreter::test(std::string_view name, const Value& input, const CallArguments& arguments) {
  const TestFunction function = find_test(name);
  if (function == nullptr) throw Failure(fmt::format("No test named {}.", quoted_name(name)));
  return function(*this, input, arguments);
}

Value Interpreter::call(const Value& callee, const CallArguments& arguments) {
  const Budget::Level level(budget_);
  if (callee.is_undefined()) throw Failure(callee.message());
  if (const auto function = callee.as<Function>()) return function->body(*this, arguments);
  if (const auto bound = callee.as<BoundMethod>()) return call_method(*this, bound->method, bound->self, arguments);
  if (const auto macro = callee.as<Macro>()) return run_macro(*macro, arguments);
  if (const auto method = callee.as<LoopMethod>()) {
    if (!arguments.named.empty()) throw Failure("loop methods take no keyword arguments");
    Loop& loop = *method->loop;
    if (method->is_cycle) {
      if (arguments.positional.empty()) throw Failure("no items for cycling given");
      return arguments.positional[static_cast<size_t>(loop.index0) % arguments.positional.size()];
    }
    if (loop.finished) throw Failure("loop.changed() is called after its loop");
    Value now = make_tuple(budget_, arguments.positional);
    if (loop.last_changed && equal(budget_, *loop.last_changed, now)) return Value::boolean(false);
    loop.last_changed = std::move(now);
    return Value::boolean(true);
  }
  if (callee.as<Loop>()) throw Failure("recursive loops are not supported");
  throw Failure(fmt::format("'{}' object is not callable", type_name(callee)));
}

Value Interpreter::attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) throw Failure(object.message());
  if (const auto space = object.as<Namespace>()) {
    const Value* value = space->find(budget_, name);
    return value ? *value : no_attribute(object, name);
  }
  if (const auto loop = object.as<Loop>()) {
    bool found = false;
    Value value = loop_attribute(loop, name, found);
    return found ? value : no_attribute(object, name);
  }
  const bool is_private = name.starts_with("__");
  const Method* method = is_private ? nullptr : find_method(object, name);
  if (is_private || (method != nullptr && changes_object(*method))) {
    return Value::undefined(
        fmt::format("access to attribute {} of '{}' object is unsafe.", quoted_name(name), type_name(object)));
  }
  if (method != nullptr) {
    budget_.data_depth(object.depth() + 1);
    return Value::object(std::make_shared<BoundMethod>(*method, object));
  }
  if (object.is_dict()) {
    if (const Value* value = object.dict().find(budget_, name)) return *value;
  }
  return no_attribute(object, name);
}

Value Interpreter::item(const Value& object, const Value& index) {
  if (object.is_undefined()) throw Failure(object.message());
  const auto number = index.as_int();
  if (object.is_dict()) {
    const bool list = index.is_dict() || (index.is_sequence() && index.sequence().kind == SequenceKind::kList);
    const Value* value = list ? nullptr : object.dict().find(budget_, index);
    if (value != nullptr) return *value;
  } else if (object.is_sequence() && !object.sequence().is_view() && number) {
    const auto& items = object.sequence().items;
    if (const auto at = position(*number, items.size())) return items[*at];
  } else if (object.is_string() && number) {
    const std::string& whole = object.text();
    budget_.scan(whole.size());
    if (const auto at = position(*number, code_point_count(whole))) {
      const size_t begin = byte_offset(whole, *at);
      size_t end = begin;
      next_code_point(whole, end);
      return Value::string(whole.substr(begin, end - begin));
    }
  }
  if (index.is_string()) return attribute(object, index.text());
  std::string shown = "...";
  if (index.is_number() || index.is_none()) shown = repr(budget_, index);
  return Value::undefined(fmt::format("{} has no element {}",
                                      object.is_none() ? "None" : std::string(type_name(object)) + " object", shown));
}

Value Interpreter::loop_attribute(const std::shared_ptr<Loop>& loop, std::string_view name, bool& found) {
  const auto number = [](int64_t n) { return Value::integer(n); };
  const auto length = [&] { return static_cast<int64_t>(loop->length(budget_)); };
  found = true;
  if (name == "index") return number(loop->index0 + 1);
  if (name == "index0") return number(loop->index0);
  if (name == "first") return Value::boolean(loop->index0 == 0);
  if (name == "last") return Value::boolean(!loop->peek());
  if (name == "length") return number(length());
  if (name == "revindex") return number(length() - loop->index0);
  if (name == "revindex0") return number(length() - loop->index0 - 1);
  if (name == "depth") return number(1);
  if (name == "depth0") return number(0);
  if (name == "previtem") {
    return loop->before && loop->index0 > 0 ? *loop->before : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") return loop->peek() ? *loop->peek() : Value::undefined("there is no next item");
  if (name == "cycle" || name == "changed") return Value::object(std::make_shared<LoopMethod>(loop, name == "cycle"));
  found = false;
  return Value();
}

Value Interpreter::add(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    budget_.make(a.text().size() + b.text().size());
    std::string out;
    out.reserve(a.text().size() + b.text().size());
    out += a.text();
    out += b.text();
    return Value::string(std::move(out));
  }
  if (a.is_sequence() && b.is_sequence() && a.sequence().kind == b.sequence().kind &&
      a.sequence().kind <= SequenceKind::kTuple) {
    const auto &x = a.sequence().items, &y = b.sequence().items;
    budget_.steps(static_cast<int64_t>(x.size() + y.size()));
    std::vector<Value> items(x);
    items.insert(items.end(), y.begin(), y.end());
    return make_sequence(budget_, a.sequence().kind, std::move(items));
  }
  if (!a.is_number() || !b.is_number()) fail_operands("+", a, b);
  return arithmetic(BinaryOp::kAdd, a, b);
}

Value Interpreter::repeat(const Value& value, Int count) {
  count = std::max<Int>(count, 0);
  if (value.is_string()) {
    const std::string& unit = value.text();
    if (count > 0 && unit.size() > budget_.max_text_bytes() / static_cast<unsigned __int128>(count)) {
      budget_.make(budget_.max_text_bytes() + 1);
    }
    budget_.make(unit.size() * static_cast<size_t>(unit.empty() ? 0 : count));
    if (unit.size() == 1) return Value::string(std::string(static_cast<size_t>(count), unit.front()));
    std::string out;
    for (Int i = 0; i < count && !unit.empty(); ++i) out += unit;
    return Value::string(std::move(out));
  }
  const auto& unit = value.sequence().items;
  // Steps are fewer than 2^63, so a count beyond it is too much whatever the size.
  const Int wanted = unit.empty() ? 0 : std::min<Int>(count, Int{1} << 60) * static_cast<Int>(unit.size());
  budget_.steps(static_cast<int64_t>(std::min<Int>(wanted, Int{1} << 62)));
  std::vector<Value> items;
  for (Int i = 0; i < count && !unit.empty(); ++i) items.insert(items.end(), unit.begin(), unit.end());
  return make_sequence(budget_, value.sequence().kind, std::move(items));
}

Value Interpreter::arithmetic(BinaryOp op, const Value& a, const Value& b) {
  constexpr std::string_view kSigns[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
  const auto repeatable = [](const Value& v) {
    return v.is_string() || (v.is_sequence() && v.sequence().kind <= SequenceKind::kTuple);
  };
  if (!a.is_number() || !b.is_number()) {
    if (op == BinaryOp::kAdd) return add(a, b);
    if (op == BinaryOp::kMultiply && repeatable(a) && b.as_int()) return repeat(a, *b.as_int());
    if (op == BinaryOp::kMultiply && repeatable(b) && a.as_int()) return repeat(b, *a.as_int());
    if (op == BinaryOp::kModulo && a.is_string() && !b.is_undefined()) {
      return Value::string(format_percent(budget_, a.text(), b));
    }
    fail_operands(kSigns[static_cast<size_t>(op)], a, b);
  }
  if (op == BinaryOp::kPower) return power(a, b);
  if (op == BinaryOp::kFloorDivide || op == BinaryOp::kModulo)
    return floor_division(a, b, op == BinaryOp::kFloorDivide);
  const auto x = a.as_int(), y = b.as_int();
  if (op == BinaryOp::kDivide) {
    if (*b.as_number() == 0) throw Failure("division by zero");
    return Value::real(*a.as_number() / *b.as_number());
  }
  if (x && y) {
    Int result = 0;
    const bool overflow = op == BinaryOp::kAdd        ? __builtin_add_overflow(*x, *y, &result)
                          : op == BinaryOp::kSubtract ? __builtin_sub_overflow(*x, *y, &result)
                                                      : __builtin_mul_overflow(*x, *y, &result);
    if (overflow) fail_overflow();
    return Value::integer(result);
  }
  const double u = *a.as_number(), v = *b.as_number();
  return Value::real(op == BinaryOp::kAdd ? u + v : op == BinaryOp::kSubtract ? u - v : u * v);
}

}  // namespace qnext::jinja
