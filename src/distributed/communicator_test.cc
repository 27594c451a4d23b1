#include "distributed/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "distributed/testing/check_communicator.h"
#include "distributed/testing/ranks.h"

namespace qnext {
namespace {

TEST(CommunicatorTest, OneProcess) {
  SingleProcess one;
  testing::check_communicator(one);
}

TEST(CommunicatorTest, ThreadsAsRanks) {
  for (const int size : {1, 2, 3, 4}) testing::Ranks(size).run(testing::check_communicator);
}

TEST(CommunicatorTest, AFailedRankEndsTheOthers) {
  testing::Ranks ranks(3);
  const auto run = [&] {
    ranks.run([](Communicator& c) {
      if (c.rank() == 1) throw Error("rank 1 has a bad day");
      c.barrier();
    });
  };
  EXPECT_THAT(run, ::testing::ThrowsMessage<Error>("rank 1 has a bad day"));
}

TEST(CommunicatorTest, AFailedRankEndsAnExchange) {
  testing::Ranks ranks(3);
  const auto run = [&] {
    ranks.run([](Communicator& c) {
      if (c.rank() == 2) throw Error("rank 2 has a bad day");
      const std::vector<float> send(3);
      std::vector<float> receive(3);
      const std::vector<int64_t> rows(3, 1);
      c.all_to_all(std::span<const float>(send), rows, std::span(receive), rows, 1);
    });
  };
  EXPECT_THAT(run, ::testing::ThrowsMessage<Error>("rank 2 has a bad day"));
}

}  // namespace
}  // namespace qnext
