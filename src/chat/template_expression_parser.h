#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/template.h"
#include "chat/template_ast.h"
#include "chat/template_lexer.h"

namespace qnext::jinja {

bool is_constant_name(std::string_view name);  ///< true, none, ...

/// Recursive descent over a template's tokens: jinja2's expressions. Parser (template_parser.cc) adds the statements.
class ExpressionParser {
 protected:
  ExpressionParser(std::string_view source, const std::string& file, const TemplateLimits& limits)
      : file_(file), limits_(limits), tokens_(tokenize(source, file)) {}

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
    explicit Level(ExpressionParser& parser) : parser_(parser) {
      if (++parser.depth_ > parser.limits_.depth) parser.too_deep();
    }
    ~Level() { --parser_.depth_; }

   private:
    ExpressionParser& parser_;
  };
  [[noreturn]] void too_deep() const {
    fail_at(file_, token().line, fmt::format("at most {} levels of nesting", limits_.depth), "more");
  }

  ExprPtr make(int line, Expr::Node node) const;

  /// jinja2 finds an unknown filter inside a condition only when it is reached, elsewhere at once. So do we.
  void note_unknown(int line, const char* expected, const std::string& name) {
    if (!soft_) unknown_.push_back({line, expected, name});
  }
  class SoftScope {
   public:
    SoftScope(ExpressionParser& parser, bool soft) : flag_(parser.soft_), before_(parser.soft_) { flag_ = soft; }
    ~SoftScope() { flag_ = before_; }

   private:
    bool& flag_;
    const bool before_;
  };

  // ---- expressions, by rising precedence

  ExprPtr parse_expression(bool with_conditional = true);
  /// Expressions separated by commas, or just one; `end` names a keyword that may end them.
  ExprPtr parse_tuple(bool with_conditional = true, std::string_view end = "", bool in_parentheses = false);
  ExprPtr parse_conditional();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  std::optional<CompareOp> take_compare_op();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filters = true);
  ExprPtr parse_primary();
  ExprPtr parse_name(int line);
  Int parse_integer();
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr node);
  ExprPtr parse_attribute(ExprPtr object);
  ExprPtr parse_item(ExprPtr object);
  /// x[a, b] asks for the item (a, b).
  ExprPtr parse_tuple_index(ExprPtr object, ExprPtr first, int line);
  ExprPtr parse_call(ExprPtr callee);
  Arguments parse_arguments();
  ExprPtr parse_filters_and_tests(ExprPtr node);
  std::string take_dotted_name(const std::string& what);
  /// input|a|b(...); `at_name`: the first name is next, without a bar.
  ExprPtr parse_filters(ExprPtr node, bool at_name);
  ExprPtr parse_test(ExprPtr input);

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

}  // namespace qnext::jinja
