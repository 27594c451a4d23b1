// Causal convolution and the gated delta rule against the recurrences that define them, in double.
#include "backend/testing/cases.h"

namespace qnext {
namespace {

using testing::Random;
using testing::relative_max;
using testing::same_bits;
using testing::Table;

// ---- causal convolution
// ------------------------------------------------------------------------------------------------

class ConvTest : public ::testing::TestWithParam<Isa> {};

TEST_P(ConvTest, EqualsDefinitionAndSplitsAnywhere) {
  testing::Worst worst("relative_max");
  const auto backend = make_cpu_backend(2, GetParam());
  Random random(1);
  for (const int64_t kernel : {2, 3, 4, 7}) {
    for (const int64_t channels : {1, 5, 16, 37, 260}) {
      for (int64_t rows = 0; rows <= 9; ++rows) {
        const std::vector<float> taps = random.vector(channels * kernel);
        const std::vector<float> state0 = random.vector((kernel - 1) * channels);
        Table x(random, rows + 1, channels), whole(rows + 1, channels);  // row 0 belongs to nobody
        std::vector<double> expected;
        const auto input = [&](int64_t t, int64_t c) {
          return t < 0 ? state0[static_cast<size_t>((t + kernel - 1) * channels + c)] : x.row(1 + t)[c];
        };
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t c = 0; c < channels; ++c) {
            double sum = 0.0;
            for (int64_t m = 0; m < kernel; ++m) {
              sum += static_cast<double>(taps[static_cast<size_t>(c * kernel + m)]) * input(t - kernel + 1 + m, c);
            }
            expected.push_back(sum * testing::sigmoid(sum));
          }
        }
        std::vector<float> state = state0;
        const Vector weights{taps.data(), channels * kernel};
        const ConvSegment segment{1, rows, state.data()};
        backend->causal_conv1d_silu({&segment, 1}, x, weights, kernel, {}, whole);
        const std::vector<float> all = whole.values();
        const std::vector<float> got(all.begin() + channels, all.end());
        EXPECT_LT(worst(relative_max(got, expected)),
                  3e-6);  // a handful of roundings; sums that cancel are the worst
        for (int64_t m = 0; m < kernel - 1; ++m) {
          for (int64_t c = 0; c < channels; ++c) {
            EXPECT_EQ(state[static_cast<size_t>(m * channels + c)], input(rows - kernel + 1 + m, c));
          }
        }
        for (int64_t cut = 0; cut <= rows; ++cut) {
          std::vector<float> carried = state0;
          Table parts(rows + 1, channels);
          for (const ConvSegment& part :
               {ConvSegment{1, cut, carried.data()}, ConvSegment{1 + cut, rows - cut, carried.data()}}) {
            backend->causal_conv1d_silu({&part, 1}, x, weights, kernel, {}, parts);
          }
          ASSERT_TRUE(same_bits(parts.values().data() + channels, got.data(), rows * channels)) << "cut at " << cut;
          ASSERT_TRUE(same_bits(carried, state));
        }
        ASSERT_TRUE(whole.intact());
      }
    }
  }
}

TEST_P(ConvTest, InPlaceAndNormsEqualTheStepsOneByOne) {
  const auto backend = make_cpu_backend(2, GetParam());
  Random random(2);
  for (const int64_t dim : {4, 24, 128, 300}) {
    for (const int64_t rows : {1, 15, 16, 17, 40}) {
      constexpr int64_t kKernel = 4;
      const int64_t channels = 7 * dim + 5;  // heads of q, of k, and the rest
      const std::vector<float> taps = random.vector(channels * kKernel);
      std::vector<float> state = random.vector((kKernel - 1) * channels), state_too = state;
      Table x(random, rows, channels), steps(rows, channels);
      const ConvSegment segment{0, rows, state.data()}, in_place{0, rows, state_too.data()};
      const Vector weights{taps.data(), channels * kKernel};
      backend->causal_conv1d_silu({&segment, 1}, x, weights, kKernel, {}, steps);
      backend->l2_norm(steps.view().columns(0, 2 * dim), dim, 0.25f);
      backend->l2_norm(steps.view().columns(2 * dim, 4 * dim), dim, 1.0f);
      const UnitNorm norms[] = {{0, 2 * dim, dim, 0.25f}, {2 * dim, 6 * dim, dim, 1.0f}};
      backend->causal_conv1d_silu({&in_place, 1}, x, weights, kKernel, norms, x);
      EXPECT_TRUE(same_bits(x.values(), steps.values()) && same_bits(state, state_too)) << dim << ", " << rows << " rows";
      EXPECT_TRUE(x.intact());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, ConvTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

// ---- gated delta rule
// --------------------------------------------------------------------------------------------------

/// Inputs of one sequence, and what the recurrence makes of them.
struct DeltaCase {
  DeltaShape shape;
  int64_t rows;
  Table q, k, v, beta, log_decay;
  std::vector<float> state;

  DeltaCase(Random& random, DeltaShape s, int64_t n)
      : shape(s),
        rows(n),
        q(random, n, s.key_heads * s.key_dim),
        k(random, n, s.key_heads * s.key_dim),
        v(random, n, s.value_heads * s.value_dim),
        beta(random, n, s.value_heads, 0.0, 1.0),
        log_decay(random, n, s.value_heads, -0.3, 0.0),
        state(random.vector(s.value_heads * s.key_dim * s.value_dim)) {
    for (int64_t t = 0; t < n; ++t) {
      unit_heads(q.row(t), 1.0 / std::sqrt(static_cast<double>(s.key_dim)));
      unit_heads(k.row(t), 1.0);
    }
  }

  /// The definition (docs/model.md), one token after another: decay, predict, correct, read.
  void expected(std::vector<double>& out, std::vector<double>& end_state) {
    const auto [hk, hv, dk, dv] = shape;
    end_state.assign(state.begin(), state.end());
    out.clear();
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t h = 0; h < hv; ++h) {
        double* s = end_state.data() + h * dk * dv;
        const float* key = k.row(t) + h / (hv / hk) * dk;
        const float* query = q.row(t) + h / (hv / hk) * dk;
        const double alpha = std::exp(static_cast<double>(log_decay.row(t)[h]));
        for (int64_t i = 0; i < dk * dv; ++i) s[i] *= alpha;
        for (int64_t c = 0; c < dv; ++c) {
          double predicted = 0.0, read = 0.0;
          for (int64_t d = 0; d < dk; ++d) predicted += s[d * dv + c] * key[d];
          const double u = beta.row(t)[h] * (v.row(t)[h * dv + c] - predicted);
          for (int64_t d = 0; d < dk; ++d) s[d * dv + c] += key[d] * u;
          for (int64_t d = 0; d < dk; ++d) read += s[d * dv + c] * query[d];
          out.push_back(read);
        }
      }
    }
  }

  /// Feeds rows [0, cuts[0]), [cuts[0], cuts[1]), ..., as tokens from `position` on.
  void run(Backend& backend, int64_t position, std::vector<int64_t> cuts, std::vector<float>& out,
           std::vector<float>& end_state) {
    Table result(rows, shape.value_heads * shape.value_dim);
    end_state = state;
    cuts.push_back(rows);
    int64_t begin = 0;
    for (const int64_t end : cuts) {
      const DeltaSegment segment{begin, end - begin, position + begin, end_state.data()};
      backend.gated_delta_rule({&segment, 1}, shape, q, k, v, beta, log_decay, result);
      begin = end;
    }
    out = result.values();
    EXPECT_TRUE(result.intact());
  }

 private:
  void unit_heads(float* row, double length) const {
    for (int64_t h = 0; h < shape.key_heads; ++h, row += shape.key_dim) {
      double sum = 1e-6;
      for (int64_t d = 0; d < shape.key_dim; ++d) sum += static_cast<double>(row[d]) * row[d];
      for (int64_t d = 0; d < shape.key_dim; ++d) row[d] = static_cast<float>(row[d] * length / std::sqrt(sum));
    }
  }
};

class DeltaRuleTest : public ::testing::TestWithParam<Isa> {
 protected:
  const std::unique_ptr<Backend> backend_ = make_cpu_backend(2, GetParam());
  testing::Worst worst_{"relative_max"};

  /// Sums of K <= 128 terms and 64 rows of forward substitution; with keys of length 1 and beta <= 1 nothing
  /// amplifies.
  static constexpr double kTolerance = 1e-5;

  /// Whole (chunks), and token by token (recurrent), are each within the tolerance of the definition.
  void check(DeltaCase& test, int64_t position = 0, double tolerance = kTolerance) {
    std::vector<double> expected, expected_state;
    test.expected(expected, expected_state);
    std::vector<int64_t> every;
    for (int64_t t = 1; t < test.rows; ++t) every.push_back(t);
    for (const auto& cuts : {std::vector<int64_t>{}, every}) {
      std::vector<float> out, state;
      test.run(*backend_, position, cuts, out, state);
      const auto& [hk, hv, dk, dv] = test.shape;
      EXPECT_LT(worst_(relative_max(out, expected)), tolerance)
          << test.rows << " rows from " << position << ", K " << dk << ", V " << dv
          << (cuts.empty() ? ", chunks" : ", steps");
      EXPECT_LT(worst_(relative_max(state, expected_state)), tolerance)
          << test.rows << " rows, K " << dk << ", V " << dv;
    }
  }
};

TEST_P(DeltaRuleTest, ChunksAndStepsEqualTheDefinition) {
  Random random(2);
  for (const int64_t dk : {4, 24, 64, 128}) {
    for (const int64_t dv : {4, 24, 64, 128}) {
      if (dk == dv && dk != 128) continue;
      for (const int64_t rows : {1, 2, 63, 64, 65, 200}) {
        DeltaCase test(random, {1, 2, dk, dv}, rows);
        check(test, rows % 3 * 17);
      }
    }
  }
  DeltaCase odd(random, {3, 6, 5, 19}, 70);  // dims that fill no vector
  check(odd, 63);
}

TEST_P(DeltaRuleTest, ExtremeGates) {
  Random random(3);
  const auto with = [&](auto&& decay, auto&& beta) {
    DeltaCase test(random, {2, 4, 24, 40}, 130);
    for (int64_t t = 0; t < test.rows; ++t) {
      for (int64_t h = 0; h < 4; ++h) {
        test.log_decay.row(t)[h] = decay(t);
        test.beta.row(t)[h] = beta(t);
      }
    }
    check(test);
  };
  const auto half = [](int64_t) { return 0.5f; };
  const auto slow = [](int64_t) { return -0.01f; };
  with([](int64_t) { return -50.0f; }, half);  // 3200 nats in a chunk: exp(G_i) exp(-G_j) would be 0 times infinity
  with([](int64_t) { return 0.0f; }, half);
  // Sudden decays between slow ones: the running sum is large where its differences are small.
  with([](int64_t t) { return t % 5 == 0 ? -300.0f : -0.013f; }, half);
  with([](int64_t t) { return t == 3 ? -3000.0f : -0.003f; }, half);
  with(slow, [](int64_t) { return 0.0f; });
  with(slow, [](int64_t) { return 1.0f; });
  with(slow, [](int64_t t) { return t % 2 == 0 ? 1.0f : 1e-30f; });
}

TEST_P(DeltaRuleTest, CutsOnTheGridChangeNoBit) {
  Random random(4);
  for (const int64_t position : {0, 50, 64}) {
    DeltaCase test(random, {1, 2, 24, 64}, 200);
    std::vector<float> whole, whole_state, cut, cut_state;
    test.run(*backend_, position, {}, whole, whole_state);
    for (const int64_t grid : {64, 128}) {
      test.run(*backend_, position, {grid - position % 64}, cut, cut_state);
      EXPECT_TRUE(same_bits(whole, cut) && same_bits(whole_state, cut_state))
          << "from " << position << ", cut at " << grid;
    }
    // Rows before a cut inside a chunk do not know of it, unless only one row is left of the chunk (a recurrent
    // step).
    test.run(*backend_, position, {30}, cut, cut_state);
    EXPECT_TRUE(same_bits(whole.data(), cut.data(), 14 * 2 * 64));
  }
}

TEST_P(DeltaRuleTest, SequencesTogetherEqualEachAlone) {
  Random random(5);
  const DeltaShape shape{2, 4, 16, 20};
  DeltaCase test(random, shape, 100);
  const DeltaSegment cases[] = {
      {0, 1, 70, nullptr}, {1, 65, 3, nullptr}, {66, 0, 0, nullptr}, {66, 2, 63, nullptr}, {68, 32, 0, nullptr}};
  std::vector<std::vector<float>> together(std::size(cases), test.state), alone = together;
  std::vector<DeltaSegment> segments(std::begin(cases), std::end(cases));
  for (size_t i = 0; i < segments.size(); ++i) segments[i].state = together[i].data();
  Table batch(100, 80), single(100, 80);
  backend_->gated_delta_rule(segments, shape, test.q, test.k, test.v, test.beta, test.log_decay, batch);
  for (size_t i = 0; i < segments.size(); ++i) {
    segments[i].state = alone[i].data();
    backend_->gated_delta_rule({&segments[i], 1}, shape, test.q, test.k, test.v, test.beta, test.log_decay, single);
    EXPECT_TRUE(same_bits(together[i], alone[i]));
  }
  EXPECT_TRUE(same_bits(batch.values(), single.values()));
}

TEST_P(DeltaRuleTest, GoldenVector) {
  // float64, from an independent implementation: raw q, k, v are sines, the gates come from a and b.
  constexpr int64_t kRows = 5, kK = 4, kV = 3;
  constexpr double kG[] = {-1.151878840, -1.436919296, -1.766764311, -2.140110671, -2.553912814};
  constexpr double kBeta[] = {0.689974481, 0.598687660, 0.500000000, 0.401312340, 0.310025519};
  const std::vector<double> expected = {0.166241736,  0.010233632,  -0.150587509, 0.043947824, -0.199474948,
                                        -0.109165698, -0.097035981, -0.090675044, 0.146749861, -0.065803245,
                                        0.041187239,  -0.015942603, -0.124482734, 0.093881423, -0.051086769};
  const std::vector<double> expected_state = {0.165314524, -0.126463586, 0.071194860, -0.157333640,
                                              0.121630204, -0.068984027, 0.131550097, -0.099466223,
                                              0.055175882, -0.090517618, 0.065069728, -0.031345152};
  Random random(0);
  DeltaCase test(random, {1, 1, kK, kV}, kRows);
  test.state.assign(kK * kV, 0.0f);
  Table a(kRows, 1), b(kRows, 1);
  for (int64_t t = 0; t < kRows; ++t) {
    const auto wave = [&](int64_t j, double phase) {
      return static_cast<float>(std::sin(0.7 * static_cast<double>((t + 1) * (j + 1)) + phase));
    };
    for (int64_t j = 0; j < kK; ++j) test.q.row(t)[j] = wave(j, 0.1), test.k.row(t)[j] = wave(j, 0.9);
    for (int64_t j = 0; j < kV; ++j) test.v.row(t)[j] = wave(j, 1.7);
    a.row(t)[0] = static_cast<float>(0.3 * static_cast<double>(t) - 0.5);
    b.row(t)[0] = static_cast<float>(0.8 - 0.4 * static_cast<double>(t));
  }
  const float a_log = std::log(2.0f), dt_bias = 0.25f;
  backend_->delta_gates(b, a, {&a_log, 1}, {&dt_bias, 1}, test.beta, test.log_decay);
  backend_->l2_norm(test.q, kK, 0.5f);
  backend_->l2_norm(test.k, kK, 1.0f);
  for (int64_t t = 0; t < kRows; ++t) {
    EXPECT_NEAR(test.log_decay.row(t)[0], kG[t], 5e-7);
    EXPECT_NEAR(test.beta.row(t)[0], kBeta[t], 1e-7);
  }
  for (const auto& cuts : {std::vector<int64_t>{}, std::vector<int64_t>{1, 2, 3, 4}}) {
    std::vector<float> out, state;
    test.run(*backend_, 0, cuts, out, state);
    EXPECT_LT(worst_(relative_max(out, expected)), 2e-6);
    EXPECT_LT(worst_(relative_max(state, expected_state)), 2e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, DeltaRuleTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
