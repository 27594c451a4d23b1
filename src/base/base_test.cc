#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "base/cpu.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/testing/temporary_directory.h"

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

TEST(Cpu, ForcedSetsHoldInstructionsForBf16Back) {
  const char* before = std::getenv("QNEXT_ISA");
  const std::string kept = before == nullptr ? "" : before;
  unsetenv("QNEXT_ISA");
  EXPECT_EQ(chosen_bf16(), detect_bf16());
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    setenv("QNEXT_ISA", std::string(isa_name(isa)).c_str(), 1);
    if (isa > detect_isa()) {
      EXPECT_THROW(chosen_bf16(), Error);
      continue;
    }
    EXPECT_LE(chosen_bf16(), isa < Isa::kAvx512 ? Bf16::kNone : isa < Isa::kAmx ? Bf16::kAvx512 : Bf16::kAmx);
  }
  if (before == nullptr) unsetenv("QNEXT_ISA");
  else setenv("QNEXT_ISA", kept.c_str(), 1);
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

TEST(ReadTextFile, ReadsPipesToTheirEndAndNoFurtherThanAsked) {
  std::signal(SIGPIPE, SIG_IGN);  // the second reader leaves early
  const testing::TemporaryDirectory directory;
  const std::filesystem::path pipe = directory.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const std::string text(3 << 20, 'x');
  for (size_t limit : {text.size(), text.size() - 1}) {
    std::thread writer([&] { std::ofstream(pipe) << text; });
    if (limit == text.size()) {
      EXPECT_EQ(read_text_file(pipe, limit, Pipes::kAllowed), text);
    } else {
      EXPECT_THROW(read_text_file(pipe, limit, Pipes::kAllowed), FileError);
    }
    writer.join();
  }
}

}  // namespace
}  // namespace qnext
