#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "base/error.h"
#include "tokenizer/testing.h"

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Tokenizer make(const nlohmann::json& json) { return Tokenizer::parse(json.dump(), "tokenizer.json"); }

/// h=104 e=101 l=108 o=111; 256 he, 257 ll, 258 hell, 259 hello, 260 " hello"; 300 <|end|> special, 301 <think>, 302
/// [L]
nlohmann::json hello_json() {
  nlohmann::json json = testing::tokenizer_json(
      {{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {" ", "hello"}, {"\xC3", "\xA9"}});
  json["added_tokens"] = {testing::added_token(300, "<|end|>", true), testing::added_token(301, "<think>"),
                          testing::added_token(302, "[L]", true)};
  json["added_tokens"][2]["lstrip"] = true;
  return json;
}

TEST(Tokenizer, EncodesAndDecodes) {
  const Tokenizer tokenizer = make(hello_json());
  EXPECT_THAT(tokenizer.encode("hello hello"), ElementsAre(259, 260));
  EXPECT_THAT(tokenizer.encode("hell"), ElementsAre(258));
  EXPECT_THAT(tokenizer.encode("e\u0301"), ElementsAre(261));  // NFC, then one token
  EXPECT_THAT(tokenizer.encode(""), IsEmpty());
  EXPECT_EQ(tokenizer.decode({259, 260, 261}), "hello hello\u00e9");
  std::vector<int32_t> ids = {1};
  tokenizer.encode("h", ids);
  EXPECT_THAT(ids, ElementsAre(1, 'h'));
}

TEST(Tokenizer, SpecialTokensAreParsedOrPlain) {
  const Tokenizer tokenizer = make(hello_json());
  EXPECT_THAT(tokenizer.encode("hello<|end|><think>hello"), ElementsAre(259, 300, 301, 259));
  EXPECT_THAT(tokenizer.encode("hello  [L]!"), ElementsAre(259, 302, '!'));
  const std::vector<int32_t> plain = tokenizer.encode("<|end|>", SpecialTokens::kPlain);
  EXPECT_THAT(plain, ElementsAre('<', '|', 'e', 'n', 'd', '|', '>'));
  EXPECT_EQ(tokenizer.decode({259, 300, 301}), "hello<|end|><think>");
  EXPECT_EQ(tokenizer.decode({259, 300, 301}, true), "hello<think>");
}

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer tokenizer = make(hello_json());
  EXPECT_EQ(tokenizer.vocab_size(), 303);
  EXPECT_EQ(tokenizer.token_bytes(259), "hello");
  EXPECT_EQ(tokenizer.token_bytes(0), std::string_view("\0", 1));
  EXPECT_EQ(tokenizer.token_bytes(300), "<|end|>");
  EXPECT_EQ(tokenizer.token_id("<|end|>"), 300);
  EXPECT_EQ(tokenizer.token_id(" hello"), 260);
  EXPECT_EQ(tokenizer.token_id("goodbye"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(300) && !tokenizer.is_special(301) && tokenizer.is_added(301));
  EXPECT_FALSE(tokenizer.is_added(259));
  for (const int32_t id : {-1, 262, 299, 303, INT32_MAX, INT32_MIN}) {  // gaps and what lies outside
    EXPECT_FALSE(tokenizer.has_token(id));
    EXPECT_EQ(tokenizer.token_bytes(id), "");
    EXPECT_EQ(tokenizer.decode({id, 'h', id}), "h");
  }
}

TEST(Tokenizer, EveryByteStringRoundTripsUpToReplacementAndNfc) {
  nlohmann::json json = hello_json();
  json["normalizer"] = nullptr;
  const Tokenizer tokenizer = make(json);
  std::mt19937 random(11);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % (i % 2 ? 256 : 128));
    std::string expected;
    append_utf8_replacing(bytes, expected);
    for (const SpecialTokens special : {SpecialTokens::kParse, SpecialTokens::kPlain}) {
      ASSERT_EQ(tokenizer.decode(tokenizer.encode(bytes, special)), expected);
    }
  }
}

TEST(Tokenizer, InvalidUtf8BecomesReplacementCharacters) {
  const Tokenizer tokenizer = make(hello_json());
  EXPECT_EQ(tokenizer.encode("a\xE4\xB8z"), tokenizer.encode("a\uFFFDz"));
  EXPECT_EQ(tokenizer.decode({'a', 0xE4, 0xB8, 'z', 0xFF}), "a\uFFFDz\uFFFD");
}

TEST(StreamDecoder, HoldsBackWhatIsIncomplete) {
  const Tokenizer tokenizer = make(hello_json());
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.next(259), "hello");
  EXPECT_EQ(stream.next(0xF0), "");
  EXPECT_EQ(stream.next(0x9F), "");
  EXPECT_EQ(stream.next(0x91), "");
  EXPECT_EQ(stream.next(0x8D), "\U0001F44D");
  EXPECT_EQ(stream.next(0xE4), "");
  EXPECT_EQ(stream.next('a'), "\uFFFDa");
  EXPECT_EQ(stream.next(0xC3), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

TEST(StreamDecoder, EqualsDecodeOnRandomIds) {
  const Tokenizer tokenizer = make(hello_json());
  std::mt19937 random(13);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids(random() % 30);
    for (int32_t& id : ids) id = random() % 2 ? 0x80 + random() % 0x80 : random() % 304;
    for (const bool skip_special : {false, true}) {
      StreamDecoder stream(tokenizer, skip_special);
      std::string text;
      for (const int32_t id : ids) text += stream.next(id);
      ASSERT_EQ(text + stream.finish(), tokenizer.decode(ids, skip_special));
    }
  }
}

TEST(Tokenizer, AddedTokensMayMatchNormalizedText) {
  nlohmann::json json = hello_json();
  json["added_tokens"].push_back(testing::added_token(303, "e\u0301 !"));
  json["added_tokens"][3]["normalized"] = true;
  const Tokenizer tokenizer = make(json);
  EXPECT_THAT(tokenizer.encode("he\u0301 !"), ElementsAre('h', 303));
  EXPECT_THAT(tokenizer.encode("h\u00e9 !"), ElementsAre('h', 303));
  EXPECT_EQ(tokenizer.decode({303}), "\u00e9 !");
}

TEST(Tokenizer, AnAddedTokenOfAlphabetCharactersDecodesAsTheLibraryDoes) {
  nlohmann::json json = hello_json();
  json["added_tokens"].push_back(testing::added_token(303, "<\u0120\u0121>"));
  EXPECT_EQ(make(json).decode({303}), "< \x7F>");
}

TEST(Tokenizer, AnAddedTokenMayAlsoBeInTheVocabulary) {
  nlohmann::json json = hello_json();
  json["model"]["vocab"]["<|end|>"] = 300;
  json["model"]["vocab"]["\u4e2d \u6587"] = 304;  // not of the byte alphabet: allowed for an added token
  json["added_tokens"].push_back(testing::added_token(304, "\u4e2d \u6587"));
  const Tokenizer tokenizer = make(json);
  EXPECT_THAT(tokenizer.encode("<|end|>\u4e2d \u6587"), ElementsAre(300, 304));
}

TEST(Tokenizer, ThreadsMayShareIt) {
  const Tokenizer tokenizer = make(hello_json());
  const std::vector<int32_t> expected = make(hello_json()).encode("hello hell he \u00e9 hello<|end|>");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) ASSERT_EQ(tokenizer.encode("hello hell he \u00e9 hello<|end|>"), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Tokenizer, LongHostileTextsTakeLinearTime) {
  const Tokenizer tokenizer = make(hello_json());
  for (const char* unit : {"a", " ", "\n", " \n ", "\u0301\u0323", "<|end", "<|end|>", "'", "\xFF", "hello"}) {
    std::string text;
    while (text.size() < 500'000) text += unit;
    const std::vector<int32_t> ids = tokenizer.encode(text);
    EXPECT_FALSE(ids.empty()) << unit;
  }
}

}  // namespace
}  // namespace qnext
