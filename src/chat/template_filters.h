#pragma once
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/template_value.h"

namespace qnext::jinja {

class Interpreter;

/// The evaluated arguments of a call.
struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// Arguments by parameter name, as Python binds them. Throws for too many, unknown, doubled and missing ones.
class Bound {
 public:
  Bound(std::string_view function, const CallArguments& arguments, std::initializer_list<std::string_view> parameters,
        size_t required = 0);
  /// nullptr where not given.
  const Value* operator[](size_t i) const { return values_[i]; }
  const Value& required(size_t i) const { return *values_[i]; }

  int64_t integer(size_t i, int64_t otherwise) const;  ///< throws if it is not an int
  bool flag(size_t i, bool otherwise) const { return values_[i] ? truthy(*values_[i]) : otherwise; }
  const std::string& text(size_t i) const;  ///< throws if not given or not a string

 private:
  std::string_view function_;
  std::vector<const Value*> values_;
};
int64_t to_int64(const Value& value, std::string_view what);  ///< throws "WHAT must be an integer"

using FilterFunction = Value (*)(Interpreter&, const Value& input, const CallArguments&);
using TestFunction = bool (*)(Interpreter&, const Value& input, const CallArguments&);
/// nullptr if there is no such filter (template_filters.cc and template_sequence_filters.cc) or test.
FilterFunction find_filter(std::string_view name);
FilterFunction find_sequence_filter(std::string_view name);
TestFunction find_test(std::string_view name);

/// value.name(...) of a str, list, tuple or dict; nullptr if Python has no such public method.
struct Method;
const Method* find_method(const Value& value, std::string_view name);
Value call_method(Interpreter& interpreter, const Method& method, const Value& self, const CallArguments& arguments);
/// Whether jinja2's sandbox refuses it because it changes its object, as list.append.
bool changes_object(const Method& method);
std::string_view method_name(const Method& method);

/// range, dict, namespace, raise_exception, strftime_now: undefined if there is no such function.
Value find_global(std::string_view name);

/// left % right for a string: %s %r %d %i %f %e %g %x %o %c with flags, width and precision.
std::string format_percent(Budget& budget, std::string_view format, const Value& arguments);

}  // namespace qnext::jinja
