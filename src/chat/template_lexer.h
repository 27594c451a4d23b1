#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace qnext::jinja {

enum class TokenKind {
  kText,
  kPrintBegin,
  kPrintEnd,
  kTagBegin,
  kTagEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  ///< of strings and texts: their content; of numbers: without underscores

  bool is(std::string_view op) const { return kind == TokenKind::kOperator && text == op; }
  bool is_name(std::string_view name) const { return kind == TokenKind::kName && text == name; }
  std::string describe() const;  ///< for messages
};

/// Splits a template as jinja2's lexer does with trim_blocks and lstrip_blocks: comments and raw blocks are resolved,
/// white space beside tags is stripped. The last token is kEnd. Throws FileError.
std::vector<Token> tokenize(std::string_view source, const std::string& file);

/// The FileError of a template's line.
[[noreturn]] void fail_at(const std::string& file, int line, const std::string& expected, const std::string& found);

}  // namespace qnext::jinja
