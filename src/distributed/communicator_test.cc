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

}  // namespace
}  // namespace qnext
