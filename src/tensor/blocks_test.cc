#include "tensor/blocks.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace qnext {
namespace {

/// tests/golden/blocks/TYPE.bin: random blocks, then what the gguf package decodes them to.
TEST(Blocks, DecodeEqualsTheGgufPackageBitForBit) {
  for (const DType dtype : kAllDTypes) {
    if (!is_block_type(dtype)) continue;
    const std::string path = fmt::format(QNEXT_SOURCE_DIR "/tests/golden/blocks/{}.bin", dtype_name(dtype));
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> content((std::istreambuf_iterator<char>(file)), {});
    constexpr int64_t kElements = 1024;
    const int64_t bytes = bytes_of(dtype, kElements);
    ASSERT_EQ(static_cast<int64_t>(content.size()), bytes + kElements * 4) << path;
    const auto* data = reinterpret_cast<const std::byte*>(content.data());
    std::vector<float> decoded(kElements), expected(kElements);
    decode(dtype, data, kElements, decoded.data());
    std::memcpy(expected.data(), data + bytes, kElements * 4);
    for (int64_t i = 0; i < kElements; ++i) {
      // -0 and 0 are one value: numpy and ggml differ there among themselves.
      EXPECT_EQ(std::bit_cast<uint32_t>(decoded[i] + 0.0f), std::bit_cast<uint32_t>(expected[i] + 0.0f))
          << dtype_name(dtype) << " element " << i << ": " << decoded[i] << " instead of " << expected[i];
      EXPECT_EQ(load_as_f32(data, dtype, i), decoded[i]);
    }
  }
}

}  // namespace
}  // namespace qnext
