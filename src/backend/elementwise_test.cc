// Operations on single values and rows: exponentials, norms, gates, rotations.
#include "backend/testing/cases.h"

namespace qnext {
namespace {

using testing::Random;
using testing::relative_max;
using testing::same_bits;
using testing::Table;

class ElementwiseTest : public ::testing::TestWithParam<Isa> {
 protected:
  const Kernels& kernels_ = kernels_for(GetParam());
  const std::unique_ptr<Backend> backend_ = make_cpu_backend(2, GetParam());
};

TEST_P(ElementwiseTest, ExpOverAllFloats) {
  testing::Worst worst("relative_error");
  // Every 997th float, both signs: 4.3 million values, all exponents.
  std::vector<float> x, y;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 997) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (!std::isnan(value)) x.push_back(value);
  }
  for (double value = -104.5; value < 89.0; value += 1e-4) x.push_back(static_cast<float>(value));
  y = x;
  kernels_.exp(y.data(), static_cast<int64_t>(y.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i]));
    if (expected > 3.4028235677973366e38) {  // rounds to infinity
      ASSERT_EQ(y[i], INFINITY) << x[i];
    } else if (expected < 0x1p-126) {  // subnormal: within a unit of the last place
      ASSERT_NEAR(y[i], expected, 0x1p-149) << x[i];
    } else {
      ASSERT_LT(worst(std::fabs(y[i] - expected) / expected), 2e-7) << x[i];
    }
  }
  float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e30f, -1e30f};
  kernels_.exp(special, std::size(special));
  EXPECT_TRUE(std::isnan(special[0]));
  EXPECT_EQ(special[1], INFINITY);
  EXPECT_EQ(special[2], 0.0f);
  EXPECT_EQ(special[3], 1.0f);
  EXPECT_EQ(special[4], 1.0f);
  EXPECT_EQ(special[5], INFINITY);
  EXPECT_EQ(special[6], 0.0f);
}

TEST_P(ElementwiseTest, SiluAndSigmoidMultiply) {
  testing::Worst worst("relative_error");
  for (int64_t n = 0; n <= 67; ++n) {
    Random random(static_cast<uint64_t>(n));
    std::vector<float> x = random.vector(n, -30.0, 30.0), other = random.vector(n, -2.0, 2.0), silu = x,
                       sigmoid = other;
    kernels_.silu_multiply(silu.data(), other.data(), n);
    kernels_.sigmoid_multiply(sigmoid.data(), x.data(), n);
    for (size_t i = 0; i < x.size(); ++i) {
      const double s = testing::sigmoid(x[i]), gated = x[i] * s * other[i], scaled = s * other[i];
      // exp 1e-7, then a sum, a quotient and a product of 6e-8 each
      EXPECT_LT(worst(std::fabs(silu[i] - gated) / std::fabs(gated)), 4e-7);
      EXPECT_LT(worst(std::fabs(sigmoid[i] - scaled) / std::fabs(scaled)), 4e-7);
    }
  }
  float gate[] = {100.0f, -100.0f, 1e30f, -1e30f, 0.0f, NAN, 1.0f}, up[] = {2.0f, 2.0f, 2.0f, 2.0f, 2.0f, 2.0f, NAN};
  float x[] = {2.0f, 2.0f, 2.0f, 2.0f, 2.0f, 2.0f, NAN};
  kernels_.sigmoid_multiply(x, gate, 7);
  kernels_.silu_multiply(gate, up, 7);
  const float silu[] = {200.0f, 0.0f, 2e30f, 0.0f, 0.0f}, sigmoid[] = {2.0f, 0.0f, 2.0f, 0.0f, 1.0f};
  for (int i = 0; i < 5; ++i) {
    EXPECT_NEAR(gate[i], silu[i], std::fabs(silu[i]) * 1e-6 + 1e-38) << i;
    EXPECT_NEAR(x[i], sigmoid[i], 1e-38) << i;
  }
  EXPECT_TRUE(std::isnan(gate[5]) && std::isnan(gate[6]) && std::isnan(x[5]) && std::isnan(x[6]));
}

TEST_P(ElementwiseTest, RowNorms) {
  testing::Worst worst("relative_max");
  Random random(1);
  for (const int64_t n : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 67, 128, 256, 2048}) {
    const std::vector<float> gain = random.vector(n, -0.5, 0.5);
    Table x(random, 3, n), z(random, 3, 2 * n, -5.0, 5.0), out(3, n), gated(random, 3, 2 * n), unit(random, 3, 2 * n);
    Table before = gated, before_unit = unit;
    std::fill_n(x.row(1), n, 0.0f);
    std::fill_n(before_unit.row(1), n, 0.0f);
    std::fill_n(unit.row(1), n, 0.0f);
    backend_->rms_norm(x, {gain.data(), n}, 1e-6, out);
    backend_->gated_rms_norm(gated, z, {gain.data(), n}, 1e-6, gated);
    backend_->l2_norm(unit, n, 0.25f);
    std::vector<double> normed, gated_expected, unit_expected;
    const auto squares = [&](const float* row) {
      double sum = 0.0;
      for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(row[i]) * row[i];
      return sum;
    };
    for (int64_t t = 0; t < 3; ++t) {
      const double scale = 1.0 / std::sqrt(squares(x.row(t)) / static_cast<double>(n) + 1e-6);
      for (int64_t i = 0; i < n; ++i) normed.push_back(x.row(t)[i] * scale * (1.0 + gain[static_cast<size_t>(i)]));
      for (int64_t h = 0; h < 2; ++h) {
        const float *g = before.row(t) + h * n, *u = before_unit.row(t) + h * n;
        const double head = 1.0 / std::sqrt(squares(g) / static_cast<double>(n) + 1e-6),
                     length = std::sqrt(squares(u) + 1e-6);
        for (int64_t i = 0; i < n; ++i) {
          const double zi = z.row(t)[h * n + i];
          gated_expected.push_back(g[i] * head * gain[static_cast<size_t>(i)] * zi * testing::sigmoid(zi));
          unit_expected.push_back(u[i] * 0.25 / length);
        }
      }
    }
    // 2,048 squares in one order, a root, a quotient and three products
    EXPECT_LT(worst(relative_max(out.values(), normed)), 5e-6) << n;
    EXPECT_LT(worst(relative_max(gated.values(), gated_expected)), 5e-6) << n;
    EXPECT_LT(worst(relative_max(unit.values(), unit_expected)), 5e-6) << n;
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(unit.row(1)[i], 0.0f);  // not NaN
    EXPECT_TRUE(out.intact() && gated.intact() && unit.intact());
  }
}

TEST_P(ElementwiseTest, GoldenNorms) {
  std::vector<float> x = {1.0f, -2.0f, 3.0f, 0.5f};
  const std::vector<float> w = {0.1f, -0.2f, 0.0f, 0.5f}, gain = {1.1f, 0.9f, 1.0f, 0.8f};
  std::vector<float> z = {0.2f, -1.0f, 2.0f, 0.0f}, out(4);
  backend_->rms_norm({x.data(), 1, 4, 4}, {w.data(), 4}, 1e-6, {out.data(), 1, 4, 4});
  EXPECT_LT(relative_max(out, {0.582794155, -0.847700590, 1.589438605, 0.397359651}), 2e-7);
  backend_->gated_rms_norm({x.data(), 1, 4, 4}, {z.data(), 1, 4, 4}, {gain.data(), 4}, 1e-6, {x.data(), 1, 4, 4});
  EXPECT_LT(relative_max(x, {0.064088008, 0.256479527, 2.799945759, 0.0}), 2e-7);
}

TEST_P(ElementwiseTest, HeadNormAndPartialRope) {
  for (const auto& [dim, pairs] : {std::pair<int64_t, int64_t>{8, 2}, {20, 3}, {64, 32}, {256, 32}, {256, 17}}) {
    Random random(2);
    const std::vector<float> gain = random.vector(dim, -0.5, 0.5);
    Table x(random, 4, 3 * dim), cos(4, pairs), sin(4, pairs), before = x;
    std::vector<double> expected;
    for (int64_t t = 0; t < 4; ++t) {
      for (int64_t j = 0; j < pairs; ++j) {
        const double angle =
            static_cast<double>(t * 100) * std::pow(1e7, -static_cast<double>(j) / static_cast<double>(pairs));
        cos.row(t)[j] = static_cast<float>(std::cos(angle));
        sin.row(t)[j] = static_cast<float>(std::sin(angle));
      }
      for (int64_t h = 0; h < 3; ++h) {
        const float* head = before.row(t) + h * dim;
        double squares = 0.0;
        for (int64_t i = 0; i < dim; ++i) squares += static_cast<double>(head[i]) * head[i];
        std::vector<double> normed;
        for (int64_t i = 0; i < dim; ++i) {
          normed.push_back(head[i] / std::sqrt(squares / static_cast<double>(dim) + 1e-6) *
                           (1.0 + gain[static_cast<size_t>(i)]));
        }
        for (int64_t i = 0; i < dim; ++i) {
          const auto at = [&](int64_t d) { return normed[static_cast<size_t>(d)]; };
          expected.push_back(i < pairs       ? at(i) * cos.row(t)[i] - at(i + pairs) * sin.row(t)[i]
                             : i < 2 * pairs ? at(i) * cos.row(t)[i - pairs] + at(i - pairs) * sin.row(t)[i - pairs]
                                             : at(i));
        }
      }
    }
    backend_->head_norm_rope(x, dim, {gain.data(), dim}, 1e-6, cos, sin, x);
    EXPECT_LT(relative_max(x.values(), expected), 3e-6) << dim;
    EXPECT_TRUE(x.intact());
  }
  // The golden vector: head of 8, 4 rotated, base 1e7, position 3; rope alone.
  std::vector<float> x = {1, 2, 3, 4, 5, 6, 7, 8};
  const double slow = 3.0 * std::pow(1e7, -0.5);
  const float cosines[] = {static_cast<float>(std::cos(3.0)), static_cast<float>(std::cos(slow))};
  const float sines[] = {static_cast<float>(std::sin(3.0)), static_cast<float>(std::sin(slow))};
  kernels_.rope(x.data(), cosines, sines, 2);
  EXPECT_LT(relative_max(x, {-1.413352521, 1.996204367, -2.828857482, 4.001895566, 5, 6, 7, 8}), 1e-7);
}

TEST_P(ElementwiseTest, DeltaGates) {
  const std::vector<float> a_log = {0.0f, 2.77f, -3.0f}, dt_bias = {0.0f, -4.0f, 1.0f};
  const float inputs[] = {0.0f, 1.0f, -1.0f, 19.9f, 20.1f, -50.0f, 100.0f, -100.0f};
  Table a(8, 3), b(8, 3), beta(8, 3), log_decay(8, 3);
  for (int64_t t = 0; t < 8; ++t) std::fill_n(a.row(t), 3, inputs[t]), std::fill_n(b.row(t), 3, inputs[t]);
  backend_->delta_gates(b, a, {a_log.data(), 3}, {dt_bias.data(), 3}, beta, log_decay);
  for (int64_t t = 0; t < 8; ++t) {
    for (size_t h = 0; h < 3; ++h) {
      const double x = static_cast<double>(inputs[t]) + dt_bias[h];
      const double g = -std::exp(static_cast<double>(a_log[h])) * (x > 20.0 ? x : std::log1p(std::exp(x)));
      EXPECT_NEAR(log_decay.row(t)[h], g, 5e-7 * std::fabs(g) + 1e-40) << inputs[t];
      EXPECT_NEAR(beta.row(t)[h], testing::sigmoid(inputs[t]), 2e-7 * testing::sigmoid(inputs[t]) + 1e-38)
          << inputs[t];
    }
  }
}

TEST_P(ElementwiseTest, AddAndAddGated) {
  for (int64_t n = 1; n <= 67; ++n) {
    Random random(static_cast<uint64_t>(n));
    Table x(random, 2, n), y(random, 2, n), gate(random, 2, 1, -3.0, 3.0), sum = x, gated = y;
    backend_->add(sum, y, sum);
    backend_->add_gated(gated, x, gate);
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t i = 0; i < n; ++i) {
        EXPECT_EQ(sum.row(t)[i], x.row(t)[i] + y.row(t)[i]);
        EXPECT_NEAR(gated.row(t)[i], y.row(t)[i] + testing::sigmoid(gate.row(t)[0]) * x.row(t)[i], 4e-7);
      }
    }
    EXPECT_TRUE(sum.intact() && gated.intact());
  }
}

TEST_P(ElementwiseTest, AllFiniteSeesEveryElement) {
  for (int64_t n = 1; n <= 67; ++n) {
    Table x(3, n);
    for (int64_t t = 0; t < 3; ++t) std::fill_n(x.row(t), n, t == 0 ? 3.4e38f : -1e-45f);
    ASSERT_TRUE(backend_->all_finite(x));
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (int64_t i = 0; i < 3 * n; ++i) {
        const float kept = std::exchange(x.row(i % 3)[i / 3], bad);
        ASSERT_FALSE(backend_->all_finite(x)) << bad << " at " << i << " of " << n;
        x.row(i % 3)[i / 3] = kept;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, ElementwiseTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
