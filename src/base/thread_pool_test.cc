#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

namespace qnext {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEveryTaskOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.size(), GetParam());
  for (int round = 0; round < 2000; ++round) {
    const int64_t tasks = round % 37;
    std::vector<int> count(static_cast<size_t>(tasks), 0);
    pool.parallel_for(tasks, [&](int64_t task, int thread) {
      EXPECT_LT(thread, GetParam());
      ++count[static_cast<size_t>(task)];
    });
    for (int c : count) ASSERT_EQ(c, 1);
  }
}

TEST_P(ThreadPoolTest, WakesAfterSleeping) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    std::atomic<int64_t> sum = 0;
    pool.parallel_for(100, [&](int64_t task, int) { sum += task; });
    EXPECT_EQ(sum.load(), 4950);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace qnext
