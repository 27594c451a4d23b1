#include "train/lanes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "backend/cpu/training_backend.h"
#include "base/error.h"
#include "base/testing/temporary_directory.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// Document i is i * 1000, i * 1000 + 1, ...
class LanesTest : public ::testing::Test {
 protected:
  static constexpr int64_t kSizes[] = {5, 30, 1, 12, 7, 100, 3, 64};

  LanesTest() : config_(testing::tiny_config()), layout_(config_, DType::kF32, false) {
    TokenShardWriter writer(directory_ / "a.tokens", 10000, 7);
    for (size_t i = 0; i < std::size(kSizes); ++i) {
      std::vector<uint32_t> words;
      // Every fifth token is no target.
      for (int64_t t = 0; t < kSizes[i]; ++t) words.push_back(token_word(static_cast<int32_t>(i) * 1000 + static_cast<int32_t>(t), t % 5 != 4));
      writer.append(words);
    }
    writer.finish();
    data_.emplace(directory_ / "a.tokens");
    mtp_layout_.kv = layout_.kv;
    mtp_layout_.kv_block_bytes = layout_.kv.bytes();
    options_ = {.seed = 3, .mtp_steps = 2, .micro_batch_tokens = 32, .max_context = 1000};
  }
  Lanes lanes() { return Lanes(*data_, options_, layout_, mtp_layout_, *backend_); }

  /// Checks a step's batches row by row, and returns all tokens.
  std::vector<int32_t> check(std::span<const TrainingBatch> batches) {
    std::vector<int32_t> tokens;
    for (const TrainingBatch& batch : batches) {
      int64_t row = 0;
      EXPECT_EQ(batch.before.size(), batch.segments.size());
      for (size_t s = 0; s < batch.segments.size(); ++s) {
        const Segment& segment = batch.segments[s];
        EXPECT_EQ(segment.row, row);
        EXPECT_GE(segment.state->kv_blocks.size() * 64, static_cast<size_t>(segment.position + segment.rows));
        EXPECT_EQ(batch.before[s].state->kv_blocks, segment.state->kv_blocks);
        EXPECT_EQ(batch.before[s].state->recurrent != nullptr, segment.position > 0);
        EXPECT_NE(batch.before[s].state->recurrent, segment.state->recurrent);
        for (const auto& mtp : batch.mtp) EXPECT_EQ(mtp[s].state->kv_blocks.size(), segment.state->kv_blocks.size());
        for (int64_t i = 0; i < segment.rows; ++i, ++row) {
          const int32_t token = batch.tokens[static_cast<size_t>(row)];
          const int64_t document = token / 1000, t = token % 1000;
          if (i > 0) {
            EXPECT_EQ(token, batch.tokens[static_cast<size_t>(row) - 1] + 1);
          }
          for (int64_t d = 0; d <= options_.mtp_steps; ++d) {
            const bool inside = t + 1 + d < kSizes[document];
            EXPECT_EQ(batch.targets[static_cast<size_t>(d)][static_cast<size_t>(row)], inside && (t + 1 + d) % 5 != 4 ? token + 1 + d : -1);
            if (d < options_.mtp_steps) {
              EXPECT_EQ(batch.next[static_cast<size_t>(d)][static_cast<size_t>(row)], inside ? token + 1 + d : 0);
            }
          }
          tokens.push_back(token);
        }
      }
      EXPECT_EQ(row, static_cast<int64_t>(batch.tokens.size()));
    }
    return tokens;
  }

  const testing::TemporaryDirectory directory_;
  const ModelConfig config_;
  const StateLayout layout_;
  StateLayout mtp_layout_;
  std::optional<TokenDataset> data_;
  std::unique_ptr<TrainingBackend> backend_ = make_cpu_training_backend(1, Isa::kScalar);
  Lanes::Options options_;
};

TEST_F(LanesTest, EveryTokenOfAnEpochOnce) {
  for (const bool carry : {true, false}) {
    for (const int64_t context : {1000, 13}) {
      options_.carry_state = carry;
      options_.max_context = context;
      Lanes lanes = this->lanes();
      std::map<int32_t, int> seen;
      while (lanes.position().epoch == 0) {
        for (const int32_t token : check(lanes.next(3, 16))) ++seen[token];
        lanes.advance();
      }
      for (size_t i = 0; i < std::size(kSizes); ++i) {
        for (int64_t t = 0; t < kSizes[i]; ++t) {
          const int count = seen[static_cast<int32_t>(i) * 1000 + static_cast<int32_t>(t)];
          EXPECT_GE(count, lanes.position().lanes.empty() ? 1 : 0) << i << " " << t;
          EXPECT_LE(count, 2) << i << " " << t;  // the next epoch has begun
        }
      }
    }
  }
}

TEST_F(LanesTest, PiecesContinueWithTheirStates) {
  Lanes lanes = this->lanes();
  std::map<int32_t, float> left;  // what a piece left, by the token that comes next
  int continued = 0;
  for (int step = 0; step < 40; ++step) {
    const auto batches = lanes.next(3, 16);
    check(batches);
    std::map<int32_t, float> now;
    for (const TrainingBatch& batch : batches) {
      for (size_t s = 0; s < batch.segments.size(); ++s) {
        const Segment& segment = batch.segments[s];
        const int32_t first = batch.tokens[static_cast<size_t>(segment.row)];
        EXPECT_EQ(segment.position, first % 1000);
        if (segment.position > 0) {
          ++continued;
          EXPECT_EQ(batch.before[s].state->recurrent[0], left.at(first));
        }
        const int32_t next = first + static_cast<int32_t>(segment.rows);
        now[next] = segment.state->recurrent[0] = static_cast<float>(1000 * step + next);
      }
    }
    left = now;
    lanes.advance();
  }
  EXPECT_GT(continued, 20);
}

TEST_F(LanesTest, PositionsAndStatesComeBack) {
  Lanes one = lanes();
  for (int step = 0; step < 7; ++step) {
    for (const TrainingBatch& batch : one.next(3, 16)) {
      for (const Segment& s : batch.segments) {
        s.state->recurrent[1] = static_cast<float>(step + s.row);
        *reinterpret_cast<float*>(s.state->kv_blocks.back()) = static_cast<float>(s.row);
      }
    }
    one.advance();
  }
  Lanes two = lanes();
  two.restore(one.position());
  const auto from = one.states();
  const auto to = two.states();
  ASSERT_EQ(from.size(), to.size());
  ASSERT_FALSE(from.empty());
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_EQ(from[i].name, to[i].name);
    EXPECT_EQ(from[i].shape, to[i].shape);
    for (size_t p = 0; p < from[i].parts.size(); ++p) std::ranges::copy(from[i].parts[p], to[i].parts[p].begin());
  }
  for (int step = 0; step < 9; ++step) {
    const int64_t count = step < 4 ? 3 : 2;  // another number of lanes on the way
    const auto a = one.next(count, 16), b = two.next(count, 16);
    EXPECT_EQ(check(a), check(b));
    for (size_t i = 0; i < a.size(); ++i) {
      for (size_t s = 0; s < a[i].segments.size(); ++s) {
        const float *x = a[i].before[s].state->recurrent, *y = b[i].before[s].state->recurrent;
        if (x != nullptr && step == 0) {
          EXPECT_EQ(x[1], y[1]);
        }
      }
    }
    one.advance();
    two.advance();
  }
}

TEST_F(LanesTest, RanksShareTheLanes) {
  Lanes all = lanes();
  options_.ranks = 2;
  Lanes first = lanes();
  options_.rank = 1;
  Lanes second = lanes();
  for (int step = 0; step < 10; ++step) {
    std::vector<int32_t> both = check(first.next(4, 16));
    const std::vector<int32_t> rest = check(second.next(4, 16));
    both.insert(both.end(), rest.begin(), rest.end());
    EXPECT_EQ(check(all.next(4, 16)), both);
    for (Lanes* lanes : {&all, &first, &second}) lanes->advance();
  }
  // An odd number: as many batches on both, the last one of the rank with fewer lanes empty.
  options_.micro_batch_tokens = 16;
  Lanes b = lanes();
  options_.rank = 0;
  Lanes a = lanes();
  for (int step = 0; step < 3; ++step) {
    const auto one = a.next(3, 16), two = b.next(3, 16);
    ASSERT_EQ(one.size(), 2u);
    ASSERT_EQ(two.size(), 2u);
    EXPECT_EQ(one[0].tokens.size(), 16u);
    EXPECT_TRUE(one[1].tokens.empty() && one[1].segments.empty() && one[1].targets.at(0).empty());
    EXPECT_EQ(two[1].tokens.size(), 16u);
    a.advance();
    b.advance();
  }
}

TEST_F(LanesTest, MemoryStopsGrowing) {
  Lanes lanes = this->lanes();
  const auto run = [&] {
    for (int step = 0; step < 100; ++step) {
      lanes.next(3, 16);
      lanes.advance();
    }
    return lanes.state_bytes();
  };
  const int64_t warm = run();
  EXPECT_EQ(run(), warm);
}

TEST_F(LanesTest, RefusesPositionsOfOtherData) {
  Lanes lanes = this->lanes();
  DataPosition position;
  position.lanes = {{99, 0, 0}};
  EXPECT_THAT([&] { lanes.restore(position); }, ThrowsMessage<Error>(HasSubstr("none of this data")));
  position.lanes = {{0, 5, 0}};
  EXPECT_THAT([&] { lanes.restore(position); }, ThrowsMessage<Error>(HasSubstr("none of this data")));
  position.lanes = {};
  position.next = 9;
  EXPECT_THAT([&] { lanes.restore(position); }, ThrowsMessage<Error>(HasSubstr("none of this data")));
}

}  // namespace
}  // namespace qnext
