#pragma once
#include <string>
#include <string_view>

#include "chat/template.h"
#include "chat/template_ast.h"

namespace qnext::jinja {

/// Parses a template with jinja2's grammar. Throws FileError naming the line for a syntax error, a construct that is
/// not supported, and nesting beyond limits.depth.
Body parse(std::string_view source, const std::string& file, const TemplateLimits& limits);

}  // namespace qnext::jinja
