#include "tokenizer/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

using Merges = std::vector<std::pair<std::string, std::string>>;

Vocabulary vocabulary_of(const Merges& merges) {
  Vocabulary vocabulary;
  for (int b = 0; b < 256; ++b) vocabulary.add(std::string(1, static_cast<char>(b)), b);
  for (const auto& [left, right] : merges) vocabulary.add(left + right, vocabulary.id_end());
  return vocabulary;
}

BytePairEncoder encoder_of(const Merges& merges) {
  BytePairEncoder encoder(vocabulary_of(merges));
  for (const auto& [left, right] : merges) {
    const Vocabulary& v = encoder.vocabulary();
    EXPECT_TRUE(encoder.add_merge({*v.find(left), *v.find(right), *v.find(left + right)}));
  }
  return encoder;
}

std::vector<int32_t> encode(const BytePairEncoder& encoder, std::string_view piece) {
  std::vector<int32_t> ids;
  encoder.encode(piece, ids);
  return ids;
}

/// The definition, word for word.
std::vector<int32_t> naive_encode(const Merges& merges, const Vocabulary& vocabulary, const std::string& piece) {
  std::vector<std::string> symbols;
  for (const char c : piece) symbols.emplace_back(1, c);
  for (bool merged = true; merged;) {
    merged = false;
    for (const auto& [left, right] : merges) {
      for (size_t i = 0; i + 1 < symbols.size() && !merged; ++i) {
        if (symbols[i] != left || symbols[i + 1] != right) continue;
        symbols[i] += right;
        symbols.erase(symbols.begin() + i + 1);
        merged = true;
      }
      if (merged) break;
    }
  }
  std::vector<int32_t> ids;
  for (const std::string& symbol : symbols) ids.push_back(*vocabulary.find(symbol));
  return ids;
}

TEST(BytePairEncoder, MergesLowestRankFirstAndLeftmostOfEquals) {
  const BytePairEncoder encoder = encoder_of({{"a", "a"}, {"b", "c"}, {"a", "b"}, {"aa", "a"}});
  EXPECT_THAT(encode(encoder, "abc"), ElementsAre('a', 257));  // bc before ab
  EXPECT_THAT(encode(encoder, "aaa"), ElementsAre(259));
  EXPECT_THAT(encode(encoder, "aaaaa"), ElementsAre(256, 259));
  EXPECT_THAT(encode(encoder, "z"), ElementsAre('z'));
}

TEST(BytePairEncoder, ATokenThatMergesCannotReachIsNotUsed) {
  // "abc" is a token, but "bc" is merged first and then nothing joins a and bc.
  const BytePairEncoder encoder = encoder_of({{"b", "c"}, {"a", "b"}, {"ab", "c"}});
  for (int again = 0; again < 3; ++again) EXPECT_THAT(encode(encoder, "abc"), ElementsAre('a', 256));
}

TEST(BytePairEncoder, RefusesAPairTwice) {
  BytePairEncoder encoder = encoder_of({{"a", "b"}});
  EXPECT_FALSE(encoder.add_merge({'a', 'b', 256}));
}

TEST(BytePairEncoder, EqualsTheDefinitionOnRandomMerges) {
  std::mt19937 random(3);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    Merges merges;
    std::map<std::pair<std::string, std::string>, bool> seen;
    for (int i = 0; i < 40; ++i) {
      std::pair pair(tokens[random() % tokens.size()], tokens[random() % tokens.size()]);
      if (pair.first.size() + pair.second.size() > 12 || seen[pair]) continue;
      seen[pair] = true;
      tokens.push_back(pair.first + pair.second);
      merges.push_back(pair);
    }
    const BytePairEncoder encoder = encoder_of(merges);
    for (int i = 0; i < 40; ++i) {  // lengths on both sides of where the heap takes over
      std::string piece;
      for (size_t size = 1 + random() % 80; piece.size() < size;) piece += "abc"[random() % 3];
      ASSERT_THAT(encode(encoder, piece), ElementsAreArray(naive_encode(merges, encoder.vocabulary(), piece)))
          << piece;
    }
  }
}

TEST(BytePairEncoder, AMegabyteInOnePieceIsNotQuadratic) {
  const BytePairEncoder encoder = encoder_of({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}});
  const std::vector<int32_t> ids = encode(encoder, std::string(1'000'001, 'a'));
  EXPECT_EQ(ids.size(), 125'001u);
  EXPECT_EQ(ids.front(), 258);
  EXPECT_EQ(ids.back(), 'a');
}

TEST(Vocabulary, FindsWhatWasAddedAndRefusesTheSameAgain) {
  Vocabulary vocabulary;
  std::mt19937 random(5);
  std::map<std::string, int32_t> tokens;
  for (int id = 0; id < 20000; id += 2) {
    std::string bytes;
    for (size_t size = 1 + random() % 40; bytes.size() < size;) bytes += static_cast<char>(random());
    const bool fresh = tokens.emplace(bytes, id).second;
    ASSERT_EQ(vocabulary.add(bytes, id), fresh ? Vocabulary::Added::kYes : Vocabulary::Added::kBytesTaken);
  }
  for (const auto& [bytes, id] : tokens) {
    ASSERT_EQ(vocabulary.find(bytes), id);
    ASSERT_EQ(vocabulary.bytes(id), bytes);
    ASSERT_FALSE(vocabulary.has(id + 1));
    ASSERT_EQ(vocabulary.add("new" + bytes, id), Vocabulary::Added::kIdTaken);
  }
  EXPECT_FALSE(vocabulary.find("not there, not there"));
  EXPECT_FALSE(vocabulary.has(-1));
  EXPECT_EQ(vocabulary.size(), tokens.size());
}

}  // namespace
}  // namespace qnext
