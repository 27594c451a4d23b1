#pragma once
#include <istream>

#include "cli/talker.h"

namespace qnext::cli {

/// A conversation for programs: one JSON request per line of `in`, for each one line (or several, with "stream") on
/// standard output. docs/formats.md, "Chat in JSON lines", has the grammar. A request that cannot be carried out gets
/// {"error": ...} and changes nothing. Ends with the input; returns the exit status.
int converse_in_lines(const RunOptions& options, std::istream& in);

}  // namespace qnext::cli
