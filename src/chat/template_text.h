#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/template_budget.h"

/// Python's string operations on UTF-8 text. All texts here are valid UTF-8 (checked where they enter); positions and
/// lengths are code points unless a name says bytes.
namespace qnext::jinja {

bool is_utf8(std::string_view text);
/// The code point at byte `at`, which is moved behind it.
char32_t next_code_point(std::string_view text, size_t& at);
/// The code point that ends before byte `at`, which is moved to its begin.
char32_t previous_code_point(std::string_view text, size_t& at);
void append_code_point(std::string& out, char32_t code_point);
size_t code_point_count(std::string_view text);
/// Byte offset of the code point `index`, text.size() when there are fewer.
size_t byte_offset(std::string_view text, size_t index);

bool is_space(char32_t code_point);
bool is_printable(char32_t code_point);
bool is_word(char32_t code_point);  ///< \w of a regular expression

enum class Side { kLeft, kRight, kBoth };
/// Without `characters`, white space is stripped.
std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> characters);

/// First byte offset of `part` at or after `from`, npos if none; linear in the sizes.
size_t find_bytes(std::string_view text, std::string_view part, size_t from);
/// Last byte offset of `part` that ends at or before `end`.
size_t rfind_bytes(std::string_view text, std::string_view part, size_t end);

/// str.split / str.rsplit: without a separator, at runs of white space; limit < 0 is none.
std::vector<std::string_view> split(Budget& budget, std::string_view text, std::optional<std::string_view> separator,
                                    int64_t limit);
std::vector<std::string_view> rsplit(Budget& budget, std::string_view text, std::optional<std::string_view> separator,
                                     int64_t limit);
std::vector<std::string_view> splitlines(Budget& budget, std::string_view text, bool keep_ends);
/// str.replace; limit < 0 is none.
std::string replace(Budget& budget, std::string_view text, std::string_view from, std::string_view to, int64_t limit);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);         ///< str.title
std::string title_filter(std::string_view text);  ///< jinja2's title filter: words begin after -, space, ( { [ <
bool is_upper(std::string_view text);
bool is_lower(std::string_view text);
bool all_of_class(std::string_view text, std::string_view method);  ///< isdigit, isalpha, isalnum, isspace, ...

/// repr() of a string, appended.
void append_string_repr(std::string& out, std::string_view text);
/// json.dumps of a string, appended.
void append_json_string(std::string& out, std::string_view text, bool ensure_ascii);
/// repr() of a float: the shortest digits that read back equal.
std::string float_repr(double value);
std::string escape_html(std::string_view text);

}  // namespace qnext::jinja
