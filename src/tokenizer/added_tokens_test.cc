#include "tokenizer/added_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qnext {
namespace {

using ::testing::ElementsAre;

/// Text between tokens as it is, tokens as #id.
std::vector<std::string> split(const AddedTokenMatcher& matcher, std::string_view text) {
  std::vector<std::string> parts;
  matcher.split(
      text, [&](std::string_view part) { parts.emplace_back(part); },
      [&](int32_t id) { parts.push_back("#" + std::to_string(id)); });
  return parts;
}

AddedTokenMatcher matcher_of(const std::vector<std::string>& texts, bool strip_left = false,
                             bool strip_right = false) {
  std::vector<AddedTokenMatcher::Token> tokens;
  for (const std::string& text : texts)
    tokens.push_back({text, static_cast<int32_t>(tokens.size()), strip_left, strip_right});
  return AddedTokenMatcher(std::move(tokens));
}

TEST(AddedTokens, LeftmostThenLongest) {
  const AddedTokenMatcher matcher = matcher_of({"<a", "<a>", "<ab>", "ab>x", "\u00e9"});
  EXPECT_THAT(split(matcher, "1<a>2"), ElementsAre("1", "#1", "2"));
  EXPECT_THAT(split(matcher, "<ab>x"), ElementsAre("#2", "x"));
  EXPECT_THAT(split(matcher, "<ab"), ElementsAre("#0", "b"));
  EXPECT_THAT(split(matcher, "<<a>\u00e9\u00e9<"), ElementsAre("<", "#1", "#4", "#4", "<"));
  EXPECT_THAT(split(matcher, "none"), ElementsAre("none"));
  EXPECT_THAT(split(matcher, ""), ElementsAre());
}

TEST(AddedTokens, WithoutTokensAllIsText) { EXPECT_THAT(split(matcher_of({}), "a <b>"), ElementsAre("a <b>")); }

TEST(AddedTokens, StrippingTakesSpacesButNoneThatATokenTook) {
  EXPECT_THAT(split(matcher_of({"<m>"}, true, false), "a \u3000\n<m> b"), ElementsAre("a", "#0", " b"));
  EXPECT_THAT(split(matcher_of({"<m>"}, false, true), "a <m> \u3000\nb"), ElementsAre("a ", "#0", "b"));
  EXPECT_THAT(split(matcher_of({"<m>"}, true, true), "  <m>  <m>  "), ElementsAre("#0", "#0"));
}

TEST(AddedTokens, ATokenOfSpacesInALongRunIsNotQuadratic) {
  const std::string text(300'000, ' ');
  EXPECT_EQ(split(matcher_of({" "}, true, true), text).size(), text.size());
  const std::vector<std::string> long_token = {std::string(AddedToken::kMaxBytes - 1, ' ') + "x"};
  EXPECT_THAT(split(matcher_of(long_token), text), ElementsAre(text));
}

}  // namespace
}  // namespace qnext
