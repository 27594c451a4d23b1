#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chat/template_ast.h"
#include "chat/template_filters.h"

namespace qnext::jinja {

/// raise_exception: its text goes to the user as it is.
class Raised : public Error {
 public:
  using Error::Error;
};

/// The variables of one body. Names are views into the parsed template.
struct Scope {
  std::shared_ptr<Scope> outer;
  std::vector<std::pair<std::string_view, Value>> variables;
};

struct Macro : Object {
  std::string_view type_name() const override { return "Macro"; }
  std::shared_ptr<const MacroDefinition> definition;
  std::shared_ptr<Scope> scope;  ///< where it was defined
};

/// A function that comes with the interpreter.
struct Function : Object {
  using Body = Value (*)(Interpreter&, const CallArguments&);
  explicit Function(Body body_) : body(body_) {}
  std::string_view type_name() const override { return "function"; }
  Body body;
};

/// A method with its object, as in message.content.startswith.
struct BoundMethod : Object {
  BoundMethod(const Method& method_, Value self_) : method(method_), self(std::move(self_)) {}
  std::string_view type_name() const override { return "builtin_function_or_method"; }
  int32_t depth() const override { return self.depth() + 1; }
  const Method& method;
  const Value self;
};

/// The variable `loop`.
struct Loop : Object {
  std::string_view type_name() const override { return "LoopContext"; }
  int32_t depth() const override { return source_depth + 1; }
  bool advance();  ///< to the next item, which becomes `current`
  const std::optional<Value>& peek();
  size_t length(Budget& budget);

  Value iterable;  ///< None if the loop has a condition: then only its items tell the length
  std::shared_ptr<Iterator> source;
  int32_t source_depth = 0;
  int64_t index0 = -1;
  std::optional<size_t> known_length;
  bool peeked = false, finished = false;
  std::optional<Value> after, current, before;
  std::optional<Value> last_changed;
};
struct LoopMethod : Object {  ///< loop.cycle, loop.changed
  LoopMethod(std::shared_ptr<Loop> loop_, bool is_cycle_) : loop(std::move(loop_)), is_cycle(is_cycle_) {}
  std::string_view type_name() const override { return "method"; }
  int32_t depth() const override { return loop->depth() + 1; }
  const std::shared_ptr<Loop> loop;
  const bool is_cycle;
};

/// Evaluates one parsed template once. `now` is the time of strftime_now, in seconds of Unix time.
class Interpreter {
 public:
  Interpreter(const TemplateLimits& limits, int64_t now) : budget_(limits), now_(now) {}
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string run(const Body& body, const nlohmann::ordered_json& variables);
  int line() const { return line_; }  ///< last evaluated

  // For filters, tests and methods.
  Budget& budget() { return budget_; }
  int64_t now() const { return now_; }
  Value call(const Value& callee, const CallArguments& arguments);
  Value filter(std::string_view name, const Value& input, const CallArguments& arguments);
  bool test(std::string_view name, const Value& input, const CallArguments& arguments);
  Value attribute(const Value& object, std::string_view name);  ///< object.name
  Value item(const Value& object, const Value& index);          ///< object[index]
  Value add(const Value& a, const Value& b);
  std::string text(const Value& value) { return to_text(budget_, value); }
  Value new_namespace(std::vector<std::pair<std::string, Value>> attributes);

 private:
  enum class Flow { kNormal, kBreak, kContinue };

  Flow exec(const Body& body);
  Flow exec(const Statement& statement);
  Flow exec_node(const Text&);
  Flow exec_node(const Print&);
  Flow exec_node(const If&);
  Flow exec_node(const For&);
  Flow exec_node(const Set&);
  Flow exec_node(const SetBlock&);
  Flow exec_node(const With&);
  Flow exec_node(const FilterBlock&);
  Flow exec_node(const std::shared_ptr<MacroDefinition>&);
  Flow exec_node(const CallBlock&);
  Flow exec_node(const ScopedBody&);
  Flow exec_node(const LoopControl&);
  /// Runs the body with its output captured, in variables of its own.
  Flow capture(const Body& body, std::string& out);
  Value run_macro(const Macro& macro, const CallArguments& arguments);
  Value new_macro(std::shared_ptr<const MacroDefinition> definition);
  void write(std::string_view text);

  Value eval(const Expr& expr);
  Value eval_node(const Constant&);
  Value eval_node(const Name&);
  Value eval_node(const ListLiteral&);
  Value eval_node(const DictLiteral&);
  Value eval_node(const Unary&);
  Value eval_node(const Binary&);
  Value eval_node(const Logical&);
  Value eval_node(const Concat&);
  Value eval_node(const Compare&);
  Value eval_node(const Conditional&);
  Value eval_node(const Attribute&);
  Value eval_node(const Item&);
  Value eval_node(const Slice&);
  Value eval_node(const Call&);
  Value eval_node(const Filter&);
  Value eval_node(const Test&);
  CallArguments eval_arguments(const Arguments& arguments);
  Value eval_filter(const Filter& filter, const Value& head);
  bool compare(CompareOp op, const Value& a, const Value& b);
  Value arithmetic(BinaryOp op, const Value& a, const Value& b);
  Value repeat(const Value& value, Int count);
  Value loop_attribute(const std::shared_ptr<Loop>& loop, std::string_view name, bool& found);

  const Value* find_variable(std::string_view name);
  void assign(const Target& target, const Value& value);
  void set_variable(std::string_view name, Value value);

  Budget budget_;
  const int64_t now_;
  int line_ = 1;
  std::string* out_ = nullptr;
  std::shared_ptr<Scope> scope_;
  Value globals_;  ///< a dict
  // Namespaces and macros can come to hold themselves; they are emptied at the end, so that nothing leaks.
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<Macro>> macros_;
};

}  // namespace qnext::jinja
