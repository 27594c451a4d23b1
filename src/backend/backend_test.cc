// What holds of every operation at once: the bits of a result depend neither on the number of threads nor on chance.
#include "backend/backend.h"

#include "backend/testing/cases.h"
#include "base/error.h"

namespace qnext {
namespace {

using testing::Random;
using testing::same_bits;
using testing::Table;
using testing::Weights;

/// Runs every operation on sizes that give each several tasks, and returns all results.
std::vector<float> run_all(Backend& backend) {
  Random random(1);
  std::vector<float> results;
  const auto keep = [&](Table& table) {
    const std::vector<float> values = table.values();
    results.insert(results.end(), values.begin(), values.end());
    EXPECT_TRUE(table.intact());
  };
  constexpr int64_t kRows = 97, kWidth = 320;
  Table x(random, kRows, kWidth), y(random, kRows, kWidth), out(kRows, kWidth);
  const std::vector<float> gain = random.vector(kWidth);

  const Weights weight(random, DType::kF8E4M3, 333, kWidth, true), table(random, DType::kBF16, 50, kWidth);
  Table product(kRows, 333);
  backend.linear(x, weight.matrix, product);
  keep(product);
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < kRows; ++t) tokens.push_back(static_cast<int32_t>(random.below(50)));
  backend.embed(table.matrix, tokens, out);
  keep(out);
  backend.rms_norm(x, {gain.data(), kWidth}, 1e-6, out);
  keep(out);
  backend.add(out, y, out);
  keep(out);
  backend.l2_norm(out, 64, 0.5f);
  keep(out);
  backend.gated_rms_norm(out, x, {gain.data(), 64}, 1e-6, out);
  keep(out);
  Table cos(random, kRows, 16), sin(random, kRows, 16), gate(random, kRows, 1);
  backend.head_norm_rope(out, 64, {gain.data(), 64}, 1e-6, cos, sin, out);
  keep(out);
  backend.add_gated(out, x, gate);
  keep(out);
  results.push_back(backend.all_finite(out) ? 1.0f : 0.0f);

  std::vector<float> conv_state = random.vector(2 * 3 * kWidth), taps = random.vector(kWidth * 4);
  const ConvSegment conv[] = {{0, 60, conv_state.data()}, {60, 37, conv_state.data() + 3 * kWidth}};
  backend.causal_conv1d_silu(conv, x, {taps.data(), kWidth * 4}, 4, {}, out);
  keep(out);

  const DeltaShape shape{2, 10, 64, 32};
  Table a(random, kRows, 10), b(random, kRows, 10), beta(kRows, 10), decay(kRows, 10), q(random, kRows, 128),
      k(random, kRows, 128);
  backend.delta_gates(b, a, {gain.data(), 10}, {gain.data() + 10, 10}, beta, decay);
  keep(beta);
  keep(decay);
  backend.l2_norm(q, 64, 0.125f);
  backend.l2_norm(k, 64, 1.0f);
  std::vector<float> delta_state = random.vector(2 * 10 * 64 * 32);
  const DeltaSegment delta[] = {{0, 60, 40, delta_state.data()}, {60, 37, 0, delta_state.data() + 10 * 64 * 32}};
  backend.gated_delta_rule(delta, shape, q, k, x, beta, decay, out);
  keep(out);
  results.insert(results.end(), delta_state.begin(), delta_state.end());

  const KvLayout layout{DType::kBF16, 2, 32};
  std::vector<Buffer> memory;
  std::vector<std::byte*> blocks;
  for (int i = 0; i < 4; ++i) {
    memory.push_back(backend.allocate(layout.bytes()));
    blocks.push_back(memory.back().data());
  }
  const AttentionSegment attention[] = {{0, 60, 0, {blocks.data(), 0}}, {60, 37, 0, {blocks.data() + 2, 0}}};
  backend.kv_append(attention, layout, k.view().columns(0, 64), k.view().columns(64, 64));
  backend.gated_attention(attention, layout, x, y, out, {});
  keep(out);

  constexpr int64_t kExperts = 6, kTop = 2, kHidden = 70;
  Table logits(random, kRows, kExperts), hidden(kRows * kTop, kHidden), expert_out(kRows * kTop, kWidth);
  std::vector<int32_t> chosen(kRows * kTop);
  std::vector<float> weights(kRows * kTop);
  backend.route(logits, kTop, true, chosen.data(), weights.data());
  results.insert(results.end(), weights.begin(), weights.end());
  std::vector<Weights> matrices;
  for (int64_t e = 0; e < kExperts; ++e) {
    matrices.emplace_back(random, DType::kBF16, kHidden, kWidth);
    matrices.emplace_back(random, DType::kBF16, kHidden, kWidth);
    matrices.emplace_back(random, DType::kBF16, kWidth, kHidden);
  }
  std::vector<MlpWeights> experts;
  for (size_t e = 0; e < matrices.size(); e += 3) {
    experts.push_back({matrices[e].matrix, matrices[e + 1].matrix, matrices[e + 2].matrix});
  }
  backend.experts(x, experts, kTop, chosen.data(), weights.data(), hidden, expert_out, out);
  keep(out);
  backend.mlp(x, experts[0], hidden.view().first(kRows), out);
  keep(out);
  return results;
}

class BackendTest : public ::testing::TestWithParam<Isa> {};

TEST_P(BackendTest, ThreadsChangeNoBit) {
  const std::vector<float> one = run_all(*make_cpu_backend(1, GetParam()));
  for (const float value : one) ASSERT_FALSE(std::isnan(value));
  for (const int threads : {1, 2, 3}) {
    const auto backend = make_cpu_backend(threads, GetParam());
    for (int round = 0; round < 3; ++round) EXPECT_TRUE(same_bits(one, run_all(*backend))) << threads << " threads";
  }
}

TEST_P(BackendTest, AllocatesAlignedZeros) {
  const auto backend = make_cpu_backend(1, GetParam());
  for (const int64_t bytes : {int64_t{1}, int64_t{4096}, int64_t{3} << 20}) {
    const Buffer buffer = backend->allocate(bytes);
    ASSERT_EQ(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_TRUE(std::all_of(buffer.data(), buffer.data() + bytes, [](std::byte b) { return b == std::byte{0}; }));
  }
  EXPECT_EQ(backend->allocate(0).data(), nullptr);
  EXPECT_THROW(backend->allocate(int64_t{1} << 60), Error);
}

INSTANTIATE_TEST_SUITE_P(Isas, BackendTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

TEST(Arena, MeasuresThenHandsOutLines) {
  Arena measure;
  EXPECT_EQ(measure.rows(3, 17).data, nullptr);
  measure.rows(1, 16);
  EXPECT_EQ(measure.bytes(), (3 * 32 + 16) * 4);
  const auto backend = make_cpu_backend(1, Isa::kScalar);
  Arena arena(backend->allocate(measure.bytes()));
  const Rows a = arena.rows(3, 17), b = arena.rows(1, 16);
  EXPECT_EQ(a.stride, 32);
  EXPECT_EQ(b.data, a.data + 3 * 32);
  EXPECT_EQ(arena.bytes(), measure.bytes());
}

}  // namespace
}  // namespace qnext
