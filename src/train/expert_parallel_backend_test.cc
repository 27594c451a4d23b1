#include "train/expert_parallel_backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "backend/cpu/training_backend.h"
#include "base/cpu.h"
#include "distributed/testing/ranks.h"

// Experts on several ranks against one backend that has all experts and all rows, to the bit.
namespace qnext {
namespace {

constexpr int64_t kExperts = 12, kChosen = 3, kWidth = 20, kInner = 9;

Rows rows_of(std::vector<float>& values, int64_t first, int64_t count) { return {values.data() + first * kWidth, count, kWidth, kWidth}; }

struct Experts {
  std::vector<std::vector<float>> values;  ///< gate, up, down of each

  MlpWeights weights(size_t e) const {
    const auto matrix = [&](size_t part, int64_t rows, int64_t cols) {
      return Matrix{.rows = rows, .cols = cols, .data = reinterpret_cast<const std::byte*>(values[3 * e + part].data())};
    };
    return {matrix(0, kInner, kWidth), matrix(1, kInner, kWidth), matrix(2, kWidth, kInner)};
  }
  TrainingBackend::MlpGradient gradient(size_t e) { return {values[3 * e].data(), values[3 * e + 1].data(), values[3 * e + 2].data()}; }
};

class ExpertParallelTest : public ::testing::TestWithParam<std::vector<int64_t>> {
 protected:
  std::vector<float> random(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& x : values) x = std::normal_distribution<float>()(random_);
    return values;
  }
  std::mt19937 random_{3};
};

TEST_P(ExpertParallelTest, BitsOfOneRank) {
  const std::vector<int64_t>& rows = GetParam();  // of each rank
  const auto ranks = static_cast<int>(rows.size());
  const int64_t all = std::reduce(rows.begin(), rows.end());
  std::vector<float> x = random(all * kWidth), d_y = random(all * kWidth), weights = random(all * kChosen);
  const std::vector<float> d_x_before = random(all * kWidth);
  std::vector<int32_t> chosen;
  for (int64_t t = 0; t < all; ++t) {
    // The last expert is never chosen, some ranks' experts seldom.
    std::vector<int32_t> order(kExperts - 1);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    if (t % 3 == 0) std::ranges::sort(order);
    chosen.insert(chosen.end(), order.begin(), order.begin() + kChosen);
  }
  Experts experts, expected_gradients, gradients;
  for (int64_t e = 0; e < kExperts; ++e) {
    for (int part = 0; part < 3; ++part) {
      experts.values.push_back(random(kInner * kWidth));
      expected_gradients.values.push_back(random(kInner * kWidth));  // added to
    }
  }
  gradients = expected_gradients;

  const auto size = static_cast<size_t>(all * kWidth), slots = static_cast<size_t>(all * kChosen);
  std::vector<float> expected_y(size), expected_d_x = d_x_before, expected_d_weights(slots), y(size), d_x = d_x_before, d_weights(slots);
  {
    const auto backend = make_cpu_training_backend(1, chosen_isa());
    std::vector<MlpWeights> w;
    std::vector<TrainingBackend::MlpGradient> g;
    for (size_t e = 0; e < kExperts; ++e) {
      w.push_back(experts.weights(e));
      g.push_back(expected_gradients.gradient(e));
    }
    std::vector<float> out(slots * kWidth);
    backend->experts(rows_of(x, 0, all), w, kChosen, chosen.data(), weights.data(), {}, rows_of(out, 0, all * kChosen), rows_of(expected_y, 0, all));
    backend->experts_backward(rows_of(x, 0, all), w, kChosen, chosen.data(), weights.data(), rows_of(d_y, 0, all),
                              rows_of(expected_d_x, 0, all), expected_d_weights.data(), g);
  }
  testing::Ranks(ranks).run([&](Communicator& communicator) {
    const auto inner = make_cpu_training_backend(1, chosen_isa());
    ExpertParallelBackend backend(*inner, communicator, kExperts);
    const ExpertRange range = experts_of_rank(kExperts, communicator.rank(), ranks);
    std::vector<MlpWeights> w;
    std::vector<TrainingBackend::MlpGradient> g;
    for (int64_t e = range.first; e < range.end; ++e) {
      w.push_back(experts.weights(static_cast<size_t>(e)));
      g.push_back(gradients.gradient(static_cast<size_t>(e)));
    }
    const int64_t first = std::reduce(rows.begin(), rows.begin() + communicator.rank()), n = rows[static_cast<size_t>(communicator.rank())];
    const int32_t* ours = chosen.data() + first * kChosen;
    const float* factors = weights.data() + first * kChosen;
    std::vector<float> out(static_cast<size_t>(n * kChosen * kWidth));
    for (int pass = 0; pass < 2; ++pass) {  // what is left from a call does not matter
      backend.experts(rows_of(x, first, n), w, kChosen, ours, factors, {}, rows_of(out, 0, n * kChosen), rows_of(y, first, n));
    }
    backend.experts_backward(rows_of(x, first, n), w, kChosen, ours, factors, rows_of(d_y, first, n), rows_of(d_x, first, n),
                             d_weights.data() + first * kChosen, g);
  });
  EXPECT_EQ(y, expected_y);
  EXPECT_EQ(d_x, expected_d_x);
  EXPECT_EQ(d_weights, expected_d_weights);
  EXPECT_EQ(gradients.values, expected_gradients.values);
}

INSTANTIATE_TEST_SUITE_P(RowsOfRanks, ExpertParallelTest,
                         ::testing::Values(std::vector<int64_t>{40}, std::vector<int64_t>{70, 33}, std::vector<int64_t>{0, 5},
                                           std::vector<int64_t>{5, 0, 170, 1}, std::vector<int64_t>{0, 0, 0}));

TEST(ExpertParallelBackendTest, AFailedRankEndsTheOthers) {
  testing::Ranks ranks(2);
  EXPECT_THROW(ranks.run([](Communicator& communicator) {
    if (communicator.rank() == 1) throw Error("no");
    const auto inner = make_cpu_training_backend(1, Isa::kScalar);
    ExpertParallelBackend(*inner, communicator, 2).experts({}, {}, 1, nullptr, nullptr, {}, {}, {});
  }), Error);
}

}  // namespace
}  // namespace qnext
