#include "tokenizer/utf8.h"

#include <gtest/gtest.h>

namespace qnext {
namespace {

const std::string kReplacement = "\xEF\xBF\xBD";

std::string replaced(std::string_view bytes) {
  std::string out;
  append_utf8_replacing(bytes, out);
  return out;
}

TEST(Utf8, KeepsWhatIsWellFormed) {
  const std::string text = "a\u00e9\u4e2d\U0001F44D\uFFFD\U0010FFFF";
  EXPECT_EQ(replaced(text), text);
}

TEST(Utf8, ReplacesEachMaximalSubpartOnce) {
  EXPECT_EQ(replaced("a\xFFz"), "a" + kReplacement + "z");
  EXPECT_EQ(replaced("\xE4\xB8"), kReplacement);
  EXPECT_EQ(replaced("\xE4\xB8z"), kReplacement + "z");
  EXPECT_EQ(replaced("\xF0\x9F\x91\xF0"), kReplacement + kReplacement);
  EXPECT_EQ(replaced("\xC0\x80"), kReplacement + kReplacement);                     // overlong
  EXPECT_EQ(replaced("\xED\xA0\x80"), kReplacement + kReplacement + kReplacement);  // surrogate
  EXPECT_EQ(replaced("\xF4\x90\x80\x80"), kReplacement + kReplacement + kReplacement + kReplacement);
}

TEST(Utf8, IncompleteTailIsWhatMoreBytesCouldComplete) {
  EXPECT_EQ(utf8_incomplete_tail(""), 0u);
  EXPECT_EQ(utf8_incomplete_tail("abc"), 0u);
  EXPECT_EQ(utf8_incomplete_tail("a\xC3"), 1u);
  EXPECT_EQ(utf8_incomplete_tail("a\xE4\xB8"), 2u);
  EXPECT_EQ(utf8_incomplete_tail("a\xF0\x9F\x91"), 3u);
  EXPECT_EQ(utf8_incomplete_tail("a\xF0\x9F\x91\x8D"), 0u);
  EXPECT_EQ(utf8_incomplete_tail("\xE0\x80"), 0u);  // can never become a character
  EXPECT_EQ(utf8_incomplete_tail("\x80\x80\x80\x80"), 0u);
}

TEST(Utf8, CharactersSurviveEncodingAndDecoding) {
  for (uint32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(code, text);
    const Utf8Character character = utf8_character(text, 0);
    ASSERT_EQ(character.code, code);
    ASSERT_EQ(character.size, text.size());
    ASSERT_TRUE(utf8_step(text, 0).valid);
  }
}

}  // namespace
}  // namespace qnext
