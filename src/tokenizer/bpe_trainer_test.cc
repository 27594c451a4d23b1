#include "tokenizer/bpe_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

BpeTrainer::Result train(const std::vector<std::string>& texts, int32_t vocab_size, uint64_t min_frequency = 1,
                         std::vector<std::string> special = {}) {
  BpeTrainer trainer(
      {.vocab_size = vocab_size, .min_frequency = min_frequency, .special_tokens = std::move(special)});
  for (const std::string& text : texts) trainer.add(text);
  return trainer.train();
}

std::vector<std::string> learned(const BpeTrainer::Result& result) {
  return {result.tokens.begin() + 256, result.tokens.end()};
}

/// The same by definition: all words are counted anew for every merge.
std::vector<std::string> learned_slowly(const std::vector<std::string>& texts, size_t merges,
                                        const std::vector<std::string>& bytes) {
  std::map<std::string, int32_t> ids;
  std::vector<std::string> tokens = bytes;
  for (size_t i = 0; i < tokens.size(); ++i) ids[tokens[i]] = static_cast<int32_t>(i);
  std::vector<std::vector<int32_t>> words;
  for (const std::string& text : texts) {
    PreTokenizer(std::string(kQwenPattern)).for_each_piece(text, [&](std::string_view piece) {
      words.emplace_back();
      for (const char byte : piece) words.back().push_back(ids.at(std::string(1, byte)));
    });
  }
  for (size_t merge = 0; merge < merges; ++merge) {
    std::map<std::pair<int32_t, int32_t>, int> counts;
    for (const auto& word : words) {
      for (size_t i = 1; i < word.size(); ++i) ++counts[{word[i - 1], word[i]}];
    }
    if (counts.empty()) break;
    auto best = counts.begin();
    for (auto it = counts.begin(); it != counts.end(); ++it) {
      if (it->second > best->second) best = it;
    }
    const auto [left, right] = best->first;
    const auto id = static_cast<int32_t>(tokens.size());
    tokens.push_back(tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)]);
    for (auto& word : words) {
      for (size_t i = 1; i < word.size(); ++i) {
        if (word[i - 1] != left || word[i] != right) continue;
        word[i - 1] = id;
        word.erase(word.begin() + static_cast<ptrdiff_t>(i));
      }
    }
  }
  return {tokens.begin() + 256, tokens.end()};
}

TEST(BpeTrainerTest, MergesTheMostFrequentPairFirst) {
  EXPECT_THAT(learned(train({"low low low lower lower newest newest"}, 260)), ElementsAre("lo", "low", " low", "er"));
  EXPECT_THAT(learned(train({"ab ab", "xy xy xy"}, 258)), ElementsAre("xy", "ab"));
}

TEST(BpeTrainerTest, OfEqualsTheSmallerPairIsFirst) {
  // All pairs occur once: the order is that of the bytes' ids, which is that of the printable alphabet.
  EXPECT_THAT(learned(train({"dcba"}, 257)), ElementsAre("ba"));
  EXPECT_THAT(learned(train({"b\nac"}, 257)), ElementsAre("ac"));
  // A space is U+0120 in the alphabet and comes after the letters.
  EXPECT_THAT(learned(train({" z"}, 257)), ElementsAre(" z"));
  EXPECT_THAT(learned(train({" ~xy"}, 257)), ElementsAre("xy"));
}

TEST(BpeTrainerTest, EqualsCountingAnew) {
  std::vector<std::string> texts;
  uint32_t state = 1;
  const auto next = [&](uint32_t below) { return (state = state * 1664525 + 1013904223) / 65536 % below; };
  for (int i = 0; i < 120; ++i) {
    std::string text;
    for (uint32_t words = next(20); words > 0; --words) {
      for (uint32_t size = 1 + next(12); size > 0; --size) text += static_cast<char>('a' + next(3));
      text += ' ';
    }
    texts.push_back(text);
  }
  const BpeTrainer::Result result = train(texts, 256 + 150);
  EXPECT_EQ(learned(result), learned_slowly(texts, 150, {result.tokens.begin(), result.tokens.begin() + 256}));
}

TEST(BpeTrainerTest, StopsWhenNothingIsFrequentEnough) {
  EXPECT_THAT(learned(train({"ab ab cd"}, 1000, 2)), ElementsAre("ab"));
  EXPECT_EQ(train({"abc"}, 1000).tokens.size(), 258u);
  EXPECT_EQ(train({}, 1000).tokens.size(), 256u);
}

TEST(BpeTrainerTest, SpecialTokensAreLastAndNotLearnedFrom) {
  const auto result = train({"<|end|><|end|><|end|>ab"}, 258, 1, {"<|end|>"});
  EXPECT_THAT(learned(result), ElementsAre("ab"));
  const Tokenizer tokenizer = Tokenizer::parse(tokenizer_json(result), "trained");
  EXPECT_EQ(tokenizer.vocab_size(), 258);
  EXPECT_EQ(tokenizer.token_id("<|end|>"), 257);
  EXPECT_TRUE(tokenizer.is_special(257));
}

TEST(BpeTrainerTest, ItsFileIsReadBack) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += "Où est « l'été » ? 日本語 \xF0\x9F\x99\x82 don't stop\n\n";
  const auto result = train({text}, 400, 1, default_special_tokens());
  const Tokenizer tokenizer = Tokenizer::parse(tokenizer_json(result), "trained");
  EXPECT_EQ(tokenizer.vocab_size(), static_cast<int32_t>(result.vocab_size()));
  const auto ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  EXPECT_LT(ids.size(), text.size() / 3);
  EXPECT_TRUE(tokenizer.is_special(*tokenizer.token_id("<|im_end|>")));
  EXPECT_TRUE(tokenizer.is_added(*tokenizer.token_id("<think>")));
  EXPECT_FALSE(tokenizer.is_special(*tokenizer.token_id("<think>")));
  EXPECT_THAT(tokenizer_config_json(result), HasSubstr(R"("eos_token": "<|im_end|>")"));
}

TEST(BpeTrainerTest, RefusesImpossibleRequests) {
  EXPECT_THAT([] { train({}, 255); }, ThrowsMessage<Error>(HasSubstr("vocabulary size: expected 256")));
  EXPECT_THAT([] { train({}, 257, 1, {"<a>", "<b>"}); }, ThrowsMessage<Error>(HasSubstr("expected 258")));
  EXPECT_THAT([] { train({}, 1 << 30); }, ThrowsMessage<Error>(HasSubstr("found 1073741824")));
  EXPECT_THAT([] { train({}, 300, 1, {"<a>", "<a>"}); }, ThrowsMessage<Error>(HasSubstr("named twice")));
  EXPECT_THAT([] { train({}, 300, 1, {""}); }, ThrowsMessage<Error>(HasSubstr("special token")));
  EXPECT_THAT([] { train({}, 300, 1, {"\xFF\xFE"}); }, ThrowsMessage<Error>(HasSubstr("UTF-8")));
}

}  // namespace
}  // namespace qnext
