#include "convert/synth.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/testing/temporary_directory.h"
#include "convert/synth_blocks.h"
#include "formats/safetensors.h"
#include "model/weights.h"
#include "tensor/blocks.h"

namespace qnext {
namespace {

using testing::TemporaryDirectory;

constexpr int64_t kElements = 8 * kRandomUnit;

TEST(SynthBlocks, EveryTypeHasTheDeviationAskedForAndIsFinite) {
  for (const DType dtype : kAllDTypes) {
    if (dtype == DType::kF8E4M3) continue;
    SCOPED_TRACE(std::string(dtype_name(dtype)));
    const RandomTensor tensor{.dtype = dtype, .elements = kElements, .scale = 0.02, .stream = 7};
    std::vector<std::byte> bytes(static_cast<size_t>(bytes_of(dtype, kElements)));
    fill_random(tensor, 0, kElements, bytes);
    std::vector<float> values(kElements);
    decode(dtype, bytes.data(), kElements, values.data());
    double sum = 0, squares = 0;
    for (const float x : values) {
      ASSERT_TRUE(std::isfinite(x));
      sum += x;
      squares += x * x;
    }
    const double deviation = std::sqrt(squares / kElements);
    // MXFP4's scale is a power of two: within a factor of sqrt(2). The others: 32,768 draws (128 blocks of a K type)
    // and a scale of half precision.
    const double tolerance = dtype == DType::kMXFP4 ? std::sqrt(2.0) : 1.06;
    EXPECT_GT(deviation, 0.02 / tolerance);
    EXPECT_LT(deviation, 0.02 * tolerance);
    EXPECT_LT(std::fabs(sum / kElements), 0.02 * 0.03);
  }
}

TEST(SynthBlocks, ElementsDependOnTheirIndexAlone) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_K, DType::kQ6_K, DType::kMXFP4}) {
    const RandomTensor tensor{.dtype = dtype, .elements = kElements, .scale = 0.02, .stream = 7};
    std::vector<std::byte> whole(static_cast<size_t>(bytes_of(dtype, kElements))), part(whole.size() / 4);
    fill_random(tensor, 0, kElements, whole);
    fill_random(tensor, kElements / 4, kElements / 4, part);
    EXPECT_EQ(std::memcmp(whole.data() + part.size(), part.data(), part.size()), 0) << dtype_name(dtype);
    RandomTensor other = tensor;
    other.stream = 8;
    fill_random(other, kElements / 4, kElements / 4, part);
    EXPECT_NE(std::memcmp(whole.data() + part.size(), part.data(), part.size()), 0) << dtype_name(dtype);
  }
}

TEST(Synth, DirectoriesBindAndDependOnTheSeedAlone) {
  const TemporaryDirectory directory;
  SynthOptions options{.config = preset_config("tiny"), .type = "BF16", .mtp = true, .threads = 1};
  const SynthResult result = synthesize(directory / "a", options);
  const ModelConfig config = load_config(directory / "a");
  const Weights weights = bind_weights(config, std::make_shared<const SafetensorsCheckpoint>(directory / "a"));
  EXPECT_TRUE(weights.mtp.has_value());
  EXPECT_EQ(count_parameters(config, weights).total, result.parameters);
  const auto text = [&](const char* name) { return read_text_file(directory / name / "model.safetensors", 1 << 30); };
  options.threads = 2;
  synthesize(directory / "b", options);
  EXPECT_EQ(text("a"), text("b"));
  options.seed = 2;
  synthesize(directory / "c", options);
  EXPECT_NE(text("a"), text("c"));
}

TEST(Synth, PresetsHaveEveryFourthLayerAttention) {
  const ModelConfig config = preset_config("80b");
  EXPECT_EQ(config.num_layers(), 48);
  EXPECT_EQ(std::count(config.layer_types.begin(), config.layer_types.end(), LayerKind::kFullAttention), 12);
  EXPECT_EQ(preset_config("80b", 8).num_layers(), 8);
}

TEST(Synth, RefusesWhatCannotBe) {
  const TemporaryDirectory directory;
  EXPECT_THROW(preset_config("90b"), Error);
  const SynthOptions blocks{.config = preset_config("tiny"), .type = "Q4_K", .threads = 1};
  EXPECT_THROW(synthesize(directory / "dir", blocks), Error);
  const SynthOptions unknown{.config = preset_config("tiny"), .type = "Q9", .threads = 1};
  EXPECT_THROW(synthesize(directory / "a.gguf", unknown), Error);
  EXPECT_FALSE(std::filesystem::exists(directory / "a.gguf"));
}

}  // namespace
}  // namespace qnext
