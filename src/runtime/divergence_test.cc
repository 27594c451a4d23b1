#include "runtime/divergence.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qnext {
namespace {

std::vector<float> logits(std::initializer_list<double> probabilities, float shift = 0) {
  std::vector<float> values;
  for (const double p : probabilities) values.push_back(static_cast<float>(std::log(p)) + shift);
  return values;
}

TEST(Divergence, IsNoneBetweenEquals) {
  Divergence divergence;
  divergence.add(logits({0.5, 0.25, 0.25}), logits({0.5, 0.25, 0.25}, 7), 1);  // softmax does not see a shift
  const Divergence::Result r = divergence.result();
  EXPECT_NEAR(r.mean, 0, 1e-7);  // logits are f32
  EXPECT_EQ(r.same_top, 1);
  EXPECT_NEAR(r.perplexity_base, 4, 1e-6);
  EXPECT_NEAR(r.perplexity_model, 4, 1e-6);
}

TEST(Divergence, IsTheFormulaOfTheBook) {
  Divergence divergence;
  divergence.add(logits({0.5, 0.25, 0.25}), logits({0.25, 0.25, 0.5}), 0);
  divergence.add(logits({0.9, 0.1}), logits({0.9, 0.1}), -1);
  const Divergence::Result r = divergence.result();
  const double expected = 0.5 * std::log(2) - 0.25 * std::log(2);  // sum p log(p / q)
  EXPECT_NEAR(r.max, expected, 1e-7);
  EXPECT_NEAR(r.mean, expected / 2, 1e-7);
  EXPECT_NEAR(r.standard_error, expected / 2, 1e-7);  // two values 0 and e: deviation e / 2 over sqrt(2 - 1)
  EXPECT_EQ(r.same_top, 0.5);
  EXPECT_EQ(r.positions, 2);
  EXPECT_EQ(r.targets, 1);
  EXPECT_NEAR(r.perplexity_base, 2, 1e-6);
  EXPECT_NEAR(r.perplexity_model, 4, 1e-6);
}

TEST(Divergence, QuantilesAreOfPositions) {
  Divergence divergence;
  for (int i = 0; i < 100; ++i) divergence.add(logits({0.5, 0.5}), i < 98 ? logits({0.5, 0.5}) : logits({0.1, 0.9}), 0);
  const Divergence::Result r = divergence.result();
  EXPECT_NEAR(r.median, 0, 1e-7);
  EXPECT_NEAR(r.percentile_99, 0.5 * std::log(0.25 / 0.09), 1e-6);
  EXPECT_EQ(r.percentile_99, r.max);
}

}  // namespace
}  // namespace qnext
