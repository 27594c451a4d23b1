// Statements and variables of a rendering; template_expressions.cc has the expressions.
#include "chat/template_eval.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "chat/template_text.h"

namespace qnext::jinja {

namespace {
/// Sets a member for as long as it lives.
template <typename T>
class Swap {
 public:
  Swap(T& member, T value) : member_(member), before_(std::exchange(member, std::move(value))) {}
  ~Swap() { member_ = std::move(before_); }
  Swap(const Swap&) = delete;
  Swap& operator=(const Swap&) = delete;

 private:
  T& member_;
  T before_;
};

std::shared_ptr<Scope> inner_scope(std::shared_ptr<Scope> outer) {
  return std::make_shared<Scope>(Scope{std::move(outer), {}});
}
}  // namespace

Interpreter::~Interpreter() {
  scope_.reset();
  for (auto& macro : macros_) macro->scope.reset();
  for (auto& space : namespaces_) space->attributes.clear();
}

std::string Interpreter::run(const Body& body, const nlohmann::ordered_json& variables) {
  globals_ = from_json(budget_, variables);
  if (!globals_.is_dict()) throw Failure("the variables of a template must be an object");
  std::string out;
  out_ = &out;
  scope_ = inner_scope(nullptr);
  exec(body);
  return out;
}

void Interpreter::write(std::string_view text) {
  budget_.scan(text.size());
  if (text.size() > budget_.max_text_bytes() - out_->size()) budget_.make(out_->size() + text.size());
  *out_ += text;
}

Interpreter::Flow Interpreter::exec(const Body& body) {
  const Budget::Level level(budget_);
  for (const Statement& statement : body) {
    const Flow flow = exec(statement);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec(const Statement& statement) {
  budget_.steps(1);
  line_ = statement.line;
  return std::visit([this](const auto& node) { return exec_node(node); }, statement.node);
}

Interpreter::Flow Interpreter::exec_node(const Text& node) {
  write(node.text);
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec_node(const Print& node) {
  const Value value = eval(*node.value);
  value.is_string() ? write(value.text()) : write(text(value));
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec_node(const If& node) {
  for (const auto& [test, body] : node.branches) {
    if (truthy(eval(*test))) return exec(body);
  }
  return exec(node.otherwise);
}

Interpreter::Flow Interpreter::exec_node(const For& node) {
  auto loop = std::make_shared<Loop>();
  const Value iterable = eval(*node.iterable);
  loop->source = iterate(budget_, iterable);
  loop->source_depth = loop->source->depth();
  if (!node.condition) {
    loop->iterable = iterable;
  } else {
    // Tested when the item is asked for: the condition may read a namespace that the body changes.
    auto next = [this, &node, source = loop->source, scope = scope_]() -> std::optional<Value> {
      while (auto item = source->next()) {
        const Swap inner(scope_, inner_scope(scope));
        assign(node.target, *item);
        if (truthy(eval(*node.condition))) return item;
      }
      return std::nullopt;
    };
    loop->source = std::make_shared<Iterator>(std::move(next), loop->source_depth);
  }

  // Whatever ends the loop, what it holds must go: that may be the loop itself, and then nothing would free it.
  struct Finish {
    ~Finish() {
      loop.finished = true;
      loop.last_changed.reset();
      loop.source.reset();
    }
    Loop& loop;
  } const finish{*loop};
  Flow flow = Flow::kNormal;
  while (flow != Flow::kBreak && loop->advance()) {
    budget_.steps(2);
    const Swap inner(scope_, inner_scope(scope_));
    assign(node.target, *loop->current);
    set_variable("loop", Value::object(loop));
    flow = exec(node.body);
  }
  if (loop->index0 >= 0) return Flow::kNormal;
  const Swap inner(scope_, inner_scope(scope_));
  return exec(node.otherwise);
}

Interpreter::Flow Interpreter::exec_node(const Set& node) {
  assign(node.target, eval(*node.value));
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec_node(const SetBlock& node) {
  std::string captured;
  const Flow flow = capture(node.body, captured);
  if (flow != Flow::kNormal) return flow;
  Value value = Value::string(std::move(captured));
  if (node.filter) value = eval_filter(std::get<Filter>(node.filter->node), value);
  assign(node.target, value);
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec_node(const With& node) {
  std::vector<Value> values;  // all of them before any variable is set
  for (const auto& [target, value] : node.variables) values.push_back(eval(*value));
  const Swap inner(scope_, inner_scope(scope_));
  for (size_t i = 0; i < values.size(); ++i) assign(node.variables[i].first, values[i]);
  return exec(node.body);
}

Interpreter::Flow Interpreter::exec_node(const FilterBlock& node) {
  std::string captured;
  const Flow flow = capture(node.body, captured);
  if (flow == Flow::kNormal) {
    write(text(eval_filter(std::get<Filter>(node.filter->node), Value::string(std::move(captured)))));
  }
  return flow;
}

Interpreter::Flow Interpreter::exec_node(const std::shared_ptr<MacroDefinition>& node) {
  set_variable(node->name, new_macro(node));
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec_node(const CallBlock& node) {
  const Call& called = std::get<Call>(node.call->node);
  CallArguments arguments = eval_arguments(called.arguments);
  arguments.named.emplace_back("caller", new_macro(node.caller));
  write(text(call(eval(*called.callee), arguments)));
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::exec_node(const ScopedBody& node) {
  const Swap inner(scope_, inner_scope(scope_));
  return exec(node.body);
}

Interpreter::Flow Interpreter::exec_node(const LoopControl& node) {
  return node.is_break ? Flow::kBreak : Flow::kContinue;
}

Interpreter::Flow Interpreter::capture(const Body& body, std::string& out) {
  const Swap output(out_, &out);
  const Swap inner(scope_, inner_scope(scope_));
  return exec(body);
}

Value Interpreter::new_macro(std::shared_ptr<const MacroDefinition> definition) {
  budget_.steps(4);
  auto macro = std::make_shared<Macro>();
  macro->definition = std::move(definition);
  macro->scope = scope_;
  macros_.push_back(macro);
  return Value::object(std::move(macro));
}

Value Interpreter::new_namespace(std::vector<std::pair<std::string, Value>> attributes) {
  budget_.steps(4 + static_cast<int64_t>(attributes.size()));
  auto space = std::make_shared<Namespace>();
  space->attributes = std::move(attributes);
  namespaces_.push_back(space);
  return Value::object(std::move(space));
}

Value Interpreter::run_macro(const Macro& macro, const CallArguments& arguments) {
  const MacroDefinition& definition = *macro.definition;
  const auto& parameters = definition.parameters;
  const int call_line = line_;
  std::string out;
  const Swap output(out_, &out);
  const Swap inner(scope_, inner_scope(macro.scope));
  auto& variables = scope_->variables;

  std::vector<std::pair<std::string, Value>> named = arguments.named;
  const auto take_named = [&](std::string_view name) -> std::optional<Value> {
    const auto found = std::find_if(named.begin(), named.end(), [&](const auto& n) { return n.first == name; });
    if (found == named.end()) return std::nullopt;
    Value value = std::move(found->second);
    named.erase(found);
    return value;
  };
  budget_.steps(static_cast<int64_t>((1 + parameters.size()) * (1 + named.size())));

  std::vector<std::optional<Value>> given;
  for (size_t i = 0; i < parameters.size(); ++i) {
    given.push_back(i < arguments.positional.size() ? std::optional(arguments.positional[i])
                                                    : take_named(parameters[i].first));
  }
  if (definition.uses_caller) {
    const auto caller = take_named("caller");
    variables.emplace_back("caller", caller && !caller->is_none() ? *caller : Value::undefined("No caller defined"));
  }
  if (definition.uses_kwargs) {
    std::vector<std::pair<Value, Value>> entries;
    for (auto& [name, value] : named) entries.emplace_back(Value::string(name), value);
    variables.emplace_back("kwargs", make_dict(budget_, std::move(entries)));
  } else if (!named.empty()) {
    throw Failure(fmt::format("macro '{}' takes no keyword argument '{}'", definition.name, named.front().first));
  }
  if (definition.uses_varargs) {
    const size_t skipped = std::min(arguments.positional.size(), parameters.size());
    variables.emplace_back("varargs",
                           make_tuple(budget_, {arguments.positional.begin() + static_cast<std::ptrdiff_t>(skipped),
                                                arguments.positional.end()}));
  } else if (arguments.positional.size() > parameters.size()) {
    throw Failure(fmt::format("macro '{}' takes not more than {} argument(s)", definition.name, parameters.size()));
  }
  // A default may read the parameters before it; those after it hide outer variables but have no value yet.
  for (size_t i = 0; i < parameters.size(); ++i) {
    const std::string& name = parameters[i].first;
    set_variable(name, given[i] ? *given[i] : Value::undefined(fmt::format("parameter '{}' was not provided", name)));
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!given[i] && parameters[i].second) set_variable(parameters[i].first, eval(*parameters[i].second));
  }
  exec(definition.body);
  line_ = call_line;
  return Value::string(std::move(out));
}

const Value* Interpreter::find_variable(std::string_view name) {
  for (Scope* scope = scope_.get(); scope != nullptr; scope = scope->outer.get()) {
    budget_.steps(static_cast<int64_t>(scope->variables.size() / 16));
    for (const auto& [id, value] : scope->variables) {
      if (id == name) return &value;
    }
  }
  return globals_.dict().find(budget_, name);
}

void Interpreter::set_variable(std::string_view name, Value value) {
  auto& variables = scope_->variables;
  budget_.steps(1 + static_cast<int64_t>(variables.size() / 16));
  const auto found = std::find_if(variables.begin(), variables.end(), [&](const auto& v) { return v.first == name; });
  if (found != variables.end()) {
    found->second = std::move(value);
  } else {
    variables.emplace_back(name, std::move(value));
  }
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (target.is_tuple) {
    const auto items = iterate(budget_, value);
    std::vector<Value> values;
    while (auto item = items->next()) {
      if (values.size() == target.parts.size()) {
        throw Failure(fmt::format("too many values to unpack (expected {})", target.parts.size()));
      }
      values.push_back(std::move(*item));
    }
    if (values.size() < target.parts.size()) {
      throw Failure(
          fmt::format("not enough values to unpack (expected {}, got {})", target.parts.size(), values.size()));
    }
    for (size_t i = 0; i < values.size(); ++i) assign(target.parts[i], values[i]);
    return;
  }
  if (target.attribute.empty()) return set_variable(target.name, value);
  const Value* object = find_variable(target.name);
  const auto space = object ? object->as<Namespace>() : nullptr;
  if (!space) throw Failure(fmt::format("cannot assign attribute on non-namespace object '{}'", target.name));
  if (target.attribute.starts_with('_')) {
    throw Failure(fmt::format("a namespace cannot hold the underscore-prefixed attribute '{}'", target.attribute));
  }
  space->set(budget_, target.attribute, value);
}

bool Loop::advance() {
  std::optional<Value> item = peeked ? std::exchange(after, std::nullopt) : source->next();
  peeked = false;
  if (!item) return false;
  ++index0;
  before = std::exchange(current, std::move(item));
  return true;
}

const std::optional<Value>& Loop::peek() {
  if (!peeked && source) {
    after = source->next();
    peeked = true;
  }
  return after;
}

size_t Loop::length(Budget& budget) {
  if (!known_length && !iterable.is_none()) known_length = length_of(budget, iterable);
  if (!known_length) {
    std::vector<Value> rest;
    while (source) {
      auto item = source->next();
      if (!item) break;
      rest.push_back(std::move(*item));
    }
    known_length = static_cast<size_t>(index0 + 1) + rest.size() + (after ? 1 : 0);
    source = iterate(budget, make_list(budget, std::move(rest)));
  }
  return *known_length;
}

}  // namespace qnext::jinja
