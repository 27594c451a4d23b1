// What tests/tokenizer/compare.py and bench/tokenizer_benchmark.py talk to: one tokenizer, requests on stdin.
//
//   qnext_tokenize_stdin TOKENIZER_JSON
//   answers first:  f64 seconds that loading took
//   request:  u8 operation, u32 size, text
//     'e' encode, special tokens parsed   'p' encode, special tokens plain   't' encode 'e' and only tell the time
//   answer to e, p:  u32 count, i32 ids[count], u32 size, decoded text, u32 size, decoded text without special tokens
//   answer to t:     u32 count, f64 seconds
// All numbers little-endian. A stream decoder that disagrees with decode ends the program.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <exception>

#include "base/error.h"
#include "tokenizer/tokenizer.h"

namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class T>
void write_value(const T& value) {
  std::fwrite(&value, sizeof value, 1, stdout);
}

void write_bytes(const std::string& bytes) {
  write_value(static_cast<uint32_t>(bytes.size()));
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
}

void answer_decoded(const qnext::Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  const std::string text = tokenizer.decode(ids, skip_special);
  qnext::StreamDecoder stream(tokenizer, skip_special);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.next(id);
  streamed += stream.finish();
  if (streamed != text) throw qnext::Error("the stream decoder and decode disagree");
  write_bytes(text);
}

void serve(const qnext::Tokenizer& tokenizer) {
  std::string text;
  for (int operation; (operation = std::getchar()) != EOF;) {
    uint32_t size = 0;
    if (std::fread(&size, sizeof size, 1, stdin) != 1) throw qnext::Error("a request without a size");
    text.resize(size);
    if (std::fread(text.data(), 1, size, stdin) != size) throw qnext::Error("a request cut short");
    const double start = seconds_now();
    const auto ids =
        tokenizer.encode(text, operation == 'p' ? qnext::SpecialTokens::kPlain : qnext::SpecialTokens::kParse);
    const double seconds = seconds_now() - start;
    write_value(static_cast<uint32_t>(ids.size()));
    if (operation == 't') {
      write_value(seconds);
    } else {
      std::fwrite(ids.data(), sizeof ids[0], ids.size(), stdout);
      answer_decoded(tokenizer, ids, false);
      answer_decoded(tokenizer, ids, true);
    }
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) throw qnext::Error("usage: qnext_tokenize_stdin TOKENIZER_JSON");
  const double start = seconds_now();
  const auto tokenizer = qnext::Tokenizer::load(argv[1]);
  write_value(seconds_now() - start);
  std::fflush(stdout);
  serve(tokenizer);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
