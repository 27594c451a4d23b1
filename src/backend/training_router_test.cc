// Gradients of norms over rows, of the router and of the shared expert's gate, against derivatives in double.
#include <fmt/format.h>

#include "backend/cpu/training_backend.h"
#include "backend/testing/gradients.h"

namespace qnext {
namespace {

using testing::Dual;
using testing::gradient_tolerance;
using testing::Random;
using testing::relative_rms;
using testing::same_bits;
using testing::Table;

class TrainingRouterTest : public ::testing::TestWithParam<Isa> {
 protected:
  const std::unique_ptr<TrainingBackend> backend_ = make_cpu_training_backend(2, GetParam());
  const double tolerance_ = gradient_tolerance(GetParam());
  testing::Worst worst_{"relative_rms"};
};

TEST_P(TrainingRouterTest, RmsNorm) {
  Random random(1);
  constexpr double kEps = 1e-3;
  for (const int64_t n : {1, 7, 32, 100, 257}) {
    for (const int64_t rows : {1, 63, 64, 65, 200}) {
      if (n > 100 && rows > 65) continue;
      Table x(random, rows, n, -2.0, 2.0), d_out(random, rows, n), before(random, rows, n);
      const std::vector<float> gain = random.vector(n), gain_before = random.vector(n);
      std::vector<double> expected, expected_gain(gain_before.begin(), gain_before.end());
      for (int64_t t = 0; t < rows; ++t) {
        const auto loss = [&](int64_t moved_x, int64_t moved_gain) {
          Dual squares = 0.0, sum = 0.0;
          for (int64_t i = 0; i < n; ++i) {
            const Dual value(x.row(t)[i], i == moved_x ? 1.0 : 0.0);
            squares += value * value;
            sum += value * (Dual(1.0) + Dual(gain[static_cast<size_t>(i)], i == moved_gain ? 1.0 : 0.0)) * Dual(d_out.row(t)[i]);
          }
          return (sum / sqrt(squares / Dual(static_cast<double>(n)) + Dual(kEps))).slope;
        };
        for (int64_t i = 0; i < n; ++i) {
          expected.push_back(before.row(t)[i] + loss(i, -1));
          expected_gain[static_cast<size_t>(i)] += loss(-1, i);
        }
      }
      const Vector parameter{gain.data(), n};
      Table d_x = before;
      std::vector<float> d_gain = gain_before;
      backend_->rms_norm_backward(x, parameter, kEps, d_out, d_x, d_gain.data());
      EXPECT_TRUE(d_x.intact());
      EXPECT_LT(worst_(relative_rms(d_x.values(), expected)), tolerance_) << rows << " rows of " << n;
      EXPECT_LT(worst_(relative_rms(d_gain, expected_gain)), tolerance_) << rows << " rows of " << n;
      for (const int threads : {1, 3}) {
        Table again = before;
        std::vector<float> gain_again = gain_before;
        make_cpu_training_backend(threads, GetParam())->rms_norm_backward(x, parameter, kEps, d_out, again, gain_again.data());
        EXPECT_TRUE(same_bits(again.values(), d_x.values()) && same_bits(gain_again, d_gain)) << threads << " threads";
      }
      Table frozen = before;
      backend_->rms_norm_backward(x, parameter, kEps, d_out, frozen, nullptr);
      EXPECT_TRUE(same_bits(frozen.values(), d_x.values()));
    }
  }
}

TEST_P(TrainingRouterTest, Statistics) {
  Random random(2);
  for (const int64_t experts : {1, 5, 16, 67}) {
    for (const int64_t rows : {1, 63, 64, 65, 200}) {
      Table logits(random, rows, experts, -6.0, 20.0);
      std::vector<double> expected(static_cast<size_t>(experts), 0.5), sums = expected;
      double expected_squares = 2.0, squares = 2.0;
      for (int64_t t = 0; t < rows; ++t) {
        double sum = 0.0;
        for (int64_t e = 0; e < experts; ++e) sum += std::exp(static_cast<double>(logits.row(t)[e]));
        for (int64_t e = 0; e < experts; ++e) {
          expected[static_cast<size_t>(e)] += std::exp(static_cast<double>(logits.row(t)[e])) / sum;
        }
        expected_squares += std::log(sum) * std::log(sum);
      }
      backend_->router_statistics(logits, sums, &squares);
      EXPECT_LT(worst_(relative_rms(sums, expected)), tolerance_) << rows << " rows of " << experts;
      EXPECT_NEAR(squares / expected_squares, 1.0, 1e-6);
      for (const int threads : {1, 3}) {
        std::vector<double> again(static_cast<size_t>(experts), 0.5);
        double squares_again = 2.0;
        make_cpu_training_backend(threads, GetParam())->router_statistics(logits, again, &squares_again);
        EXPECT_EQ(again, sums);
        EXPECT_EQ(squares_again, squares);
      }
    }
  }
}

TEST_P(TrainingRouterTest, Route) {
  Random random(3);
  struct Shape {
    int64_t experts, k;
  };
  for (const Shape shape : {Shape{1, 1}, {4, 4}, {16, 2}, {67, 10}}) {
    for (const int64_t rows : {1, 63, 64, 65, 200}) {
      for (int variant = 0; variant < 8; ++variant) {
        const bool normalise = (variant & 1) != 0, balanced = (variant & 2) != 0;
        const float z_scale = (variant & 4) != 0 ? 0.03f : 0.0f;
        const int64_t n = shape.experts, k = shape.k;
        Table logits(random, rows, n, -2.0, 3.0), d_logits(rows, n);
        std::vector<int32_t> chosen(static_cast<size_t>(rows * k));
        std::vector<float> weights(chosen.size()), d_weights = random.vector(rows * k), balance;
        if (balanced) balance = random.vector(n);
        backend_->route(logits, k, normalise, chosen.data(), weights.data());
        std::vector<double> expected;
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t moved = 0; moved < n; ++moved) {
            Dual all = 0.0, restricted = 0.0, weighted = 0.0, balance_sum = 0.0;
            const auto weight = [&](int64_t e) { return exp(Dual(logits.row(t)[e], e == moved ? 1.0 : 0.0)); };
            for (int64_t e = 0; e < n; ++e) {
              all += weight(e);
              if (balanced) balance_sum += weight(e) * Dual(balance[static_cast<size_t>(e)]);
            }
            for (int64_t i = t * k; i < (t + 1) * k; ++i) {
              const Dual w = weight(chosen[static_cast<size_t>(i)]);
              restricted += w;
              weighted += w * Dual(d_weights[static_cast<size_t>(i)]);
            }
            const Dual lse = log(all);
            const Dual loss =
                weighted / (normalise ? restricted : all) + balance_sum / all + Dual(static_cast<double>(z_scale)) * lse * lse;
            expected.push_back(loss.slope);
          }
        }
        const auto run = [&](TrainingBackend& backend, Table& out) {
          backend.route_backward(logits, k, normalise, chosen.data(), weights.data(), d_weights.data(), balance, z_scale, out);
        };
        run(*backend_, d_logits);
        EXPECT_TRUE(d_logits.intact());
        // A lone expert's logit has no gradient, but for rounding and the z term.
        EXPECT_LT(worst_(relative_rms(d_logits.values(), expected, n == 1 ? 0.1 : 0.0)), tolerance_)
            << rows << " rows, " << k << " of " << n << ", variant " << variant;
        for (const int threads : {1, 3}) {
          Table again(rows, n);
          run(*make_cpu_training_backend(threads, GetParam()), again);
          EXPECT_TRUE(same_bits(again.values(), d_logits.values())) << threads << " threads";
        }
      }
    }
  }
}

TEST_P(TrainingRouterTest, AddGated) {
  Random random(4);
  for (const int64_t n : {1, 20, 64, 99}) {
    for (const int64_t rows : {1, 63, 64, 65, 200}) {
      Table x(random, rows, n), gate(random, rows, 1, -5.0, 5.0), d_y(random, rows, n), d_x(rows, n), d_gate(rows, 1);
      std::vector<double> expected, expected_gate;
      for (int64_t t = 0; t < rows; ++t) {
        const Dual open = Dual(1.0) / (Dual(1.0) + exp(Dual(-gate.row(t)[0], -1.0)));
        double sum = 0.0;
        for (int64_t i = 0; i < n; ++i) {
          expected.push_back(open.value * d_y.row(t)[i]);
          sum += static_cast<double>(x.row(t)[i]) * d_y.row(t)[i];
        }
        expected_gate.push_back(sum * open.slope);
      }
      backend_->add_gated_backward(x, gate, d_y, d_x, d_gate);
      EXPECT_TRUE(d_x.intact() && d_gate.intact());
      EXPECT_LT(worst_(relative_rms(d_x.values(), expected)), tolerance_);
      EXPECT_LT(worst_(relative_rms(d_gate.values(), expected_gate)), tolerance_);
      for (const int threads : {1, 3}) {
        Table x_again(rows, n), gate_again(rows, 1);
        make_cpu_training_backend(threads, GetParam())->add_gated_backward(x, gate, d_y, x_again, gate_again);
        EXPECT_TRUE(same_bits(x_again.values(), d_x.values()) && same_bits(gate_again.values(), d_gate.values()));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, TrainingRouterTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
