#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace qnext {

/// The user or a file is wrong. Thrown at the edge, caught by the program, which prints what() and exits non-zero.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file's content is wrong. what() is "FILE: FIELD: expected EXPECTED, found FOUND".
class FileError : public Error {
 public:
  FileError(std::string file, std::string field, std::string expected, std::string found);

  const std::string file, field, expected, found;
};

/// Text from a file made fit for an error message: control characters and invalid UTF-8 escaped, cut at max_bytes.
std::string quoted(std::string_view text, size_t max_bytes = 80);

[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& message);

}  // namespace qnext

/// The programmer is wrong: aborts with the condition, the place and the message.
#define QNEXT_CHECK(condition, ...)                                                                      \
  do {                                                                                                   \
    if (!(condition)) [[unlikely]]                                                                       \
      ::qnext::check_failed(#condition, __FILE__, __LINE__, std::string(__VA_OPT__(::fmt::format(__VA_ARGS__)))); \
  } while (false)
