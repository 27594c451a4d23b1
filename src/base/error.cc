#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace qnext {

FileError::FileError(std::string file_, std::string field_, std::string expected_, std::string found_)
    : Error(fmt::format("{}: {}: expected {}, found {}", file_, field_, expected_, found_)),
      file(std::move(file_)),
      field(std::move(field_)),
      expected(std::move(expected_)),
      found(std::move(found_)) {}

namespace {
/// Length of the valid UTF-8 sequence at text[i], or 0.
size_t utf8_sequence(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u; };
  const auto tail = [&](size_t k) { return (byte(k) & 0xC0) == 0x80; };
  const unsigned b = byte(0);
  if (b < 0x80) return 1;
  if (b >= 0xC2 && b < 0xE0) return tail(1) ? 2 : 0;
  if (b >= 0xE0 && b < 0xF0) {
    if (!tail(1) || !tail(2) || (b == 0xE0 && byte(1) < 0xA0) || (b == 0xED && byte(1) >= 0xA0)) return 0;
    return 3;
  }
  if (b >= 0xF0 && b < 0xF5) {
    if (!tail(1) || !tail(2) || !tail(3) || (b == 0xF0 && byte(1) < 0x90) || (b == 0xF4 && byte(1) >= 0x90)) return 0;
    return 4;
  }
  return 0;
}
}  // namespace

std::string quoted(std::string_view text, size_t max_bytes) {
  std::string out = "\"";
  size_t i = 0;
  while (i < text.size() && i < max_bytes) {
    const size_t n = utf8_sequence(text, i);
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (n == 0 || c < 0x20 || c == 0x7F) {
      out += fmt::format("\\x{:02x}", c);
      ++i;
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out.append(text, i, n);
      i += n;
    }
  }
  out += i < text.size() ? "\"..." : "\"";
  return out;
}

void check_failed(const char* condition, const char* file, int line, const std::string& message) {
  fmt::print(stderr, "{}:{}: check failed: {}{}{}\n", file, line, condition, message.empty() ? "" : ": ", message);
  std::fflush(stderr);
  std::abort();
}

}  // namespace qnext
