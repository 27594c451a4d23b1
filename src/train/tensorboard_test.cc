#include "train/tensorboard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "train/testing/synthetic_run.h"

namespace qnext {
namespace {

// RFC 3720, B.4, and the check value of the CRC catalogues.
TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i);
  EXPECT_EQ(crc32c(ascending), 0x46DD794Eu);
}

TEST(Crc32c, MaskTurnsByFifteenBitsAndAdds) {
  const uint32_t crc = crc32c("123456789");
  EXPECT_EQ(masked_crc32c("123456789"), ((crc >> 15) | (crc << 17)) + 0xA282EAD8u);
}

TEST(TfRecord, FramesTheBytes) {
  const std::string record = tfrecord("abc");
  ASSERT_EQ(record.size(), 8 + 4 + 3 + 4);
  uint64_t length = 0;
  uint32_t length_crc = 0, crc = 0;
  std::memcpy(&length, record.data(), 8);
  std::memcpy(&length_crc, record.data() + 8, 4);
  std::memcpy(&crc, record.data() + 15, 4);
  EXPECT_EQ(length, 3u);
  EXPECT_EQ(length_crc, masked_crc32c(std::string_view("\x03\0\0\0\0\0\0\0", 8)));
  EXPECT_EQ(record.substr(12, 3), "abc");
  EXPECT_EQ(crc, masked_crc32c("abc"));
}

TEST(TensorBoardWriter, WholeRecordsAndOneFilePerSitting) {
  const auto directory = std::filesystem::temp_directory_path() / ("qnext_tensorboard_" + std::to_string(getpid()));
  const SyntheticRun run({.steps = 10});
  const auto records_of = [](const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream all;
    all << file.rdbuf();
    const std::string bytes = all.str();
    int records = 0;
    for (size_t at = 0; at < bytes.size(); ++records) {
      uint64_t length = 0;
      std::memcpy(&length, bytes.data() + at, 8);
      EXPECT_EQ(bytes.substr(at, 16 + length), tfrecord(bytes.substr(at + 12, length)));
      at += 16 + length;
    }
    return records;
  };
  std::filesystem::path first, second;
  {
    TensorBoardWriter writer(directory, 0);
    first = writer.path();
    writer.begin(run.report());
    writer.step(run.step(1));
    EXPECT_EQ(records_of(first), 3);  // version, configuration, step: already in the file
  }
  usleep(2000);
  {
    TensorBoardWriter writer(directory, 1);
    second = writer.path();
    EXPECT_EQ(records_of(second), 2);  // version, start of a session
  }
  EXPECT_NE(first, second);
  EXPECT_LT(first, second);
  EXPECT_TRUE(std::filesystem::exists(first));
  usleep(2000);
  const TensorBoardWriter anew(directory, 0);
  EXPECT_FALSE(std::filesystem::exists(first));
  EXPECT_FALSE(std::filesystem::exists(second));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace qnext
