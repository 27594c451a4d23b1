// Gated attention over KV blocks against a softmax in double.
#include "backend/testing/cases.h"
#include "base/testing/sanitized.h"

namespace qnext {
namespace {

using testing::Random;
using testing::relative_max;
using testing::same_bits;
using testing::Table;

/// One sequence of `length` tokens whose keys and values lie in blocks; what was not appended is NaN.
struct Sequence {
  KvLayout layout;
  int64_t group, length;
  Table q, gate, k, v;
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::byte*> blocks;
  std::vector<float> log_sum_exp;            ///< of the last run
  std::vector<double> expected_log_sum_exp;  ///< of the last expected()
  static constexpr int64_t kOffset = 64;

  Sequence(Random& random, KvLayout kv, int64_t group_size, int64_t tokens, double spread = 2.0)
      : layout(kv),
        group(group_size),
        length(tokens),
        q(random, tokens, heads() * kv.head_dim, -spread, spread),
        gate(random, tokens, heads() * kv.head_dim, -4.0, 4.0),
        k(random, tokens, kv.heads * kv.head_dim),
        v(random, tokens, kv.heads * kv.head_dim) {
    for (int64_t t = 0; t < tokens; t += kBlockTokens) {
      memory.emplace_back(static_cast<size_t>(kOffset + kv.bytes()), std::byte{0xFF});  // NaN in f32 (scales of int8 too) and bf16
      blocks.push_back(memory.back().data());
    }
  }
  int64_t heads() const { return layout.heads * group; }
  AttentionSegment segment(int64_t begin, int64_t rows) const {
    return {begin, rows, begin, {blocks.data(), kOffset}};
  }

  /// Appends and attends in pieces, as prefill and decode do. The rows before `from` are appended only.
  std::vector<float> run(Backend& backend, int64_t from, int64_t piece) {
    for (auto& block : memory) std::fill(block.begin(), block.end(), std::byte{0xFF});
    Table out(length, heads() * layout.head_dim), lse(length, heads());
    const AttentionSegment before = segment(0, from);
    backend.kv_append({&before, 1}, layout, k, v);
    for (int64_t t = from; t < length; t += piece) {
      const AttentionSegment s = segment(t, std::min(piece, length - t));
      backend.kv_append({&s, 1}, layout, k, v);
      backend.gated_attention({&s, 1}, layout, q, gate, out, lse);
    }
    EXPECT_TRUE(out.intact() && lse.intact());
    log_sum_exp = lse.values();
    log_sum_exp.erase(log_sum_exp.begin(), log_sum_exp.begin() + from * heads());
    const std::vector<float> all = out.values();
    return {all.begin() + from * heads() * layout.head_dim, all.end()};
  }

  /// What the blocks hold of keys or values, by the definition of the element type.
  std::vector<double> stored(Table& table) const {
    std::vector<double> out;
    for (const float x : table.values()) out.push_back(layout.dtype == DType::kBF16 ? bf16_to_f32(f32_to_bf16(x)) : x);
    if (layout.dtype != DType::kQ8_0) return out;
    for (auto head = out.begin(); head != out.end(); head += layout.head_dim) {
      float largest = 0.0f;
      for (int64_t d = 0; d < layout.head_dim; ++d) largest = std::max(largest, std::fabs(static_cast<float>(head[d])));
      for (int64_t d = 0; d < layout.head_dim; ++d) {
        const double steps = std::nearbyint(static_cast<float>(head[d]) * (127.0f / largest));
        head[d] = steps * static_cast<double>(largest / 127.0f);
      }
    }
    return out;
  }

  std::vector<double> expected(int64_t from) {
    const int64_t dim = layout.head_dim;
    const std::vector<double> keys = stored(k), values = stored(v);
    const auto at = [&](const std::vector<double>& table, int64_t row, int64_t head) {
      return table.data() + (row * layout.heads + head) * dim;
    };
    std::vector<double> out, p(static_cast<size_t>(length));
    expected_log_sum_exp.clear();
    for (int64_t t = from; t < length; ++t) {
      for (int64_t h = 0; h < heads(); ++h) {
        double largest = -INFINITY, sum = 0.0;
        for (int64_t j = 0; j <= t; ++j) {
          const double* key = at(keys, j, h / group);
          double score = 0.0;
          for (int64_t d = 0; d < dim; ++d) {
            score += static_cast<double>(q.row(t)[h * dim + d]) * key[d];
          }
          p[static_cast<size_t>(j)] = score / std::sqrt(static_cast<double>(dim));
          largest = std::max(largest, p[static_cast<size_t>(j)]);
        }
        for (int64_t j = 0; j <= t; ++j)
          sum += p[static_cast<size_t>(j)] = std::exp(p[static_cast<size_t>(j)] - largest);
        expected_log_sum_exp.push_back(largest + std::log(sum));
        for (int64_t d = 0; d < dim; ++d) {
          double value = 0.0;
          for (int64_t j = 0; j <= t; ++j) value += p[static_cast<size_t>(j)] * at(values, j, h / group)[d];
          out.push_back(value / sum * testing::sigmoid(gate.row(t)[h * dim + d]));
        }
      }
    }
    return out;
  }
};

/// Of logarithms: the relative error of what they are logarithms of.
double largest_difference(const std::vector<float>& got, const std::vector<double>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double worst = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - expected[i]);
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
  }
  return worst;
}

class AttentionTest : public ::testing::TestWithParam<Isa> {
 protected:
  const std::unique_ptr<Backend> backend_ = make_cpu_backend(2, GetParam());
  testing::Worst worst_{"relative_max"};
  /// Scores of size 5 carry a few 1e-7 relative into the exponent, so 1e-6 into each weight; averages cancel the
  /// rest.
  static constexpr double kTolerance = 1e-5;
};

TEST_P(AttentionTest, EqualsSoftmaxAtBlockBorders) {
  Random random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
    for (const int64_t dim : testing::kSanitized ? std::vector<int64_t>{20, 64} : std::vector<int64_t>{8, 20, 64, 256}) {
      for (const int64_t group : {1, 2, 8}) {
        for (const int64_t length : {1, 2, 63, 64, 65, 130}) {
          Sequence s(random, {dtype, 2, dim}, group, length);
          const std::vector<float> whole = s.run(*backend_, 0, length);
          ASSERT_LT(worst_(relative_max(whole, s.expected(0))), kTolerance)
              << dtype_name(dtype) << ", dim " << dim << ", group " << group << ", " << length << " tokens";
          ASSERT_LT(worst_(largest_difference(s.log_sum_exp, s.expected_log_sum_exp)), kTolerance)
              << dtype_name(dtype) << ", dim " << dim << ", group " << group << ", " << length << " tokens";
          const std::vector<float> lse = s.log_sum_exp;
          for (const int64_t piece : {1, 7, 64}) {  // a row's bits do not depend on how the prompt was cut
            ASSERT_TRUE(same_bits(whole, s.run(*backend_, 0, piece)) && same_bits(lse, s.log_sum_exp))
                << "dim " << dim << ", pieces of " << piece;
          }
        }
      }
    }
  }
}

TEST_P(AttentionTest, EqualsSoftmaxAtSpanBorders) {
  Random random(2);
  for (const int64_t length : {kSpanKeys - 1, kSpanKeys, kSpanKeys + 1, kSpanKeys + 40, 2 * kSpanKeys + 3}) {
    Sequence s(random, {DType::kF32, 1, 20}, 2, length);
    const int64_t from = length - 45;
    const std::vector<float> whole = s.run(*backend_, from, length);
    // A mean over 4,096 values of either sign is 64 times smaller than they are; its error is not.
    EXPECT_LT(worst_(relative_max(whole, s.expected(from))), 5 * kTolerance) << length << " tokens";
    EXPECT_LT(worst_(largest_difference(s.log_sum_exp, s.expected_log_sum_exp)), kTolerance) << length << " tokens";
    const std::vector<float> lse = s.log_sum_exp;
    EXPECT_TRUE(same_bits(whole, s.run(*backend_, from, 1)) && same_bits(lse, s.log_sum_exp)) << length << " tokens";
  }
}

TEST_P(AttentionTest, OnePeakedKeyAndLargeScores) {
  // Scores of size 1e4: the softmax is one key, and nothing overflows. Scores themselves are then wrong by 1e-3.
  Random random(3);
  Sequence s(random, {DType::kF32, 1, 64}, 1, 200, 3000.0);
  EXPECT_LT(relative_max(s.run(*backend_, 0, 200), s.expected(0)), 2e-2);
}

TEST_P(AttentionTest, FewTilesEqualManyBitwise) {
  // With few tiles each span is a task of its own, with many a task runs its tile's spans in turn: more threads, and
  // more rows beside, change which; never the sums.
  Random random(4);
  for (const DType dtype : {DType::kBF16, DType::kQ8_0}) {
    Sequence s(random, {dtype, 2, 16}, testing::kSanitized ? 1 : 4, kSpanKeys + 300);
    const int64_t from = kSpanKeys - 20;
    const std::vector<float> many = s.run(*backend_, from, 320);
    for (const int threads : testing::kSanitized ? std::vector<int>{3} : std::vector<int>{1, 3, 16}) {
      const auto other = make_cpu_backend(threads, GetParam());
      EXPECT_TRUE(same_bits(many, s.run(*other, from, 320))) << threads << " threads";
      EXPECT_TRUE(same_bits(many, s.run(*other, from, 9))) << threads << " threads";
    }
  }
}

TEST_P(AttentionTest, SequencesTogetherEqualEachAlone) {
  Random random(5);
  const KvLayout layout{DType::kF32, 2, 24};
  Sequence a(random, layout, 2, 100), b(random, layout, 2, 100);
  // b's tokens 0..79 are rows 0..79 and were appended before; the batch is a's rows 0..29 and b's rows 80..99.
  Table batch(100, 96), alone(100, 96);
  const AttentionSegment before = b.segment(0, 80);
  backend_->kv_append({&before, 1}, layout, b.k, b.v);
  AttentionSegment from_b = b.segment(80, 20);
  const AttentionSegment both[] = {a.segment(0, 30), from_b, a.segment(30, 0)};
  backend_->kv_append(both, layout, a.k, a.v);
  backend_->gated_attention(both, layout, a.q, a.gate, batch, {});
  for (const AttentionSegment& segment : both) backend_->gated_attention({&segment, 1}, layout, a.q, a.gate, alone, {});
  EXPECT_TRUE(same_bits(batch.values().data(), alone.values().data(), 30 * 96));
  EXPECT_TRUE(same_bits(batch.row(80), alone.row(80), 96) && same_bits(batch.row(99), alone.row(99), 96));
  EXPECT_FALSE(std::isnan(batch.row(99)[95]));
}

TEST_P(AttentionTest, ManyQueryHeadsPerKeyHead) {
  Random random(6);
  Sequence s(random, {DType::kF32, 1, 8}, 160, 3);
  EXPECT_LT(worst_(relative_max(s.run(*backend_, 0, 3), s.expected(0))), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Isas, AttentionTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
