#pragma once
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "chat/template_value.h"

/// A parsed template. Immutable after parsing; trees are no deeper than the limit, so recursion over them is safe.
namespace qnext::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

/// (a, b, name=c, *list, **dict)
struct Arguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr more_positional, more_named;  ///< may be null
};

enum class UnaryOp { kPlus, kMinus, kNot };
enum class BinaryOp { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class CompareOp { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

struct Constant {
  Value value;
};
struct Name {
  std::string id;
};
struct ListLiteral {
  bool is_tuple;
  std::vector<ExprPtr> items;
};
struct DictLiteral {
  std::vector<std::pair<ExprPtr, ExprPtr>> entries;
};
struct Unary {
  UnaryOp op;
  ExprPtr operand;
};
struct Binary {
  BinaryOp op;
  ExprPtr left, right;
};
struct Logical {  ///< and, or
  bool is_or;
  ExprPtr left, right;
};
struct Concat {  ///< a ~ b ~ c
  std::vector<ExprPtr> parts;
};
struct Compare {  ///< a < b <= c
  ExprPtr first;
  std::vector<std::pair<CompareOp, ExprPtr>> rest;
};
struct Conditional {  ///< a if test else b; without else, undefined
  ExprPtr test, then, otherwise;
};
struct Attribute {
  ExprPtr object;
  std::string name;
};
struct Item {
  ExprPtr object, index;
};
struct Slice {
  ExprPtr object, start, stop, step;  ///< the last three may be null
};
struct Call {
  ExprPtr callee;
  Arguments arguments;
};
struct Filter {
  ExprPtr input;  ///< null at the head of a filter block's chain
  std::string name;
  Arguments arguments;
};
struct Test {
  ExprPtr input;
  std::string name;
  Arguments arguments;
};

struct Expr {
  using Node = std::variant<Constant, Name, ListLiteral, DictLiteral, Unary, Binary, Logical, Concat, Compare,
                            Conditional, Attribute, Item, Slice, Call, Filter, Test>;
  int line;
  int32_t depth;  ///< height of this tree
  Node node;
};

/// What can be assigned: a name, an attribute of a namespace, or several of them.
struct Target {
  std::string name;
  std::string attribute;      ///< of the namespace `name`, if not empty
  std::vector<Target> parts;  ///< unpacking, if is_tuple
  bool is_tuple = false;
};

struct Statement;
using Body = std::vector<Statement>;

struct Text {
  std::string text;
};
struct Print {
  ExprPtr value;
};
struct If {
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body otherwise;
};
struct For {
  Target target;
  ExprPtr iterable, condition;  ///< the condition may be null
  Body body, otherwise;
};
struct Set {
  Target target;
  ExprPtr value;
};
struct SetBlock {
  Target target;
  ExprPtr filter;  ///< a chain whose head has no input, or null
  Body body;
};
struct With {
  std::vector<std::pair<Target, ExprPtr>> variables;
  Body body;
};
struct FilterBlock {
  ExprPtr filter;
  Body body;
};
struct MacroDefinition {
  std::string name;
  std::vector<std::pair<std::string, ExprPtr>> parameters;  ///< with their defaults, or null
  Body body;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};
/// {% call(parameters) callee(...) %}: the body is the macro `caller` of the call.
struct CallBlock {
  ExprPtr call;
  std::shared_ptr<MacroDefinition> caller;
};
/// A body with variables of its own: {% generation %}.
struct ScopedBody {
  Body body;
};
struct LoopControl {
  bool is_break;
};

struct Statement {
  using Node = std::variant<Text, Print, If, For, Set, SetBlock, With, FilterBlock, std::shared_ptr<MacroDefinition>,
                            CallBlock, ScopedBody, LoopControl>;
  int line;
  Node node;
};

}  // namespace qnext::jinja
