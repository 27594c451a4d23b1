#include "model/parameter_array.h"

#include <gtest/gtest.h>

#include "backend/cpu/cpu_backend.h"
#include "base/cpu.h"
#include "base/thread_pool.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

class ParameterArrayTest : public ::testing::Test {
 protected:
  const std::unique_ptr<Backend> backend_ = make_cpu_backend(std::make_shared<ThreadPool>(1), Isa::kScalar, ActivationPrecision::kF32);
  ModelConfig config_ = testing::tiny_config();
};

TEST_F(ParameterArrayTest, WeightsAreViewsOfTheirParameters) {
  for (const bool tied : {false, true}) {
    for (const bool mtp : {false, true}) {
      config_.tie_word_embeddings = tied;
      const ParameterArray array(config_, mtp, *backend_);
      size_t i = 0;
      const auto check = [&](const std::string& name, const void* data, int64_t size) {
        ASSERT_LT(i, array.parameters().size()) << name;
        const ParameterInfo& p = array.parameters()[i++];
        EXPECT_EQ(p.name, name);
        EXPECT_EQ(p.size(), size) << name;
        EXPECT_EQ(static_cast<const void*>(array.of(p).data()), data) << name;
      };
      for_each_parameter(array.weights(), {[&](const std::string& name, const Matrix& m) { check(name, m.data, m.rows * m.cols); },
                                           [&](const std::string& name, const Vector& v) { check(name, v.data, v.size); }});
      EXPECT_EQ(i, array.parameters().size());
      EXPECT_EQ(array.weights().lm_head.data == array.weights().embedding.data, tied);
      EXPECT_EQ(array.find("lm_head.weight") == nullptr, tied);
    }
  }
}

TEST_F(ParameterArrayTest, SomeOfTheExperts) {
  const ParameterArray all(config_, true, *backend_);
  const int64_t half = config_.num_experts / 2;
  const ParameterArray first(config_, true, *backend_, {0, half}), second(config_, true, *backend_, {half, 2 * half});
  ASSERT_EQ(first.parameters().size(), second.parameters().size());
  size_t experts = 0;
  int64_t shared = 0;
  for (size_t i = 0; i < second.parameters().size(); ++i) {
    const ParameterInfo &a = first.parameters()[i], &b = second.parameters()[i];
    EXPECT_EQ(a.offset, b.offset);
    ASSERT_NE(all.find(a.name), nullptr) << a.name;
    ASSERT_NE(all.find(b.name), nullptr) << b.name;
    EXPECT_EQ(all.find(b.name)->size(), b.size());
    EXPECT_EQ(b.expert >= 0, b.name.find(".experts.") != b.name.npos) << b.name;
    if (b.expert < 0) {
      EXPECT_EQ(a.name, b.name);
      shared += a.size();
      continue;
    }
    ++experts;
    EXPECT_EQ(a.expert + half, b.expert);
    EXPECT_NE(b.name.find(fmt::format(".experts.{}.", b.expert)), b.name.npos) << b.name;
  }
  EXPECT_GT(experts, 0u);
  EXPECT_EQ(first.count() + second.count(), all.count() + shared);
}

}  // namespace
}  // namespace qnext
