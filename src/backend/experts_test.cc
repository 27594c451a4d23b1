// The router, and the grouping of tokens by expert.
#include "backend/testing/cases.h"

namespace qnext {
namespace {

using testing::Random;
using testing::relative_max;
using testing::same_bits;
using testing::Table;
using testing::Weights;

class ExpertsTest : public ::testing::TestWithParam<Isa> {
 protected:
  const std::unique_ptr<Backend> backend_ = make_cpu_backend(2, GetParam());
};

TEST_P(ExpertsTest, RouterGoldenVector) {
  float logits[] = {0.5f, -1.0f, 2.0f, 0.1f, 1.5f, -0.3f, 0.9f, 1.2f};
  int32_t experts[3];
  std::vector<float> weights(3);
  backend_->route({logits, 1, 8, 8}, 3, true, experts, weights.data());
  EXPECT_EQ(std::vector<int32_t>(experts, experts + 3), (std::vector<int32_t>{2, 4, 7}));
  EXPECT_LT(relative_max(weights, {0.486414534, 0.295025328, 0.218560138}), 2e-7);
}

TEST_P(ExpertsTest, RouterEqualsSortAndSoftmax) {
  Random random(1);
  for (const auto& [experts, k] : {std::pair<int64_t, int64_t>{512, 10}, {16, 4}, {8, 8}, {5, 1}, {1, 1}}) {
    for (const bool normalise : {true, false}) {
      constexpr int64_t kRows = 40;
      Table logits(random, kRows, experts, -6.0, 6.0);
      for (int64_t t = 0; t < kRows; t += 2) {  // every second row: few distinct values, so many ties
        for (int64_t e = 0; e < experts; ++e) logits.row(t)[e] = static_cast<float>(random.below(4));
      }
      std::vector<int32_t> chosen(static_cast<size_t>(kRows * k));
      std::vector<float> weights(chosen.size());
      backend_->route(logits, k, normalise, chosen.data(), weights.data());
      for (int64_t t = 0; t < kRows; ++t) {
        const float* l = logits.row(t);
        std::vector<int32_t> order(static_cast<size_t>(experts));
        for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return l[a] > l[b]; });
        double all = 0.0, selected = 0.0;
        for (int64_t e = 0; e < experts; ++e) all += std::exp(static_cast<double>(l[e]));
        for (int64_t i = 0; i < k; ++i) selected += std::exp(static_cast<double>(l[order[static_cast<size_t>(i)]]));
        for (int64_t i = 0; i < k; ++i) {
          const auto at = static_cast<size_t>(t * k + i);
          ASSERT_EQ(chosen[at], order[static_cast<size_t>(i)]) << "row " << t;
          const double expected = std::exp(static_cast<double>(l[chosen[at]])) / (normalise ? selected : all);
          ASSERT_NEAR(weights[at], expected, 4e-6 * expected);  // 512 positive terms, added one by one: at most 3e-5
        }
      }
    }
  }
}

TEST_P(ExpertsTest, RouterKeepsNaN) {
  // Wherever the NaN stands, the softmax over all experts is NaN; and the experts are still valid indices.
  for (int64_t bad = 0; bad < 8; ++bad) {
    for (const bool normalise : {true, false}) {
      float logits[] = {0.5f, -1.0f, 2.0f, 0.1f, 1.5f, -0.3f, 0.9f, 1.2f}, weights[3];
      logits[bad] = NAN;
      int32_t experts[] = {-1, -1, -1};
      backend_->route({logits, 1, 8, 8}, 3, normalise, experts, weights);
      for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(std::isnan(weights[i])) << bad;
        EXPECT_TRUE(experts[i] >= 0 && experts[i] < 8) << bad;
      }
    }
  }
}

struct Expert {
  Weights gate, up, down;
  Expert(Random& random, DType dtype, int64_t width, int64_t hidden)
      : gate(random, dtype, hidden, width), up(random, dtype, hidden, width), down(random, dtype, width, hidden) {}
  MlpWeights weights() const { return {gate.matrix, up.matrix, down.matrix}; }

  std::vector<double> operator()(const float* x) const {
    const int64_t width = gate.matrix.cols, hidden = gate.matrix.rows;
    std::vector<double> h, y;
    for (int64_t f = 0; f < hidden; ++f) {
      double g = 0.0, u = 0.0;
      for (int64_t d = 0; d < width; ++d) g += x[d] * gate.at(f, d), u += x[d] * up.at(f, d);
      h.push_back(g * testing::sigmoid(g) * u);
    }
    for (int64_t d = 0; d < width; ++d) {
      double sum = 0.0;
      for (int64_t f = 0; f < hidden; ++f) sum += h[static_cast<size_t>(f)] * down.at(d, f);
      y.push_back(sum);
    }
    return y;
  }
};

TEST_P(ExpertsTest, GroupingEqualsOneByOne) {
  testing::Worst worst("relative_max");
  Random random(2);
  constexpr int64_t kExperts = 7, kWidth = 45, kHidden = 37;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<Expert> all;
    std::vector<MlpWeights> weights_of;
    for (int64_t e = 0; e < kExperts; ++e) all.emplace_back(random, dtype, kWidth, kHidden);
    for (const Expert& e : all) weights_of.push_back(e.weights());
    for (const int64_t rows : {0, 1, 3, 40, 300}) {
      for (const int64_t k : {1, 2, 3}) {
        for (const bool everything_on_one : {false, true}) {
          Table x(random, rows, kWidth), y(rows, kWidth), hidden(rows * k, kHidden), expert_out(rows * k, kWidth);
          std::vector<int32_t> chosen;
          for (int64_t i = 0; i < rows * k; ++i) {  // expert 6 never; else distinct per row, as the router chooses
            chosen.push_back(static_cast<int32_t>(everything_on_one ? i % k : (i / k * 5 + i % k) % 6));
          }
          std::vector<float> weights = random.vector(rows * k, 0.0, 1.0);
          backend_->experts(x, weights_of, k, chosen.data(), weights.data(), hidden, expert_out, y);
          ASSERT_TRUE(y.intact() && hidden.intact() && expert_out.intact());
          std::vector<double> expected;
          for (int64_t t = 0; t < std::min<int64_t>(rows, 40); ++t) {
            std::vector<double> row(kWidth, 0.0);
            for (int64_t i = t * k; i < (t + 1) * k; ++i) {
              const std::vector<double> one = all[static_cast<size_t>(chosen[static_cast<size_t>(i)])](x.row(t));
              for (size_t d = 0; d < row.size(); ++d) row[d] += weights[static_cast<size_t>(i)] * one[d];
            }
            expected.insert(expected.end(), row.begin(), row.end());
          }
          std::vector<float> got = y.values();
          got.resize(expected.size());
          // Sums of 45 and 37 products, cancelling; relative to the size of the outputs.
          EXPECT_LT(worst(relative_max(got, expected)), 1e-5) << rows << " rows, k " << k;
          Table alone(1, kWidth);
          for (int64_t t = 0; t < rows; t += 7) {
            backend_->experts({x.row(t), 1, kWidth, kWidth}, weights_of, k, &chosen[static_cast<size_t>(t * k)],
                              &weights[static_cast<size_t>(t * k)], hidden.view().first(k),
                              expert_out.view().first(k), alone);
            ASSERT_TRUE(same_bits(alone.row(0), y.row(t), kWidth)) << "row " << t << " of " << rows;
          }
        }
      }
    }
  }
}

TEST_P(ExpertsTest, Mlp) {
  testing::Worst worst("relative_max");
  Random random(3);
  const Expert mlp(random, DType::kF16, 67, 41);
  for (const int64_t rows : {1, 2, 9, 257, 300}) {
    Table x(random, rows, 67), hidden(rows, 41), y(rows, 67), alone(1, 67);
    backend_->mlp(x, mlp.weights(), hidden, y);
    std::vector<double> expected;
    for (int64_t t = 0; t < rows; ++t) {
      const std::vector<double> row = mlp(x.row(t));
      expected.insert(expected.end(), row.begin(), row.end());
      backend_->mlp({x.row(t), 1, 67, 67}, mlp.weights(), hidden.view().first(1), alone);
      ASSERT_TRUE(same_bits(alone.row(0), y.row(t), 67)) << "row " << t << " of " << rows;
    }
    EXPECT_LT(worst(relative_max(y.values(), expected)), 1e-5);  // sums of 67 and 41 products, cancelling
    EXPECT_TRUE(y.intact() && hidden.intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, ExpertsTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
