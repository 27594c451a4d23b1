// A long real text through the bundled model: what is remembered does not depend on the cut, and costs what was planned.
// bench/long_context.cc is the same at 262,144 tokens, with times.
#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "base/testing/sanitized.h"
#include "runtime/engine.h"
#include "runtime/testing/golden.h"
#include "tokenizer/tokenizer.h"

namespace qnext {
namespace {

TEST(LongContext, SameStateHoweverFedAndMemoryAsPlanned) {
  const std::filesystem::path root = QNEXT_SOURCE_DIR;
  const Tokenizer tokenizer = Tokenizer::load(root / "models/starter");
  std::vector<int32_t> tokens;
  for (const char* file : {"docs/model.md", "docs/architecture.md", "docs/numerics.md", "LICENSE", "tests/golden/README.md"}) {
    tokenizer.encode(read_text_file(root / file, 1 << 20), tokens, SpecialTokens::kPlain);
  }
  // Beyond the 2,048 keys of one span of attention.
  tokens.resize(std::min<size_t>(tokens.size(), testing::kSanitized ? 2300 : 6000));
  ASSERT_GT(tokens.size(), 2048u);
  Engine engine(root / "models/starter");
  const auto vocab = static_cast<size_t>(engine.config().vocab_size);
  std::vector<std::vector<float>> states, last;
  for (int64_t chunk : {0, 448, 100}) {
    const auto sequence = engine.create_sequence();
    engine.prefill(*sequence, tokens, LogitRows::kLast, chunk, [&](int64_t, std::span<const float> logits) {
      if (!logits.empty()) last.emplace_back(logits.begin(), logits.end());
    });
    const float* state = sequence->state().recurrent;
    states.emplace_back(state, state + engine.layout().recurrent_floats);
    const int64_t planned = engine.plan().state_per_sequence + engine.plan().kv_per_token * sequence->length();
    EXPECT_GE(sequence->bytes(), planned);
    EXPECT_LE(sequence->bytes(), planned + (2 << 20));  // rounded up to a slab of blocks
  }
  ASSERT_EQ(last.size(), 3u);
  ASSERT_EQ(last[0].size(), vocab);
  // Pieces of 448 end on the grid of 64: bitwise. Pieces of 100 do not: float32 rounding in other chunks.
  EXPECT_EQ(states[1], states[0]);
  EXPECT_EQ(last[1], last[0]);
  EXPECT_LT(testing::relative_rms(states[2], states[0]), 1e-4);
  EXPECT_LT(testing::relative_rms(last[2], last[0]), 1e-4);
}

}  // namespace
}  // namespace qnext
