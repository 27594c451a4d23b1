#include "data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/testing/temporary_directory.h"
#include "tokenizer/tokenizer.h"

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class TokenDatasetTest : public ::testing::Test {
 protected:
  std::filesystem::path shard(const std::string& name, const std::vector<std::vector<uint32_t>>& documents,
                              int32_t vocab_size = 100, uint64_t fingerprint = 7) {
    TokenShardWriter writer(directory_ / name, vocab_size, fingerprint);
    for (const auto& document : documents) writer.append(document);
    writer.finish();
    return directory_ / name;
  }
  void manifest(const std::string& text) { std::ofstream(directory_ / TokenDataset::kManifest) << text; }
  std::string entry(const std::filesystem::path& path) {
    return fmt::format(R"({{"file": "{}", "checksum": "{:016x}"}})", path.filename().string(),
                       TokenShard(path).header_checksum());
  }

  const testing::TemporaryDirectory temporary_;
  const std::filesystem::path& directory_ = temporary_.path();
};

TEST_F(TokenDatasetTest, ShardsAreOneSequence) {
  const auto a = shard("a.tokens", {{1, 2}, {3}}), b = shard("b.tokens", {{4, 5, 6 | kNoTargetBit}});
  shard("stray.tokens", {{9}});
  manifest(fmt::format(R"({{"version": 1, "shards": [{}, {}]}})", entry(a), entry(b)));
  const TokenDataset data(directory_);
  EXPECT_EQ(data.document_count(), 3u);
  EXPECT_EQ(data.token_count(), 6u);
  EXPECT_EQ(data.target_count(), 5u);
  EXPECT_THAT(data.document(0), ElementsAre(1u, 2u));
  EXPECT_THAT(data.document(1), ElementsAre(3u));
  EXPECT_THAT(data.document(2), ElementsAre(4u, 5u, 6u | kNoTargetBit));
  EXPECT_EQ(data.document_size(2), 3u);
  data.verify();

  const TokenDataset twice({directory_, a});
  EXPECT_EQ(twice.document_count(), 5u);
  EXPECT_THAT(twice.document(4), ElementsAre(3u));
  EXPECT_NE(twice.fingerprint(), data.fingerprint());
  EXPECT_EQ(TokenDataset(directory_).fingerprint(), data.fingerprint());
}

TEST_F(TokenDatasetTest, VocabularyAndTokenizerMustFit) {
  const TokenDataset data(shard("a.tokens", {{1, 2}}));
  EXPECT_NO_THROW(data.require_vocabulary(100));
  EXPECT_THAT([&] { data.require_vocabulary(99); },
              ThrowsMessage<Error>(HasSubstr("packed with a vocabulary of 100 tokens, and the model's has 99")));
  const auto tokenizer = Tokenizer::load(QNEXT_SOURCE_DIR "/models/starter");
  EXPECT_THAT([&] { data.require_tokenizer(tokenizer); }, ThrowsMessage<Error>(HasSubstr("another tokenizer")));
  const TokenDataset right(shard("b.tokens", {{1, 2}}, tokenizer.vocab_size(), tokenizer_fingerprint(tokenizer)));
  EXPECT_NO_THROW(right.require_tokenizer(tokenizer));
}

TEST_F(TokenDatasetTest, RefusesWhatDoesNotBelongTogether) {
  const auto open = [](std::vector<std::filesystem::path> paths) {
    return [paths = std::move(paths)] { TokenDataset data(paths); };
  };
  const auto a = shard("a.tokens", {{1}}), b = shard("b.tokens", {{1}}, 101), c = shard("c.tokens", {{1}}, 100, 8);
  EXPECT_THAT(open({}), ThrowsMessage<Error>(HasSubstr("no data")));
  EXPECT_THAT(open({directory_}), ThrowsMessage<Error>(HasSubstr("no dataset.json")));
  EXPECT_THAT(open({directory_ / "absent"}), ThrowsMessage<Error>(HasSubstr("absent")));
  EXPECT_THAT(open({a, b}), ThrowsMessage<FileError>(HasSubstr("vocabulary size: expected 100")));
  EXPECT_THAT(open({a, c}), ThrowsMessage<FileError>(HasSubstr("fingerprint of the tokenizer: expected 7")));
  const auto with_manifest = [&](const std::string& text, const char* message) {
    manifest(text);
    EXPECT_THAT(open({directory_}), ThrowsMessage<Error>(HasSubstr(message))) << text;
  };
  with_manifest("{", "dataset.json");
  with_manifest(R"({"version": 2, "shards": []})", "version: expected 1, found 2");
  with_manifest(R"({"version": 1, "shards": []})", "shards: expected a list of shards");
  with_manifest(R"({"version": 1, "shards": [1]})", "shards[0]");
  with_manifest(R"({"version": 1, "shards": [{"file": "../a.tokens"}]})", "the name of a file");
  with_manifest(R"({"version": 1, "shards": [{"file": "absent.tokens", "checksum": ""}]})", "absent.tokens");
  const std::string listed = entry(a);
  shard("a.tokens", {{2}});
  with_manifest(fmt::format(R"({{"version": 1, "shards": [{}]}})", listed), "that of a.tokens");
}

TEST(DocumentOrderTest, IsAPermutationForEverySize) {
  for (const uint64_t n : {1, 2, 3, 7, 255, 256, 257, 1000, 65537}) {
    const DocumentOrder order = document_order(3, 11, n);
    std::vector<bool> seen(n, false);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t j = order(i);
      ASSERT_LT(j, n);
      ASSERT_FALSE(seen[j]) << n;
      seen[j] = true;
    }
  }
  const DocumentOrder large = document_order(0, 1, uint64_t{1} << 40);
  EXPECT_LT(large((uint64_t{1} << 40) - 1), uint64_t{1} << 40);
}

TEST(DocumentOrderTest, DependsOnSeedAndEpochAndNothingElse) {
  const auto first = [](uint64_t epoch, uint64_t seed) {
    std::vector<uint64_t> order;
    for (uint64_t i = 0; i < 20; ++i) order.push_back(document_order(epoch, seed, 1000)(i));
    return order;
  };
  EXPECT_EQ(first(0, 1), first(0, 1));
  EXPECT_NE(first(0, 1), first(1, 1));
  EXPECT_NE(first(0, 1), first(0, 2));
  EXPECT_NE(first(0, 1), first(uint64_t{1} << 32, 1));
  EXPECT_NE(first(0, 1), first(0, uint64_t{1} << 32 | 1));
}

TEST(DocumentOrderTest, EveryOrderOfThreeIsAboutAsLikely) {
  std::map<std::vector<uint64_t>, int> counts;
  constexpr int kSeeds = 6000;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const DocumentOrder order = document_order(0, seed, 3);
    ++counts[{order(0), order(1), order(2)}];
  }
  ASSERT_EQ(counts.size(), 6u);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, kSeeds / 6, 150);  // 5 standard deviations
}

TEST(DocumentOrderTest, PlacesAreUniform) {
  // Where document 0 stands, over many epochs, in ten bins.
  constexpr int kEpochs = 5000, kDocuments = 300;
  std::vector<int> bins(10);
  for (uint64_t epoch = 0; epoch < kEpochs; ++epoch) {
    ++bins[document_order(epoch, 5, kDocuments)(0) * bins.size() / kDocuments];
  }
  for (const int count : bins) EXPECT_NEAR(count, kEpochs / 10, 110);  // 5 standard deviations
}

}  // namespace
}  // namespace qnext
