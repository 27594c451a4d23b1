// The engine against the scalar reference in double, on random checkpoints in every spelling, MTP included.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "model/testing/random_checkpoint.h"
#include "reference/reference.h"
#include "runtime/engine.h"
#include "runtime/testing/golden.h"

namespace qnext {
namespace {

using testing::CheckpointOptions;
using testing::relative_rms;
using testing::TemporaryDirectory;

/// Float32 sums in other orders than the reference's double ones; measured below 5e-6 (docs/numerics.md).
constexpr double kTolerance = 1e-4;

struct Spelling {
  const char* name;
  CheckpointOptions options;
};

class EngineAgainstReference : public ::testing::TestWithParam<Spelling> {};

TEST_P(EngineAgainstReference, LogitsAndMtp) {
  const TemporaryDirectory directory;
  testing::write_random_checkpoint(directory.path(), testing::tiny_config(), GetParam().options);
  Engine engine(directory.path(), {.mtp = true});
  const ModelConfig& config = engine.config();
  std::mt19937 random(7);
  std::vector<int32_t> tokens(150);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint64_t>(config.vocab_size));
  const auto expected = reference::ReferenceModel<double>{config, engine.weights()}.run(tokens);
  const std::vector<float> expected_logits(expected.logits.begin(), expected.logits.end());
  const std::vector<float> expected_mtp(expected.mtp.logits.begin(), expected.mtp.logits.end());
  for (int64_t chunk : {0, 64, 7, 1}) {
    std::vector<float> logits, mtp;
    const auto sequence = engine.create_sequence();
    engine.prefill(*sequence, tokens, LogitRows::kAll, chunk, [&](int64_t first, std::span<const float> rows) {
      logits.insert(logits.end(), rows.begin(), rows.end());
      const auto next = std::span(tokens).subspan(static_cast<size_t>(first + 1));
      const int64_t count = std::min(engine.last_hidden().rows, static_cast<int64_t>(next.size()));
      const auto out = engine.mtp_step(*sequence, next.first(static_cast<size_t>(count)), engine.last_hidden().first(count));
      mtp.insert(mtp.end(), out.begin(), out.end());
    });
    EXPECT_LT(relative_rms(logits, expected_logits), kTolerance) << "pieces of " << chunk;
    EXPECT_LT(relative_rms(mtp, expected_mtp), kTolerance) << "MTP, pieces of " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Spellings, EngineAgainstReference,
    ::testing::Values(Spelling{"bf16", {.linear_std = 0.1}}, Spelling{"f32", {.dtype = DType::kF32, .linear_std = 0.1}},
                      Spelling{"f16_fused_experts", {.dtype = DType::kF16, .fused_experts = true, .linear_std = 0.1}},
                      Spelling{"fp8", {.dtype = DType::kF8E4M3, .linear_std = 0.1}},
                      Spelling{"fp8_fused_bf16_scales",
                               {.dtype = DType::kF8E4M3, .bf16_scales = true, .fused_experts = true, .linear_std = 0.1}},
                      Spelling{"split_projections_sharded", {.split_projections = true, .shards = 3, .linear_std = 0.1}},
                      Spelling{"language_model_prefix_legacy_config",
                               {.language_model_prefix = true, .legacy_config = true, .linear_std = 0.1}}),
    [](const auto& spelling) { return spelling.param.name; });

}  // namespace
}  // namespace qnext
