#include "runtime/benchmark.h"

#include <gtest/gtest.h>

#include "base/testing/temporary_directory.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

/// The tiny model (3 DeltaNet layers, 1 attention layer, 8 experts of which 3 are chosen), opened for measurement.
class BenchmarkTest : public ::testing::Test {
 protected:
  BenchmarkTest() {
    testing::write_random_checkpoint(directory_.path(), config_, {.dtype = DType::kF32});
    EngineOptions options;
    options.threads = 1;
    options.batch_rows = 96;
    benchmark_ = std::make_unique<Benchmark>(directory_.path(), options, GateOptions{.probe_seconds = 0, .groups = 1});
  }
  static const OperationProfile& operation(const Measurement& m, std::string_view name) {
    return m.profile.operations.find(name)->second;
  }
  const ModelConfig config_ = testing::tiny_config();
  testing::TemporaryDirectory directory_;
  std::unique_ptr<Benchmark> benchmark_;
};

TEST_F(BenchmarkTest, CountsWhatDecodingMustRead) {
  EXPECT_GT(benchmark_->first_token_seconds(), benchmark_->open_seconds());
  const Measurement m = benchmark_->decode(1000, 2);
  EXPECT_GT(m.seconds, 0);
  EXPECT_EQ(m.kept, 1);
  const auto steps = m.profiled_steps;
  EXPECT_LE(steps, Benchmark::kDecodeSteps);
  // Keys and values of the one attention layer, both sequences; each group grows from 1,000 tokens by one per step.
  const int64_t token = 2 * config_.key_value_width() * 4;
  int64_t expected = 0;
  for (int64_t i = 0; i < steps; ++i) expected += 2 * (1001 + i) * token;
  EXPECT_EQ(operation(m, "attention").bytes, expected);
  EXPECT_EQ(operation(m, "head").bytes, steps * config_.vocab_size * config_.hidden_size * 4);
  EXPECT_EQ(operation(m, "head").flops, steps * 2 * 2 * config_.vocab_size * config_.hidden_size);
  // Two rows choose 3 to 6 experts in each of the three MoE layers.
  const int64_t expert = 3 * config_.moe_intermediate_size * config_.hidden_size * 4;
  EXPECT_GE(operation(m, "experts").bytes, steps * 3 * 3 * expert);
  EXPECT_LE(operation(m, "experts").bytes, steps * 3 * 6 * expert);
  EXPECT_EQ(operation(m, "experts").flops, steps * 3 * 2 * 3 * expert / 4 * 2);
  EXPECT_EQ(m.profile.operations.count("linear"), 0u) << "every matrix has a name";
}

TEST_F(BenchmarkTest, PrefillAddsUpItsSteps) {
  const Measurement m = benchmark_->prefill(200);  // 96 + 96 + 8
  EXPECT_EQ(m.kept, 3);
  EXPECT_EQ(m.profiled_steps, 1);
  EXPECT_EQ(operation(m, "head").calls, 1);
  EXPECT_EQ(operation(m, "head").flops, 2 * config_.vocab_size * config_.hidden_size);  // the last row alone
  EXPECT_EQ(operation(m, "attention").flops, 4 * (200 * 201 / 2) * config_.attention_width());
}

TEST(Roof, EveryInstructionSetOfThisMachineHasOne) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > detect_isa()) continue;
    const Roof roof = measure_roof(1, isa);
    EXPECT_GT(roof.read_bytes_per_second, 1e8);
    EXPECT_GT(roof.f32_flops_per_second, 1e8);
    EXPECT_EQ(roof.int8_ops_per_second > 0, isa != Isa::kScalar);
  }
  const double delivered = delivered_cpu(1, 0.01);
  EXPECT_GE(delivered, 0);
  EXPECT_LE(delivered, 1);
}

}  // namespace
}  // namespace qnext
