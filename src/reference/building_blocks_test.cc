#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "reference/reference.h"

// The reference's building blocks against numbers worked out elsewhere (float64, ten digits), and the chunked form of
// the delta rule, which the product computes prompts with, against the recurrent one that defines it.
namespace qnext::reference {
namespace {

using Row = std::vector<double>;

testing::Matcher<const Row&> near(const Row& expected, double tolerance = 1e-9) {
  return testing::Pointwise(testing::DoubleNear(tolerance), expected);
}

TEST(BuildingBlocks, RmsNormIsZeroCentred) {
  const Row x = {1, -2, 3, 0.5}, w = {0.1, -0.2, 0, 0.5};
  EXPECT_THAT(rms_norm_zero_centred<double>(x, w, 1e-6), near({0.582794155, -0.847700590, 1.589438605, 0.397359651}));
}

TEST(BuildingBlocks, GatedNormHasPlainGainAndGatesAfterwards) {
  const Row x = {1, -2, 3, 0.5}, w = {1.1, 0.9, 1, 0.8}, z = {0.2, -1, 2, 0};
  EXPECT_THAT(gated_rms_norm<double>(x, w, z, 1e-6), near({0.064088008, 0.256479527, 2.799945759, 0}));
}

TEST(BuildingBlocks, RouterTakesTheBestAndRenormalises) {
  const Row logits = {0.5, -1, 2, 0.1, 1.5, -0.3, 0.9, 1.2};
  const Routing<double> routing = route_topk<double>(logits, 3, true);
  EXPECT_THAT(routing.experts, testing::ElementsAre(2, 4, 7));
  EXPECT_THAT(routing.weights, near({0.486414534, 0.295025328, 0.218560138}));

  // Without renormalisation they keep their share of the softmax over all.
  const Routing<double> raw = route_topk<double>(logits, 3, false);
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  EXPECT_THAT(raw.weights, near({std::exp(2.0) / sum, std::exp(1.5) / sum, std::exp(1.2) / sum}));
}

TEST(BuildingBlocks, RouterTiesGoToTheLowerIndex) {
  const Row logits = {1, 3, 2, 3, 2};
  EXPECT_THAT(route_topk<double>(logits, 3, true).experts, testing::ElementsAre(1, 3, 2));
}

TEST(BuildingBlocks, RopeRotatesHalvesOfTheFirstDimensions) {
  const Row theta = rope_inverse_frequencies({.theta = 1e7, .dims = 4});
  Row head = {1, 2, 3, 4, 5, 6, 7, 8};
  apply_rope<double>(head, 3, theta, 1.0);
  EXPECT_THAT(head, near({-1.413352521, 1.996204367, -2.828857482, 4.001895566, 5, 6, 7, 8}));
}

TEST(BuildingBlocks, YarnFrequencies) {
  const RopeConfig plain = {.theta = 1e7, .dims = 64};
  RopeConfig yarn = plain;
  yarn.yarn = true;
  yarn.factor = 4;
  yarn.original_max_position_embeddings = 262144;
  const Row before = rope_inverse_frequencies(plain), after = rope_inverse_frequencies(yarn);
  ASSERT_EQ(after.size(), 32);
  const auto expect_digits = [](double value, double expected) {
    EXPECT_NEAR(value / expected, 1, 1e-9) << expected;
  };
  for (int j = 0; j <= 14; ++j) EXPECT_EQ(after[j], before[j]) << j;
  expect_digits(before[15], 5.232991147e-4), expect_digits(after[15], 4.742398227e-4);
  expect_digits(before[16], 3.162277660e-4), expect_digits(after[16], 2.569350599e-4);
  expect_digits(before[18], 1.154781985e-4), expect_digits(after[18], 7.217387404e-5);
  expect_digits(before[21], 2.548296748e-5), expect_digits(after[21], 8.759770071e-6);
  for (int j = 22; j < 32; ++j) EXPECT_DOUBLE_EQ(after[j], before[j] / 4) << j;
}

// ---- Delta rule
// ----------------------------------------------------------------------------------------------------

TEST(DeltaRule, Recurrent) {
  constexpr int kKeyDim = 4, kValueDim = 3;
  const std::vector<double> g = {-1.151878840, -1.436919296, -1.766764311, -2.140110671, -2.553912814};
  const std::vector<double> beta = {0.689974481, 0.598687660, 0.500000000, 0.401312340, 0.310025519};
  const std::vector<Row> out = {{0.166241736, 0.010233632, -0.150587509},
                                {0.043947824, -0.199474948, -0.109165698},
                                {-0.097035981, -0.090675044, 0.146749861},
                                {-0.065803245, 0.041187239, -0.015942603},
                                {-0.124482734, 0.093881423, -0.051086769}};
  const auto wave = [](int t, int size, double phase) {
    Row x(size);
    for (int j = 0; j < size; ++j) x[j] = std::sin(0.7 * (t + 1) * (j + 1) + phase);
    return x;
  };
  Row state(kKeyDim * kValueDim, 0.0);
  for (int t = 0; t < 5; ++t) {
    Row q = l2_normalise<double>(wave(t, kKeyDim, 0.1));
    for (double& value : q) value /= std::sqrt(double{kKeyDim});
    const Row k = l2_normalise<double>(wave(t, kKeyDim, 0.9)), v = wave(t, kValueDim, 1.7);
    const DeltaGates<double> gates = delta_gates(0.8 - 0.4 * t, 0.3 * t - 0.5, std::log(2.0), 0.25);
    EXPECT_NEAR(gates.g, g[t], 1e-9);
    EXPECT_NEAR(gates.beta, beta[t], 1e-9);
    EXPECT_THAT(delta_rule_step<double>(state, q, k, v, gates), near(out[t])) << t;
  }
  EXPECT_THAT(state, near({0.165314524, -0.126463586, 0.071194860, -0.157333640, 0.121630204, -0.068984027,
                           0.131550097, -0.099466223, 0.055175882, -0.090517618, 0.065069728, -0.031345152}));
}

/// A prompt for one head: q, k [T, K] ready for the rule, v [T, V].
struct Prompt {
  int tokens, key_dim, value_dim;
  std::vector<Row> q, k, v;
  std::vector<DeltaGates<double>> gates;
  Row state;  ///< [K, V], before the first token
};

Prompt random_prompt(int tokens, int key_dim, int value_dim, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const auto row = [&](int size) {
    Row x(size);
    for (double& value : x) value = normal(random);
    return x;
  };
  Prompt p{tokens, key_dim, value_dim, {}, {}, {}, {}, {}};
  for (int t = 0; t < tokens; ++t) {
    p.q.push_back(l2_normalise<double>(row(key_dim)));
    p.k.push_back(l2_normalise<double>(row(key_dim)));
    p.v.push_back(row(value_dim));
    p.gates.push_back(delta_gates(normal(random), normal(random), normal(random), -1.0));
  }
  p.state = row(key_dim * value_dim);
  return p;
}

double dot(const Row& x, const Row& y) { return std::inner_product(x.begin(), x.end(), y.begin(), 0.0); }

/// The chunked form of docs/model.md, as plainly as it can be written: returns the outputs [T][V] and leaves the last
/// state in p.state. Inside a chunk, G is the running sum of g; token i sees what token j wrote decayed by exp(Gi -
/// Gj), and what was there before the chunk by exp(Gi).
std::vector<Row> gated_delta_rule_chunk(Prompt& p, int chunk) {
  std::vector<Row> out(p.tokens, Row(p.value_dim, 0.0));
  for (int begin = 0; begin < p.tokens; begin += chunk) {
    const int size = std::min(chunk, p.tokens - begin);
    const auto read_state = [&](const Row& key, int j) {
      double sum = 0;
      for (int i = 0; i < p.key_dim; ++i) sum += p.state[i * p.value_dim + j] * key[i];
      return sum;
    };
    Row decay(size);
    for (int i = 0; i < size; ++i) decay[i] = p.gates[begin + i].g + (i == 0 ? 0 : decay[i - 1]);

    // (I + A) U = beta V - beta gamma K S, where A = beta K Kᵀ exp(Gi - Gj) below the diagonal: forward substitution.
    std::vector<Row> update(size, Row(p.value_dim));
    for (int i = 0; i < size; ++i) {
      const Row& key = p.k[begin + i];
      for (int j = 0; j < p.value_dim; ++j) {
        double predicted = std::exp(decay[i]) * read_state(key, j);
        for (int m = 0; m < i; ++m)
          predicted += std::exp(decay[i] - decay[m]) * dot(key, p.k[begin + m]) * update[m][j];
        update[i][j] = p.gates[begin + i].beta * (p.v[begin + i][j] - predicted);
      }
    }
    // O = gamma Q S + (Q Kᵀ exp(Gi - Gj), diagonal included) U.
    for (int i = 0; i < size; ++i) {
      const Row& query = p.q[begin + i];
      for (int j = 0; j < p.value_dim; ++j) {
        out[begin + i][j] = std::exp(decay[i]) * read_state(query, j);
        for (int m = 0; m <= i; ++m) {
          out[begin + i][j] += std::exp(decay[i] - decay[m]) * dot(query, p.k[begin + m]) * update[m][j];
        }
      }
    }
    // S' = exp(G_last) S + sum of exp(G_last - Gi) k_i u_iᵀ.
    for (double& s : p.state) s *= std::exp(decay.back());
    for (int m = 0; m < size; ++m) {
      for (int i = 0; i < p.key_dim; ++i) {
        for (int j = 0; j < p.value_dim; ++j) {
          p.state[i * p.value_dim + j] += std::exp(decay.back() - decay[m]) * p.k[begin + m][i] * update[m][j];
        }
      }
    }
  }
  return out;
}

void expect_chunked_equals_recurrent(const Prompt& prompt, int chunk) {
  SCOPED_TRACE(testing::Message() << prompt.tokens << " tokens in chunks of " << chunk);
  Prompt recurrent = prompt, chunked = prompt;
  const std::vector<Row> out = gated_delta_rule_chunk(chunked, chunk);
  for (int t = 0; t < prompt.tokens; ++t) {
    // Float64 rounding, of sums over up to 64 + 8 terms of order one.
    EXPECT_THAT(delta_rule_step<double>(recurrent.state, prompt.q[t], prompt.k[t], prompt.v[t], prompt.gates[t]),
                near(out[t], 1e-12))
        << t;
  }
  EXPECT_THAT(chunked.state, near(recurrent.state, 1e-12));
}

TEST(DeltaRule, ChunkedEqualsRecurrent) {
  for (const int tokens : {1, 63, 64, 65, 200}) {
    for (const int chunk : {16, 32, 64}) {
      expect_chunked_equals_recurrent(random_prompt(tokens, 8, 5, tokens * 100 + chunk), chunk);
    }
  }
}

TEST(DeltaRule, ChunkedEqualsRecurrentAtExtremeGates) {
  // A decay of 50 nats per token would overflow exp(-Gj) alone; only differences stay finite.
  for (const double g : {-50.0, 0.0}) {
    for (const double beta : {0.0, 1e-9, 1.0}) {
      Prompt prompt = random_prompt(100, 8, 5, 7);
      for (DeltaGates<double>& gates : prompt.gates) gates = {.beta = beta, .g = g};
      expect_chunked_equals_recurrent(prompt, 64);
    }
  }
}

}  // namespace
}  // namespace qnext::reference
