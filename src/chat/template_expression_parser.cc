#include "chat/template_expression_parser.h"

#include <algorithm>
#include <charconv>

#include "chat/template_filters.h"

namespace qnext::jinja {

namespace {

int32_t height(const ExprPtr& e) { return e ? e->depth : 0; }
int32_t height(const std::vector<ExprPtr>& list) {
  int32_t h = 0;
  for (const ExprPtr& e : list) h = std::max(h, height(e));
  return h;
}
int32_t height(const Arguments& a) {
  int32_t h = std::max({height(a.positional), height(a.more_positional), height(a.more_named)});
  for (const auto& [name, e] : a.named) h = std::max(h, height(e));
  return h;
}
int32_t height(const Constant&) { return 0; }
int32_t height(const Name&) { return 0; }
int32_t height(const ListLiteral& n) { return height(n.items); }
int32_t height(const DictLiteral& n) {
  int32_t h = 0;
  for (const auto& [key, value] : n.entries) h = std::max({h, height(key), height(value)});
  return h;
}
int32_t height(const Unary& n) { return height(n.operand); }
int32_t height(const Binary& n) { return std::max(height(n.left), height(n.right)); }
int32_t height(const Logical& n) { return std::max(height(n.left), height(n.right)); }
int32_t height(const Concat& n) { return height(n.parts); }
int32_t height(const Compare& n) {
  int32_t h = height(n.first);
  for (const auto& [op, e] : n.rest) h = std::max(h, height(e));
  return h;
}
int32_t height(const Conditional& n) { return std::max({height(n.test), height(n.then), height(n.otherwise)}); }
int32_t height(const Attribute& n) { return height(n.object); }
int32_t height(const Item& n) { return std::max(height(n.object), height(n.index)); }
int32_t height(const Slice& n) {
  return std::max({height(n.object), height(n.start), height(n.stop), height(n.step)});
}
int32_t height(const Call& n) { return std::max(height(n.callee), height(n.arguments)); }
int32_t height(const Filter& n) { return std::max(height(n.input), height(n.arguments)); }
int32_t height(const Test& n) { return std::max(height(n.input), height(n.arguments)); }

}  // namespace

bool is_constant_name(std::string_view name) {
  constexpr std::string_view kNames[] = {"true", "false", "none", "True", "False", "None"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

ExprPtr ExpressionParser::make(int line, Expr::Node node) const {
  const int32_t depth = 1 + std::visit([](const auto& n) { return height(n); }, node);
  if (depth > limits_.depth) too_deep();
  return std::make_unique<Expr>(Expr{line, depth, std::move(node)});
}

ExprPtr ExpressionParser::parse_expression(bool with_conditional) {
  const Level level(*this);
  return with_conditional ? parse_conditional() : parse_or();
}

ExprPtr ExpressionParser::parse_tuple(bool with_conditional, std::string_view end, bool in_parentheses) {
  const int line = token().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  for (;;) {
    if (!items.empty()) expect(",");
    const TokenKind kind = token().kind;
    if (kind == TokenKind::kPrintEnd || kind == TokenKind::kTagEnd || token().is(")") ||
        (!end.empty() && token().is_name(end))) {
      break;
    }
    items.push_back(parse_expression(with_conditional));
    if (!token().is(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items.front());
  if (!is_tuple && !in_parentheses) fail("an expression");
  return make(line, ListLiteral{true, std::move(items)});
}

ExprPtr ExpressionParser::parse_conditional() {
  const int line = token().line;
  const size_t unknown_before = unknown_.size();
  ExprPtr value = parse_or();
  if (token().is_name("if")) unknown_.resize(unknown_before);  // the value was conditional
  while (skip_name("if")) {
    const SoftScope soft(*this, true);
    Conditional node;
    node.then = std::move(value);
    node.test = parse_or();
    if (skip_name("else")) {
      const Level level(*this);
      node.otherwise = parse_conditional();
    }
    value = make(line, std::move(node));
  }
  return value;
}

ExprPtr ExpressionParser::parse_or() {
  const int line = token().line;
  ExprPtr left = parse_and();
  while (skip_name("or")) left = make(line, Logical{true, std::move(left), parse_and()});
  return left;
}

ExprPtr ExpressionParser::parse_and() {
  const int line = token().line;
  ExprPtr left = parse_not();
  while (skip_name("and")) left = make(line, Logical{false, std::move(left), parse_not()});
  return left;
}

ExprPtr ExpressionParser::parse_not() {
  const int line = token().line;
  if (!skip_name("not")) return parse_compare();
  const Level level(*this);
  return make(line, Unary{UnaryOp::kNot, parse_not()});
}

std::optional<CompareOp> ExpressionParser::take_compare_op() {
  constexpr std::pair<std::string_view, CompareOp> kOps[] = {
      {"==", CompareOp::kEqual},     {"!=", CompareOp::kNotEqual}, {"<", CompareOp::kLess},
      {"<=", CompareOp::kLessEqual}, {">", CompareOp::kGreater},   {">=", CompareOp::kGreaterEqual}};
  for (const auto& [text, op] : kOps) {
    if (skip(text)) return op;
  }
  if (skip_name("in")) return CompareOp::kIn;
  if (token().is_name("not") && token(1).is_name("in")) {
    take();
    take();
    return CompareOp::kNotIn;
  }
  return std::nullopt;
}

ExprPtr ExpressionParser::parse_compare() {
  const int line = token().line;
  Compare node;
  node.first = parse_sum();
  while (const auto op = take_compare_op()) node.rest.emplace_back(*op, parse_sum());
  return node.rest.empty() ? std::move(node.first) : make(line, std::move(node));
}

ExprPtr ExpressionParser::parse_sum() {
  const int line = token().line;
  ExprPtr left = parse_concat();
  while (token().is("+") || token().is("-")) {
    const BinaryOp op = take().text == "+" ? BinaryOp::kAdd : BinaryOp::kSubtract;
    left = make(line, Binary{op, std::move(left), parse_concat()});
  }
  return left;
}

ExprPtr ExpressionParser::parse_concat() {
  const int line = token().line;
  Concat node;
  node.parts.push_back(parse_product());
  while (skip("~")) node.parts.push_back(parse_product());
  return node.parts.size() == 1 ? std::move(node.parts.front()) : make(line, std::move(node));
}

ExprPtr ExpressionParser::parse_product() {
  const int line = token().line;
  ExprPtr left = parse_power();
  for (;;) {
    BinaryOp op;
    if (skip("*")) {
      op = BinaryOp::kMultiply;
    } else if (skip("/")) {
      op = BinaryOp::kDivide;
    } else if (skip("//")) {
      op = BinaryOp::kFloorDivide;
    } else if (skip("%")) {
      op = BinaryOp::kModulo;
    } else {
      return left;
    }
    left = make(line, Binary{op, std::move(left), parse_power()});
  }
}

ExprPtr ExpressionParser::parse_power() {
  const int line = token().line;
  ExprPtr left = parse_unary();
  while (skip("**")) left = make(line, Binary{BinaryOp::kPower, std::move(left), parse_unary()});
  return left;
}

ExprPtr ExpressionParser::parse_unary(bool with_filters) {
  const Level level(*this);
  const int line = token().line;
  ExprPtr node;
  if (skip("-")) {
    node = make(line, Unary{UnaryOp::kMinus, parse_unary(false)});
  } else if (skip("+")) {
    node = make(line, Unary{UnaryOp::kPlus, parse_unary(false)});
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters_and_tests(std::move(node)) : std::move(node);
}

ExprPtr ExpressionParser::parse_primary() {
  const int line = token().line;
  if (skip("(")) {
    ExprPtr node = parse_tuple(true, "", true);
    expect(")");
    return node;
  }
  if (token().is("[")) return parse_list();
  if (token().is("{")) return parse_dict();
  switch (token().kind) {
    case TokenKind::kName:
      return parse_name(line);
    case TokenKind::kInteger:
      return make(line, Constant{Value::integer(parse_integer())});
    case TokenKind::kFloat: {
      const std::string text = take().text;
      double value = 0;
      const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
      if (result.ec == std::errc::result_out_of_range) fail_at(file_, line, "a number in the range of doubles", text);
      return make(line, Constant{Value::real(value)});
    }
    case TokenKind::kString: {
      std::string text;
      while (token().kind == TokenKind::kString) text += take().text;
      return make(line, Constant{Value::string(std::move(text))});
    }
    default:
      fail("an expression");
  }
}

ExprPtr ExpressionParser::parse_name(int line) {
  std::string name = take().text;
  if (is_constant_name(name)) {
    const char first = static_cast<char>(name.front() | 0x20);
    return make(line, Constant{first == 'n' ? Value() : Value::boolean(first == 't')});
  }
  if (macro_ != nullptr) {
    macro_->uses_caller |= name == "caller";
    macro_->uses_varargs |= name == "varargs";
    macro_->uses_kwargs |= name == "kwargs";
  }
  return make(line, Name{std::move(name)});
}

Int ExpressionParser::parse_integer() {
  const Token number = take();
  std::string_view text = number.text;
  Int base = 10;
  if (text.size() > 2 && text[0] == '0') {
    const char kind = static_cast<char>(text[1] | 0x20);
    base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    if (base != 10) text.remove_prefix(2);
  }
  Int value = 0;
  for (const char c : text) {
    const Int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    if (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value)) {
      fail_at(file_, number.line, "an integer below 2^127", quoted(text));
    }
  }
  return value;
}

ExprPtr ExpressionParser::parse_list() {
  const int line = take().line;
  ListLiteral node{false, {}};
  while (!token().is("]")) {
    if (!node.items.empty()) expect(",");
    if (token().is("]")) break;
    node.items.push_back(parse_expression());
  }
  expect("]");
  return make(line, std::move(node));
}

ExprPtr ExpressionParser::parse_dict() {
  const int line = take().line;
  DictLiteral node;
  while (!token().is("}")) {
    if (!node.entries.empty()) expect(",");
    if (token().is("}")) break;
    ExprPtr key = parse_expression();
    expect(":");
    node.entries.emplace_back(std::move(key), parse_expression());
  }
  expect("}");
  return make(line, std::move(node));
}

ExprPtr ExpressionParser::parse_postfix(ExprPtr node) {
  for (;;) {
    if (token().is(".")) {
      node = parse_attribute(std::move(node));
    } else if (token().is("[")) {
      node = parse_item(std::move(node));
    } else if (token().is("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::parse_attribute(ExprPtr object) {
  const int line = take().line;
  if (token().kind == TokenKind::kInteger) {
    ExprPtr index = make(line, Constant{Value::integer(parse_integer())});
    return make(line, Item{std::move(object), std::move(index)});
  }
  return make(line, Attribute{std::move(object), take_name("an attribute's name")});
}

ExprPtr ExpressionParser::parse_item(ExprPtr object) {
  const int line = take().line;
  const auto at_end = [&] { return token().is("]") || token().is(","); };
  const auto refuse_tuple = [&] {
    if (token().is(",")) fail("one index (several are not supported)");
  };
  ExprPtr start;
  if (token().is("]")) {  // x[] asks for the item ()
    take();
    return make(line, Item{std::move(object), make(line, ListLiteral{true, {}})});
  }
  if (!token().is(":")) {
    start = parse_expression();
    if (!token().is(":")) {
      if (token().is(",")) return parse_tuple_index(std::move(object), std::move(start), line);
      expect("]");
      return make(line, Item{std::move(object), std::move(start)});
    }
  }
  expect(":");
  Slice slice{std::move(object), std::move(start), nullptr, nullptr};
  if (!token().is(":") && !at_end()) slice.stop = parse_expression();
  if (skip(":") && !at_end()) slice.step = parse_expression();
  refuse_tuple();
  expect("]");
  return make(line, std::move(slice));
}

ExprPtr ExpressionParser::parse_tuple_index(ExprPtr object, ExprPtr first, int line) {
  ListLiteral index{true, {}};
  index.items.push_back(std::move(first));
  while (skip(",") && !token().is("]")) index.items.push_back(parse_expression());
  expect("]");
  return make(line, Item{std::move(object), make(line, std::move(index))});
}

ExprPtr ExpressionParser::parse_call(ExprPtr callee) {
  const int line = token().line;
  return make(line, Call{std::move(callee), parse_arguments()});
}

Arguments ExpressionParser::parse_arguments() {
  Arguments arguments;
  expect("(");
  const auto ensure = [&](bool right) {
    if (!right) fail("arguments in the order: values, name=value, *list, **dict");
  };
  for (bool first = true; !token().is(")"); first = false) {
    if (!first) expect(",");
    if (!first && token().is(")")) break;
    if (skip("**")) {
      ensure(!arguments.more_named);
      arguments.more_named = parse_expression();
    } else if (skip("*")) {
      ensure(!arguments.more_positional && !arguments.more_named);
      arguments.more_positional = parse_expression();
    } else if (token().kind == TokenKind::kName && token(1).is("=")) {
      ensure(!arguments.more_named);
      std::string name = take().text;
      take();
      for (const auto& [other, value] : arguments.named) {
        if (other == name) fail("no second value for the argument " + quoted(name));
      }
      arguments.named.emplace_back(std::move(name), parse_expression());
    } else {
      ensure(!arguments.more_positional && !arguments.more_named && arguments.named.empty());
      arguments.positional.push_back(parse_expression());
    }
  }
  expect(")");
  return arguments;
}

ExprPtr ExpressionParser::parse_filters_and_tests(ExprPtr node) {
  for (;;) {
    if (token().is("|")) {
      node = parse_filters(std::move(node), false);
    } else if (token().is_name("is")) {
      node = parse_test(std::move(node));
    } else if (token().is("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

std::string ExpressionParser::take_dotted_name(const std::string& what) {
  std::string name = take_name(what);
  while (skip(".")) name += "." + take_name(what);
  return name;
}

ExprPtr ExpressionParser::parse_filters(ExprPtr node, bool at_name) {
  while (at_name || skip("|")) {
    at_name = false;
    const int line = token().line;
    std::string name = take_dotted_name("a filter's name");
    if (find_filter(name) == nullptr) note_unknown(line, "a filter that chat templates use", name);
    Arguments arguments;
    if (token().is("(")) arguments = parse_arguments();
    node = make(line, Filter{std::move(node), std::move(name), std::move(arguments)});
  }
  return node;
}

ExprPtr ExpressionParser::parse_test(ExprPtr input) {
  const int line = take().line;
  const bool negated = skip_name("not");
  std::string name = take_dotted_name("a test's name");
  if (find_test(name) == nullptr) note_unknown(line, "a test that chat templates use", name);
  Arguments arguments;
  const Token& next = token();
  if (next.is("(")) {
    arguments = parse_arguments();
  } else if (next.is_name("is")) {
    fail("one test (tests cannot be chained)");
  } else if ((next.kind == TokenKind::kName && !next.is_name("else") && !next.is_name("or") &&
              !next.is_name("and")) ||
             next.kind == TokenKind::kString || next.kind == TokenKind::kInteger || next.kind == TokenKind::kFloat ||
             next.is("[") || next.is("{")) {
    const Level level(*this);
    arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  ExprPtr node = make(line, Test{std::move(input), std::move(name), std::move(arguments)});
  return negated ? make(line, Unary{UnaryOp::kNot, std::move(node)}) : std::move(node);
}

}  // namespace qnext::jinja
