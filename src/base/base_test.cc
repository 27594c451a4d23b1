#include <gtest/gtest.h>

#include "base/error.h"
#include "base/mapped_file.h"

namespace qnext {
namespace {

TEST(Error, NamesFileFieldExpectedAndFound) {
  const FileError error("config.json", "head_dim", "a positive integer", "0");
  EXPECT_STREQ(error.what(), "config.json: head_dim: expected a positive integer, found 0");
}

TEST(Error, QuotedEscapesControlAndInvalidBytesAndCuts) {
  EXPECT_EQ(quoted("a\nb"), "\"a\\x0ab\"");
  EXPECT_EQ(quoted("\xC3\xA9\xFF"), "\"\xC3\xA9\\xff\"");
  EXPECT_EQ(quoted("abcdef", 3), "\"abc\"...");
}

TEST(MappedFile, RefusesWhatIsNotAFile) {
  EXPECT_THROW(MappedFile("/"), Error);
  EXPECT_THROW(MappedFile("/nonexistent/file"), Error);
  EXPECT_THROW(read_text_file(QNEXT_SOURCE_DIR "/LICENSE", 10), FileError);
}

TEST(MappedFile, MapsTheWholeFile) {
  const MappedFile file(QNEXT_SOURCE_DIR "/LICENSE");
  const std::string text = read_text_file(file.path(), 1 << 20);
  ASSERT_EQ(file.bytes().size(), text.size());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.bytes().data()), text.size()), text);
}

}  // namespace
}  // namespace qnext
