#include "tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace qnext {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

std::vector<std::string> pieces(const PreTokenizer& pre_tokenizer, std::string_view text) {
  std::vector<std::string> result;
  pre_tokenizer.for_each_piece(text, [&](std::string_view piece) { result.emplace_back(piece); });
  return result;
}

std::vector<std::string> qwen(std::string_view text) { return pieces(PreTokenizer(std::string(kQwenPattern)), text); }

TEST(QwenPattern, WordsTakeOneCharacterBeforeThem) {
  EXPECT_THAT(qwen("Hello world"), ElementsAre("Hello", " world"));
  EXPECT_THAT(qwen("(a) \tb"), ElementsAre("(a", ")", " ", "\tb"));
  EXPECT_THAT(qwen("\u00e9t\u00e9\u3000\u4e2d\u6587"), ElementsAre("\u00e9t\u00e9", "\u3000\u4e2d\u6587"));
}

TEST(QwenPattern, NumbersStandAlone) {
  EXPECT_THAT(qwen("a12 3\u00bd"), ElementsAre("a", "1", "2", " ", "3", "\u00bd"));
}

TEST(QwenPattern, Contractions) {
  EXPECT_THAT(qwen("it's"), ElementsAre("it", "'s"));
  EXPECT_THAT(qwen("WE'VEx"), ElementsAre("WE", "'VE", "x"));
  EXPECT_THAT(qwen("'llama"), ElementsAre("'ll", "ama"));
  EXPECT_THAT(qwen("'lama"), ElementsAre("'lama"));
  EXPECT_THAT(qwen("x'\u017f"), ElementsAre("x", "'\u017f"));  // long s folds to s
  EXPECT_THAT(qwen("'"), ElementsAre("'"));
  EXPECT_THAT(qwen(" 's"), ElementsAre(" '", "s"));
}

TEST(QwenPattern, PunctuationTakesASpaceBeforeAndLineEndsAfter) {
  EXPECT_THAT(qwen("a ==\r\n\nb"), ElementsAre("a", " ==\r\n\n", "b"));
  EXPECT_THAT(qwen("\t=="), ElementsAre("\t", "=="));
  EXPECT_THAT(qwen("a\u0301b"), ElementsAre("a", "\u0301b"));  // a mark is no letter
}

TEST(QwenPattern, WhitespaceEndsAtTheLastLineEndOrLeavesOneSpaceToTheNextWord) {
  EXPECT_THAT(qwen("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(qwen("a   "), ElementsAre("a", "   "));
  EXPECT_THAT(qwen("a \n \n  b"), ElementsAre("a", " \n \n", " ", " b"));
  EXPECT_THAT(qwen("\n\nb"), ElementsAre("\n\n", "b"));
  EXPECT_THAT(qwen("  1"), ElementsAre(" ", " ", "1"));
  EXPECT_THAT(qwen("\u2003\u2003!"), ElementsAre("\u2003", "\u2003", "!"));
}

/// A string of characters on whose classes PCRE2 (Unicode 14) and the tables (16) agree.
std::string random_text(std::mt19937& random) {
  static constexpr uint32_t kRanges[][2] = {{0x20, 0x7F},     {0x20, 0x7F},     {0xA0, 0x250},     {0x300, 0x370},
                                            {0x391, 0x3A2},   {0x410, 0x450},   {0x5D0, 0x5EB},    {0x905, 0x94E},
                                            {0xE01, 0xE3B},   {0x2000, 0x200C}, {0x2150, 0x2189},  {0x3041, 0x3097},
                                            {0x4E00, 0x9FA6}, {0xAC00, 0xD7A4}, {0x1F600, 0x1F650}};
  static constexpr const char* kTexts[] = {" ",   "  ",      "\n", "\r\n",   "\t",    "'s",
                                           "'LL", "'\u017f", "'",  "\u3000", "\u0085"};
  std::string text;
  for (int i = 1 + random() % 24; i > 0; --i) {
    if (random() % 3 == 0) {
      text += kTexts[random() % std::size(kTexts)];
    } else {
      const auto& [low, high] = kRanges[random() % std::size(kRanges)];
      append_utf8(low + random() % (high - low), text);
    }
  }
  return text;
}

TEST(QwenPattern, ScannerEqualsPcre2OnRandomText) {
  const PreTokenizer scanner{std::string(kQwenPattern)};
  const PreTokenizer regex("(?:" + std::string(kQwenPattern) + ")");  // not the same text, so PCRE2's
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = random_text(random);
    ASSERT_THAT(pieces(scanner, text), ElementsAreArray(pieces(regex, text))) << quoted(text, 1000);
  }
}

TEST(PreTokenizer, AnyPatternIsolatesItsMatches) {
  EXPECT_THAT(pieces(PreTokenizer(R"(\d{1,3})"), "ab12345\u00e9"), ElementsAre("ab", "123", "45", "\u00e9"));
  EXPECT_THAT(pieces(PreTokenizer("x*"), "\u00e9xx"), ElementsAre("\u00e9", "xx"));  // empty matches only cut
  EXPECT_THAT(pieces(PreTokenizer("nothing"), "abc"), ElementsAre("abc"));
  EXPECT_THAT(pieces(PreTokenizer("a"), ""), ElementsAre());
}

TEST(PreTokenizer, RefusesAPatternThatDoesNotCompile) {
  try {
    PreTokenizer("(a");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("missing closing parenthesis at offset 2"));
  }
}

TEST(PreTokenizer, GivesUpOnAPatternThatExplodes) {
  EXPECT_THROW(pieces(PreTokenizer("(a+a+a+)+$"), std::string(200, 'a') + "b"), Error);
}

}  // namespace
}  // namespace qnext
