#include "chat/template_parser.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "chat/template_filters.h"
#include "chat/template_lexer.h"

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

bool is_constant_name(std::string_view name) {
  constexpr std::string_view kNames[] = {"true", "false", "none", "True", "False", "None"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

class Parser {
 public:
  Parser(std::string_view source, const std::string& file, const TemplateLimits& limits)
      : file_(file), limits_(limits), tokens_(tokenize(source, file)) {}

  Body run() {
    Body body = parse_body({});
    if (!unknown_.empty())
      fail_at(file_, unknown_.front().line, unknown_.front().expected, quoted(unknown_.front().name));
    return body;
  }

 private:
  // ---- tokens

  const Token& token(size_t ahead = 0) const { return tokens_[std::min(next_ + ahead, tokens_.size() - 1)]; }
  Token take() {
    Token t = token();
    if (next_ + 1 < tokens_.size()) ++next_;
    return t;
  }
  bool skip(std::string_view op) {
    if (!token().is(op)) return false;
    take();
    return true;
  }
  bool skip_name(std::string_view name) {
    if (!token().is_name(name)) return false;
    take();
    return true;
  }
  [[noreturn]] void fail(const std::string& expected) const {
    fail_at(file_, token().line, expected, token().describe());
  }
  void expect(std::string_view op) {
    if (!skip(op)) fail(quoted(op));
  }
  void expect_name(std::string_view name) {
    if (!skip_name(name)) fail(std::string(name));
  }
  std::string take_name(const std::string& what) {
    if (token().kind != TokenKind::kName) fail(what);
    return take().text;
  }
  void expect_tag_end() {
    if (token().kind != TokenKind::kTagEnd) fail("%}");
    take();
  }

  /// One level of nesting, for as long as it lives.
  class Level {
   public:
    explicit Level(Parser& parser) : parser_(parser) {
      if (++parser.depth_ > parser.limits_.depth) parser.too_deep();
    }
    ~Level() { --parser_.depth_; }

   private:
    Parser& parser_;
  };
  [[noreturn]] void too_deep() const {
    fail_at(file_, token().line, fmt::format("at most {} levels of nesting", limits_.depth), "more");
  }

  ExprPtr make(int line, Expr::Node node) const {
    const int32_t depth = 1 + std::visit([](const auto& n) { return height(n); }, node);
    if (depth > limits_.depth) too_deep();
    return std::make_unique<Expr>(Expr{line, depth, std::move(node)});
  }

  // ---- statements

  /// Up to one of the tags `ends` (or the end of the template if none), whose name is left to be taken.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const Level level(*this);
    Body body;
    for (;;) {
      switch (token().kind) {
        case TokenKind::kText: {
          const int line = token().line;
          body.push_back({line, Text{take().text}});
          break;
        }
        case TokenKind::kPrintBegin: {
          const int line = take().line;
          body.push_back({line, Print{parse_tuple()}});
          if (token().kind != TokenKind::kPrintEnd) fail("}}");
          take();
          break;
        }
        case TokenKind::kTagBegin: {
          take();
          const Token& name = token();
          if (name.kind == TokenKind::kName && std::find(ends.begin(), ends.end(), name.text) != ends.end())
            return body;
          parse_statement(body);
          expect_tag_end();
          break;
        }
        default:
          if (ends.size() == 0) return body;
          std::string expected;
          for (const std::string_view end : ends) expected += (expected.empty() ? "" : " or ") + std::string(end);
          fail("{% " + expected + " %}");
      }
    }
  }
  /// The body after a tag's head, with its end tag's name.
  Body parse_block(std::string_view end) {
    begin_block();
    Body body = parse_body({end});
    take();
    return body;
  }
  void begin_block() {
    skip(":");
    expect_tag_end();
  }

  void parse_statement(Body& out) {
    const Token name = token();
    if (name.kind != TokenKind::kName) fail("the name of a tag");
    take();
    const auto add = [&](auto node) { out.push_back({name.line, std::move(node)}); };
    if (name.text == "if") return add(parse_if());
    if (name.text == "for") return add(parse_for());
    if (name.text == "set") return parse_set(out, name.line);
    if (name.text == "macro") return add(parse_macro());
    if (name.text == "call") return add(parse_call_block());
    if (name.text == "with") return add(parse_with());
    if (name.text == "filter") {
      ExprPtr filter = parse_filters(nullptr, true);
      return add(FilterBlock{std::move(filter), parse_block("endfilter")});
    }
    if (name.text == "generation") return add(parse_generation());
    if (name.text == "break" || name.text == "continue") {
      if (loops_ == 0) fail_at(file_, name.line, "a loop around " + name.text, "none");
      return add(LoopControl{name.text == "break"});
    }
    if (name.text == "print") {
      for (bool first = true; token().kind != TokenKind::kTagEnd; first = false) {
        if (!first) expect(",");
        add(Print{parse_expression()});
      }
      return;
    }
    fail_at(file_, name.line,
            "a tag that chat templates use (if, for, set, macro, call, filter, with, generation, ...)",
            quoted(name.text));
  }

  /// jinja2 finds an unknown filter inside a condition only when it is reached, elsewhere at once. So do we.
  void note_unknown(int line, const char* expected, const std::string& name) {
    if (!soft_) unknown_.push_back({line, expected, name});
  }
  class SoftScope {
   public:
    SoftScope(Parser& parser, bool soft) : flag_(parser.soft_), before_(parser.soft_) { flag_ = soft; }
    ~SoftScope() { flag_ = before_; }

   private:
    bool& flag_;
    const bool before_;
  };

  If parse_if() {
    const SoftScope soft(*this, true);
    If node;
    for (;;) {
      ExprPtr test = parse_tuple(false);
      begin_block();
      Body body = parse_body({"elif", "else", "endif"});
      node.branches.emplace_back(std::move(test), std::move(body));
      const std::string end = take().text;
      if (end == "elif") continue;
      if (end == "else") node.otherwise = parse_block("endif");
      return node;
    }
  }

  For parse_for() {
    For node;
    node.target = parse_target("in");
    expect_name("in");
    node.iterable = parse_tuple(false, "recursive");
    if (skip_name("if")) node.condition = parse_expression();
    if (token().is_name("recursive")) fail("a loop without recursion (recursive loops are not supported)");
    const SoftScope soft(*this, false);
    begin_block();
    ++loops_;
    node.body = parse_body({"endfor", "else"});
    --loops_;
    if (take().text == "else") node.otherwise = parse_block("endfor");
    if (assigns(node.target, "loop")) fail("a loop variable that is not named loop");
    return node;
  }
  static bool assigns(const Target& target, std::string_view name) {
    return target.name == name ||
           std::any_of(target.parts.begin(), target.parts.end(), [&](const Target& t) { return assigns(t, name); });
  }

  void parse_set(Body& out, int line) {
    Target target = parse_target("", true);
    if (skip("=")) {
      out.push_back({line, Set{std::move(target), parse_tuple()}});
      return;
    }
    ExprPtr filter = token().is("|") ? parse_filters(nullptr, false) : nullptr;
    const SoftScope soft(*this, false);
    out.push_back({line, SetBlock{std::move(target), std::move(filter), parse_block("endset")}});
  }

  With parse_with() {
    With node;
    while (token().kind != TokenKind::kTagEnd) {
      if (!node.variables.empty()) expect(",");
      Target target = parse_target("");
      expect("=");
      node.variables.emplace_back(std::move(target), parse_expression());
    }
    node.body = parse_block("endwith");
    return node;
  }

  /// A body that becomes a function of its own: loops outside cannot be left from inside.
  Body parse_function_body(MacroDefinition& macro, std::string_view end) {
    const SoftScope soft(*this, false);
    const int loops = std::exchange(loops_, 0);
    MacroDefinition* const outer = std::exchange(macro_, &macro);
    Body body = parse_block(end);
    macro_ = outer;
    loops_ = loops;
    return body;
  }

  std::shared_ptr<MacroDefinition> parse_macro() {
    auto macro = std::make_shared<MacroDefinition>();
    macro->name = take_name("the macro's name");
    check_assignable(macro->name);
    parse_parameters(*macro);
    macro->body = parse_function_body(*macro, "endmacro");
    // A parameter of that name is an ordinary one.
    for (const auto& [name, value] : macro->parameters) {
      if (name == "caller") macro->uses_caller = false;
      if (name == "varargs") macro->uses_varargs = false;
      if (name == "kwargs") macro->uses_kwargs = false;
    }
    return macro;
  }

  void parse_parameters(MacroDefinition& macro) {
    expect("(");
    bool defaults = false;
    while (!token().is(")")) {
      if (!macro.parameters.empty()) expect(",");
      std::string name = take_name("a parameter's name");
      check_assignable(name);
      for (const auto& [other, value] : macro.parameters) {
        if (other == name) fail("parameters of different names");
      }
      ExprPtr value;
      if (skip("=")) {
        value = parse_expression();
        defaults = true;
      } else if (defaults) {
        fail("a default, as the parameters before it have one,");
      }
      macro.parameters.emplace_back(std::move(name), std::move(value));
    }
    expect(")");
  }

  CallBlock parse_call_block() {
    CallBlock node;
    node.caller = std::make_shared<MacroDefinition>();
    node.caller->name = "caller";
    if (token().is("(")) parse_parameters(*node.caller);
    node.call = parse_expression();
    if (!std::holds_alternative<Call>(node.call->node)) fail("a call of a macro");
    node.caller->body = parse_function_body(*node.caller, "endcall");
    return node;
  }

  ScopedBody parse_generation() {
    const SoftScope soft(*this, false);
    const int loops = std::exchange(loops_, 0);
    ScopedBody node{parse_block("endgeneration")};
    loops_ = loops;
    return node;
  }

  void check_assignable(const std::string& name) const {
    if (is_constant_name(name)) fail_at(file_, token().line, "a variable to assign to", quoted(name));
  }

  /// `end` names the keyword that ends an unfinished list of targets, as in `for a, in`.
  Target parse_target(std::string_view end, bool with_namespace = false) {
    Target tuple;
    for (bool comma = false;; comma = true) {
      if (comma && !skip(",")) break;
      const bool ended =
          token().kind == TokenKind::kTagEnd || token().is(")") || (!end.empty() && token().is_name(end));
      if (ended && comma) break;
      tuple.parts.push_back(parse_single_target(with_namespace));
      if (comma || token().is(",")) tuple.is_tuple = true;
    }
    if (tuple.is_tuple) return tuple;
    return std::move(tuple.parts.front());
  }

  Target parse_single_target(bool with_namespace) {
    const Level level(*this);
    if (skip("(")) {
      Target target = parse_target("");
      expect(")");
      return target;
    }
    Target target;
    target.name = take_name("a variable to assign to");
    check_assignable(target.name);
    if (with_namespace && skip(".")) target.attribute = take_name("an attribute's name");
    return target;
  }

  // ---- expressions, by rising precedence

  ExprPtr parse_expression(bool with_conditional = true) {
    const Level level(*this);
    return with_conditional ? parse_conditional() : parse_or();
  }

  /// Expressions separated by commas, or just one; `end` names a keyword that may end them.
  ExprPtr parse_tuple(bool with_conditional = true, std::string_view end = "", bool in_parentheses = false) {
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

  ExprPtr parse_conditional() {
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
  ExprPtr parse_or() {
    const int line = token().line;
    ExprPtr left = parse_and();
    while (skip_name("or")) left = make(line, Logical{true, std::move(left), parse_and()});
    return left;
  }
  ExprPtr parse_and() {
    const int line = token().line;
    ExprPtr left = parse_not();
    while (skip_name("and")) left = make(line, Logical{false, std::move(left), parse_not()});
    return left;
  }
  ExprPtr parse_not() {
    const int line = token().line;
    if (!skip_name("not")) return parse_compare();
    const Level level(*this);
    return make(line, Unary{UnaryOp::kNot, parse_not()});
  }

  std::optional<CompareOp> take_compare_op() {
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
  ExprPtr parse_compare() {
    const int line = token().line;
    Compare node;
    node.first = parse_sum();
    while (const auto op = take_compare_op()) node.rest.emplace_back(*op, parse_sum());
    return node.rest.empty() ? std::move(node.first) : make(line, std::move(node));
  }

  ExprPtr parse_sum() {
    const int line = token().line;
    ExprPtr left = parse_concat();
    while (token().is("+") || token().is("-")) {
      const BinaryOp op = take().text == "+" ? BinaryOp::kAdd : BinaryOp::kSubtract;
      left = make(line, Binary{op, std::move(left), parse_concat()});
    }
    return left;
  }
  ExprPtr parse_concat() {
    const int line = token().line;
    Concat node;
    node.parts.push_back(parse_product());
    while (skip("~")) node.parts.push_back(parse_product());
    return node.parts.size() == 1 ? std::move(node.parts.front()) : make(line, std::move(node));
  }
  ExprPtr parse_product() {
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
  ExprPtr parse_power() {
    const int line = token().line;
    ExprPtr left = parse_unary();
    while (skip("**")) left = make(line, Binary{BinaryOp::kPower, std::move(left), parse_unary()});
    return left;
  }
  ExprPtr parse_unary(bool with_filters = true) {
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

  ExprPtr parse_primary() {
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
        if (result.ec == std::errc::result_out_of_range)
          fail_at(file_, line, "a number in the range of doubles", text);
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
  ExprPtr parse_name(int line) {
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
  Int parse_integer() {
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
  ExprPtr parse_list() {
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
  ExprPtr parse_dict() {
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

  ExprPtr parse_postfix(ExprPtr node) {
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
  ExprPtr parse_attribute(ExprPtr object) {
    const int line = take().line;
    if (token().kind == TokenKind::kInteger) {
      ExprPtr index = make(line, Constant{Value::integer(parse_integer())});
      return make(line, Item{std::move(object), std::move(index)});
    }
    return make(line, Attribute{std::move(object), take_name("an attribute's name")});
  }
  ExprPtr parse_item(ExprPtr object) {
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
  /// x[a, b] asks for the item (a, b).
  ExprPtr parse_tuple_index(ExprPtr object, ExprPtr first, int line) {
    ListLiteral index{true, {}};
    index.items.push_back(std::move(first));
    while (skip(",") && !token().is("]")) index.items.push_back(parse_expression());
    expect("]");
    return make(line, Item{std::move(object), make(line, std::move(index))});
  }

  ExprPtr parse_call(ExprPtr callee) {
    const int line = token().line;
    return make(line, Call{std::move(callee), parse_arguments()});
  }
  Arguments parse_arguments() {
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

  ExprPtr parse_filters_and_tests(ExprPtr node) {
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
  std::string take_dotted_name(const std::string& what) {
    std::string name = take_name(what);
    while (skip(".")) name += "." + take_name(what);
    return name;
  }
  /// input|a|b(...); `at_name`: the first name is next, without a bar.
  ExprPtr parse_filters(ExprPtr node, bool at_name) {
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
  ExprPtr parse_test(ExprPtr input) {
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
               next.kind == TokenKind::kString || next.kind == TokenKind::kInteger ||
               next.kind == TokenKind::kFloat || next.is("[") || next.is("{")) {
      const Level level(*this);
      arguments.positional.push_back(parse_postfix(parse_primary()));
    }
    ExprPtr node = make(line, Test{std::move(input), std::move(name), std::move(arguments)});
    return negated ? make(line, Unary{UnaryOp::kNot, std::move(node)}) : std::move(node);
  }

  const std::string& file_;
  const TemplateLimits limits_;
  const std::vector<Token> tokens_;
  size_t next_ = 0;
  int32_t depth_ = 0;
  int loops_ = 0;      ///< around the current place, in the same function
  bool soft_ = false;  ///< inside a condition
  struct Unknown {
    int line;
    const char* expected;
    std::string name;
  };
  std::vector<Unknown> unknown_;      ///< filters and tests that are not inside a condition
  MacroDefinition* macro_ = nullptr;  ///< whose body is being read
};

}  // namespace

Body parse(std::string_view source, const std::string& file, const TemplateLimits& limits) {
  return Parser(source, file, limits).run();
}

}  // namespace qnext::jinja
