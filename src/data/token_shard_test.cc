#include "data/token_shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/testing/temporary_directory.h"

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class TokenShardTest : public ::testing::Test {
 protected:
  void write(const std::vector<std::vector<uint32_t>>& documents, int32_t vocab_size = 100) {
    TokenShardWriter writer(path_, vocab_size, 7);
    for (const auto& document : documents) writer.append(document);
    writer.finish();
  }
  std::string read() {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void rewrite(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }
  /// Changes a field and makes the header's checksum right again, as a hostile file would.
  template <class T>
  void forge(size_t offset, T value) {
    std::string bytes = read();
    std::memcpy(bytes.data() + offset, &value, sizeof value);
    const uint64_t sum = checksum(std::as_bytes(std::span(bytes)).first(120));
    std::memcpy(bytes.data() + 120, &sum, sizeof sum);
    rewrite(bytes);
  }
  auto open() {
    return [this] { TokenShard shard(path_); };
  }

  const testing::TemporaryDirectory directory_;
  const std::filesystem::path path_ = directory_ / "a.tokens";
};

TEST_F(TokenShardTest, RoundTrip) {
  write({{1, token_word(2, false), 3}, {99}, {token_word(5, false), 6}});
  const TokenShard shard(path_);
  EXPECT_EQ(shard.counts().documents, 3u);
  EXPECT_EQ(shard.counts().tokens, 6u);
  EXPECT_EQ(shard.counts().targets, 4u);
  EXPECT_EQ(shard.vocab_size(), 100);
  EXPECT_EQ(shard.tokenizer_fingerprint(), 7u);
  EXPECT_THAT(shard.document(0), ElementsAre(1u, 2u | kNoTargetBit, 3u));
  EXPECT_THAT(shard.document(1), ElementsAre(99u));
  EXPECT_THAT(shard.document(2), ElementsAre(5u | kNoTargetBit, 6u));
  EXPECT_EQ(token_id(shard.document(2)[0]), 5);
  EXPECT_FALSE(is_target(shard.document(2)[0]));
  shard.verify();
}

TEST_F(TokenShardTest, DocumentsLargerThanTheBuffer) {
  std::vector<std::vector<uint32_t>> documents = {{}, {}, {}};
  for (uint32_t i = 0; i < 1'000'003; ++i) documents[i % 3 == 0 ? 0 : 2].push_back(i % 90);
  documents[1] = {42};
  write(documents);
  const TokenShard shard(path_);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(std::ranges::equal(shard.document(i), documents[i]));
    EXPECT_EQ(shard.document_size(i), documents[i].size());
  }
  shard.verify();
}

TEST_F(TokenShardTest, NothingAppearsBeforeFinish) {
  {
    TokenShardWriter writer(path_, 100, 7);
    writer.append(std::vector<uint32_t>{1, 2});
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(TokenShardTest, WriterRefusesIdsBeyondTheVocabulary) {
  TokenShardWriter writer(path_, 100, 7);
  EXPECT_THAT([&] { writer.append(std::vector<uint32_t>{1, 100}); },
              ThrowsMessage<Error>(HasSubstr("token id 100 is beyond the vocabulary of 100")));
}

TEST_F(TokenShardTest, EveryChangedByteAndEveryCutIsNoticed) {
  write({{1, 2, 3}, {4, 5}});
  const std::string good = read();
  ASSERT_EQ(good.size(), 128u + 24 + 24);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    rewrite(bad);
    EXPECT_THROW(TokenShard(path_).verify(), FileError) << "byte " << i;
  }
  for (size_t size = 0; size < good.size(); ++size) {
    rewrite(good.substr(0, size));
    EXPECT_THROW(TokenShard shard(path_), FileError) << size << " bytes";
  }
  rewrite(good + "x");
  EXPECT_THAT(open(), ThrowsMessage<FileError>(HasSubstr("size: expected 176 bytes, found 177")));
}

TEST_F(TokenShardTest, ForgedHeaders) {
  const auto forged = [&](size_t offset, auto value, const char* message) {
    write({{1, 2, 3}, {4, 5}});
    forge(offset, value);
    EXPECT_THAT(open(), ThrowsMessage<FileError>(HasSubstr(message)));
  };
  forged(0, uint64_t{0}, "magic: expected QNEXTTOK");
  forged(8, uint32_t{2}, "version: expected 1, found 2");
  forged(12, uint32_t{1}, "flags: expected 0");
  forged(16, uint32_t{0}, "vocabulary size");
  forged(16, uint32_t{0x80000001}, "vocabulary size");
  forged(24, uint64_t{0}, "documents: expected 1 to 5");
  forged(24, uint64_t{6}, "documents: expected 1 to 5");
  forged(24, uint64_t{3}, "size: expected 184 bytes, found 176");
  forged(32, uint64_t{1} << 62, "tokens: expected no more than the file holds");
  forged(32, uint64_t{7}, "size: expected 184 bytes");
  forged(40, uint64_t{6}, "targets: expected at most 5");
}

TEST_F(TokenShardTest, ForgedOffsetsAndIds) {
  const auto forge_offsets = [&](std::array<uint64_t, 3> offsets) {
    write({{1, 2, 3}, {4, 5}});
    std::string bytes = read();
    std::memcpy(bytes.data() + bytes.size() - sizeof offsets, &offsets, sizeof offsets);
    rewrite(bytes);
    forge(64, checksum(std::as_bytes(std::span(offsets))));
  };
  forge_offsets({0, 3, 5});
  EXPECT_NO_THROW(open()());
  forge_offsets({1, 3, 5});
  EXPECT_THAT(open(), ThrowsMessage<FileError>(HasSubstr("offsets[0]: expected 0, found 1")));
  forge_offsets({0, 3, 6});
  EXPECT_THAT(open(), ThrowsMessage<FileError>(HasSubstr("last offset: expected 5, found 6")));
  forge_offsets({0, 5, 5});
  EXPECT_THAT(open(), ThrowsMessage<FileError>(HasSubstr("increasing numbers")));
  forge_offsets({0, UINT64_MAX, 5});
  EXPECT_THAT(open(), ThrowsMessage<FileError>(HasSubstr("increasing numbers")));

  write({{1, 2, 3}, {4, 50 | kNoTargetBit}});
  forge(16, uint32_t{50});
  const TokenShard shard(path_);
  EXPECT_NO_THROW(shard.document(0));
  EXPECT_THAT([&] { shard.document(1); },
              ThrowsMessage<FileError>(HasSubstr("token 4: expected an id below 50, found 50")));
  EXPECT_THROW(shard.verify(), FileError);

  write({{1, 2, 3}, {4, 5}});
  forge(40, uint64_t{4});
  EXPECT_THAT([&] { TokenShard(path_).verify(); },
              ThrowsMessage<FileError>(HasSubstr("targets: expected 4, found 5")));
}

}  // namespace
}  // namespace qnext
