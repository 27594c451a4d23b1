#include "tokenizer/normalizer.h"

#include <gtest/gtest.h>

#include <random>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace qnext {
namespace {

std::string nfc(std::string_view text) {
  std::string storage;
  return std::string(normalize_nfc(text, storage));
}

TEST(Normalizer, GivesBackTextThatCannotChange) {
  for (const std::string text :
       {"", "plain ASCII, long enough for a word", "caf\u00e9 \u4e2d\u6587 \u0e01\u0e32 \U0001F44D"}) {
    std::string storage;
    EXPECT_EQ(normalize_nfc(text, storage).data(), text.data()) << text;
  }
}

TEST(Normalizer, ComposesAndOrders) {
  EXPECT_EQ(nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(nfc("xe\u0301y e\u0301"), "x\u00e9y \u00e9");
  EXPECT_EQ(nfc("s\u0307\u0323"), "\u1e69");  // marks ordered, then both composed
  EXPECT_EQ(nfc("x\u0345\u0301\u0334"), "x\u0334\u0301\u0345");
  EXPECT_EQ(nfc("\u212b"), "\u00c5");              // singleton
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093c");        // composition exclusion
  EXPECT_EQ(nfc("\u1100\u1161\u11a8"), "\uac01");  // Hangul
  EXPECT_EQ(nfc("\u0301e"), "\u0301e");            // nothing before to join
}

TEST(Normalizer, LeavesWhatIsNewerThanTheLibrarysTables) {
  EXPECT_EQ(nfc("\U00011935\U00011930"), "\U00011935\U00011930");  // composes since Unicode 13
  EXPECT_EQ(nfc("a\u1df6\u0323"), "a\u1df6\u0323");                // a mark since Unicode 10: keeps its place
  EXPECT_EQ(nfc("\U000105d2\u0307"), "\U000105d2\u0307");          // composes since Unicode 16
}

TEST(Normalizer, IsIdempotentOnRandomMarks) {
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) {
      const uint32_t ranges[][2] = {{0x41, 0x80}, {0x300, 0x370}, {0x900, 0x980}, {0x1100, 0x1200}, {0x3040, 0x30A0}};
      const auto& [low, high] = ranges[random() % 5];
      append_utf8(low + random() % (high - low), text);
    }
    const std::string once = nfc(text);
    ASSERT_EQ(nfc(once), once) << text;
  }
}

TEST(Normalizer, OrdersALongRunOfMarksInReasonableTime) {
  std::string marks = "a", ordered = "\u1ea1";  // the first dot below composes
  constexpr int kCount = 200'000;
  for (int i = 0; i < kCount; ++i) marks += "\u0301\u0323";
  for (int i = 1; i < kCount; ++i) ordered += "\u0323";
  for (int i = 0; i < kCount; ++i) ordered += "\u0301";
  EXPECT_TRUE(nfc(marks) == ordered);
}

TEST(Unicode, ClassesOfWellKnownCharacters) {
  using enum CharacterClass;
  for (const uint32_t c : {0x61u, 0xAAu, 0x3B1u, 0x4E2Du, 0xAC00u, 0xE01u, 0x17Fu, 0x32000u})
    EXPECT_EQ(character_class(c), kLetter);
  for (const uint32_t c : {0x30u, 0xB2u, 0xBDu, 0x2167u, 0x966u, 0x3007u}) EXPECT_EQ(character_class(c), kNumber);
  for (const uint32_t c : {0x09u, 0x0Bu, 0x20u, 0x85u, 0xA0u, 0x2028u, 0x3000u})
    EXPECT_EQ(character_class(c), kSpace);
  for (const uint32_t c : {0x21u, 0x1Cu, 0x301u, 0x94Du, 0x180Eu, 0x200Bu, 0xFEFFu, 0x1F44Du, 0xE0001u, 0x10FFFFu}) {
    EXPECT_EQ(character_class(c), kOther);
  }
}

}  // namespace
}  // namespace qnext
