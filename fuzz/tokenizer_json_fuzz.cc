// Any bytes as a tokenizer.json: refused with a FileError, or a tokenizer whose answers keep their promises.
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "tokenizer/tokenizer.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void use(const qnext::Tokenizer& tokenizer, std::string_view text) {
  for (const auto special : {qnext::SpecialTokens::kParse, qnext::SpecialTokens::kPlain}) {
    const std::vector<int32_t> ids = tokenizer.encode(text, special);
    for (const int32_t id : ids) require(tokenizer.has_token(id) && id < tokenizer.vocab_size());
    qnext::StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.next(id);
    require(streamed + stream.finish() == tokenizer.decode(ids));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  try {
    const qnext::Tokenizer tokenizer = qnext::Tokenizer::parse(json, "tokenizer.json");
    use(tokenizer, "hello <|end|> e\xCC\x81 12\n\n \xFF x");
    use(tokenizer, json.substr(0, 512));
  } catch (const qnext::Error&) {
    // FileError for the file, Error when a pattern of its own making gives up on a text
  }
  return 0;
}
