// What a program that embeds a model does: open, feed tokens, read logits.
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "runtime/engine.h"

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  qnext::Engine engine(argv[1]);
  const auto sequence = engine.create_sequence();
  const int32_t tokens[] = {1, 2, 3};
  const qnext::Feed feed{sequence.get(), tokens};
  const std::span<const float> logits = engine.step({&feed, 1});
  std::printf("%zu logits, the first %g\n", logits.size(), logits[0]);
  return static_cast<int64_t>(logits.size()) == engine.config().vocab_size && std::isfinite(logits[0]) ? 0 : 1;
} catch (const qnext::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
