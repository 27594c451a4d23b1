#include "convert/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

/// Both lists of tensors name the same roles, with as many parameters in each.
TEST(Recipe, EveryTensorHasARoleInBothForms) {
  const ModelConfig config = testing::tiny_config();
  const StoredParts parts{.mtp = true};
  const auto sizes = [](const std::vector<StoredTensor>& tensors) {
    std::array<int64_t, kRoles> result{};
    for (const StoredTensor& tensor : tensors) {
      result[static_cast<size_t>(role_of(tensor))] += tensor.row_count() * tensor.cols();
    }
    return result;
  };
  const auto gguf = sizes(gguf_tensors(config, parts));
  EXPECT_EQ(gguf, sizes(hugging_face_tensors(config, parts)));
  for (int role = 0; role < kRoles; ++role) EXPECT_GT(gguf[role], 0) << role_name(static_cast<Role>(role));
  // Experts: gate and up have twice the parameters of down.
  EXPECT_EQ(gguf[static_cast<size_t>(Role::kExpertsGateUp)], 2 * gguf[static_cast<size_t>(Role::kExpertsDown)]);
}

TEST(Recipe, PresetsRiseAndKeepDownNoLowerThanGateAndUp) {
  double last = 0;
  for (const Recipe& recipe : recipes()) {
    const auto bits = [&](Role role) {
      return 8.0 * static_cast<double>(block_bytes(recipe[role])) / static_cast<double>(block_elements(recipe[role]));
    };
    EXPECT_GE(bits(Role::kExpertsDown), bits(Role::kExpertsGateUp)) << recipe.name;
    EXPECT_GE(bits(Role::kAttention), 6) << recipe.name;
    EXPECT_EQ(recipe[Role::kRouter], DType::kF32);
    EXPECT_EQ(recipe[Role::kSmall], DType::kF32);
    const double mean = 2 * bits(Role::kExpertsGateUp) + bits(Role::kExpertsDown);
    EXPECT_GT(mean, last) << recipe.name;
    last = mean;
  }
}

TEST(Recipe, NamesAndOverrides) {
  EXPECT_EQ(find_recipe("q5")[Role::kExpertsDown], DType::kQ5_K);
  EXPECT_EQ(find_recipe("iq4_xs")[Role::kHead], DType::kIQ4_XS);
  EXPECT_EQ(find_recipe("bf16")[Role::kGates], DType::kBF16);
  Recipe recipe = find_recipe("q4s");
  apply_override(recipe, "head=q8_0");
  EXPECT_EQ(recipe[Role::kHead], DType::kQ8_0);
  for (const char* bad : {"head", "head=Q9", "heads=Q8_0", "=", ""}) {
    EXPECT_THROW(apply_override(recipe, bad), Error) << bad;
  }
  try {
    find_recipe("q9");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("q4s, q5"));
  }
}

TEST(Recipe, TypesThatDoNotFitFallBackWithoutMoreError) {
  EXPECT_EQ(type_that_fits(DType::kQ4_K, 512), DType::kQ4_K);
  EXPECT_EQ(type_that_fits(DType::kQ4_K, 96), DType::kQ4_1);
  EXPECT_EQ(type_that_fits(DType::kQ6_K, 32), DType::kQ8_0);
  EXPECT_EQ(type_that_fits(DType::kIQ4_XS, 128), DType::kIQ4_NL);
  EXPECT_EQ(type_that_fits(DType::kQ8_0, 40), DType::kBF16);
  EXPECT_EQ(type_that_fits(DType::kF16, 40), DType::kF16);
  for (const DType dtype : kAllDTypes) {
    for (const int64_t cols : {1, 32, 40, 96, 256}) EXPECT_EQ(cols % block_elements(type_that_fits(dtype, cols)), 0);
  }
}

}  // namespace
}  // namespace qnext
