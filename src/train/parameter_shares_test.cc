#include "train/parameter_shares.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/parameter_array.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

TEST(ParameterSharesTest, EveryParameterOfOneRank) {
  const ModelConfig config = testing::tiny_config();
  const auto list = parameter_list(config, true);
  for (const int ranks : {1, 2, 3, 7, 200}) {
    const ParameterShares shares(list, 0, ranks);
    std::vector<int64_t> sizes(static_cast<size_t>(ranks));
    size_t next = 0;
    int owner = -1;
    for (const ParameterShares::Run& run : shares.runs()) {
      EXPECT_TRUE(run.shared);
      EXPECT_EQ(run.first, next);
      EXPECT_GT(run.owner, owner);  // those of a rank follow one another
      EXPECT_LT(run.owner, ranks);
      EXPECT_EQ(run.begin, list[run.first].offset);
      EXPECT_EQ(run.end, list[run.last - 1].offset + list[run.last - 1].size());
      for (size_t i = run.first; i < run.last; ++i) EXPECT_EQ(shares.owner(i), run.owner);
      sizes[static_cast<size_t>(run.owner)] += run.end - run.begin;
      next = run.last;
      owner = run.owner;
    }
    EXPECT_EQ(next, list.size());
    // No share is larger than an equal part and a parameter.
    int64_t largest = 0;
    for (const ParameterInfo& p : list) largest = std::max(largest, p.size());
    const int64_t total = list.back().offset + list.back().size();
    EXPECT_LE(std::ranges::max(sizes), total / ranks + largest + 16);
    EXPECT_EQ(shares.expert_owner(3), -1);
  }
}

TEST(ParameterSharesTest, ExpertsAreTheirRanks) {
  const ModelConfig config = testing::tiny_config();
  const int64_t half = config.num_experts / 2;
  const auto first_list = parameter_list(config, true, {0, half}), second_list = parameter_list(config, true, {half, 2 * half});
  const ParameterShares first(first_list, 0, 2, half), second(second_list, 1, 2, half);
  ASSERT_EQ(first.runs().size(), second.runs().size());
  int64_t sizes[2] = {};
  bool experts = false;
  for (size_t i = 0; i < first.runs().size(); ++i) {
    const ParameterShares::Run &a = first.runs()[i], &b = second.runs()[i];
    EXPECT_EQ(a.begin, b.begin);
    EXPECT_EQ(a.end, b.end);
    EXPECT_EQ(a.shared, b.shared);
    for (size_t p = b.first; p < b.last; ++p) EXPECT_EQ(second_list[p].expert >= 0, !b.shared) << second_list[p].name;
    if (a.shared) {
      EXPECT_EQ(a.owner, b.owner);
      EXPECT_NE(first.is_ours(a), second.is_ours(b));
      sizes[a.owner] += a.end - a.begin;
    } else {
      experts = true;
      EXPECT_TRUE(first.is_ours(a) && second.is_ours(b));
    }
  }
  EXPECT_TRUE(experts);
  EXPECT_GT(sizes[0], 0);
  EXPECT_GT(sizes[1], 0);
  EXPECT_EQ(first.expert_owner(half - 1), 0);
  EXPECT_EQ(first.expert_owner(half), 1);
  EXPECT_EQ(first.expert_owner(-1), -1);
}

}  // namespace
}  // namespace qnext
