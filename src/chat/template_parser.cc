#include "chat/template_parser.h"

#include <algorithm>
#include <initializer_list>

#include "chat/template_expression_parser.h"

namespace qnext::jinja {

namespace {

class Parser : private ExpressionParser {
 public:
  Parser(std::string_view source, const std::string& file, const TemplateLimits& limits)
      : ExpressionParser(source, file, limits) {}

  Body run() {
    Body body = parse_body({});
    if (!unknown_.empty())
      fail_at(file_, unknown_.front().line, unknown_.front().expected, quoted(unknown_.front().name));
    return body;
  }

 private:
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

  If parse_if() {
    const SoftScope soft(*this, true);
    If node;
    for (;;) {
      ExprPtr test = parse_tuple(false);
      begin_block();
      Body body = parse_body({"elif", "else", "endif"});
      node.branches.emplace_back(std::move(test), std::move(body));
      const Token end = take();
      if (end.is_name("elif")) continue;
      if (end.is_name("else")) node.otherwise = parse_block("endif");
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
};

}  // namespace

Body parse(std::string_view source, const std::string& file, const TemplateLimits& limits) {
  return Parser(source, file, limits).run();
}

}  // namespace qnext::jinja
