// Matrices with low-rank additions: products and gradients against sums in double and against those of the merged
// matrices.
#include <functional>

#include "backend/cpu/training_backend.h"
#include "backend/lora_backend.h"
#include "backend/testing/cases.h"

namespace qnext {
namespace {

using testing::Random;
using testing::relative_max;
using testing::same_bits;
using testing::Table;
using testing::Weights;
using Doubles = std::vector<double>;

size_t at(int64_t i) { return static_cast<size_t>(i); }

Matrix view(const std::vector<float>& values, int64_t rows, int64_t cols) {
  return {
      .dtype = DType::kF32, .rows = rows, .cols = cols, .data = reinterpret_cast<const std::byte*>(values.data())};
}

/// The arrays of an addition to a whole [rows, cols].
struct Arrays {
  int64_t rows, cols, rank;
  std::vector<float> a, b;
  float scale = 0.75f;
  Arrays(Random& random, int64_t r, int64_t c, int64_t k)
      : rows(r), cols(c), rank(k), a(random.vector(k * c)), b(random.vector(r * k)) {}
  LowRank whole() const { return {view(a, rank, cols), view(b, rows, rank), scale}; }
  double product(int64_t r, int64_t c) const {
    double sum = 0.0;
    for (int64_t k = 0; k < rank; ++k) sum += static_cast<double>(b[at(r * rank + k)]) * a[at(k * cols + c)];
    return scale * sum;
  }
};

class LowRankTest : public ::testing::TestWithParam<Isa> {
 protected:
  double bound() const { return GetParam() == Isa::kScalar ? 1e-6 : 1e-5; }
  std::unique_ptr<TrainingBackend> training(int threads = 2) const {
    return make_cpu_training_backend(threads, GetParam());
  }
};

/// Two selections of the rows of one matrix with one addition, a matrix with its own, one without.
struct LinearCase {
  static constexpr int64_t kRows = 96, kCols = 61;
  Weights whole, own, plain;
  Arrays shared, of_own;
  LowRank parts[2], alone;
  Matrix matrices[4];

  LinearCase(Random& random, DType dtype, int64_t rank)
      : whole(random, dtype, kRows, kCols, dtype == DType::kF8E4M3),
        own(random, DType::kF32, 19, kCols),
        plain(random, DType::kF32, 7, kCols),
        shared(random, kRows, kCols, rank),
        of_own(random, 19, kCols, 2) {
    const LowRank low_rank = shared.whole();
    const auto select = [](const Matrix& m, bool second) {
      return second ? m.select_rows(8, 16, 24, 4) : m.select_rows(0, 8, 24, 4);
    };
    for (const bool second : {false, true}) {
      parts[second] = {low_rank.a, select(low_rank.b, second), low_rank.scale};
      matrices[second] = select(whole.matrix, second);
      matrices[second].low_rank = &parts[second];
    }
    alone = of_own.whole();
    matrices[2] = own.matrix;
    matrices[2].low_rank = &alone;
    matrices[3] = plain.matrix;
  }
  /// An element of W + scale * b a of the i-th product.
  double element(int i, int64_t r, int64_t c) const {
    if (i == 2) return own.at(r, c) + of_own.product(r, c);
    if (i == 3) return plain.at(r, c);
    const int64_t physical = physical_row(i, r);
    return whole.at(physical, c) + shared.product(physical, c);
  }
  static int64_t physical_row(int i, int64_t r) { return i == 0 ? r / 8 * 24 + r % 8 : 8 + r / 16 * 24 + r % 16; }
};

TEST_P(LowRankTest, LinearAndItsGradients) {
  testing::Worst worst("relative_max");
  Random random(1);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const auto& [rows, rank] : {std::pair<int64_t, int64_t>{0, 3}, {1, 1}, {37, 3}, {300, 16}}) {
      LinearCase c(random, dtype, rank);
      Table x(random, rows, c.kCols);
      std::vector<Table> d_y;
      Doubles e_x(at(rows * c.kCols), 0.25);
      std::vector<Doubles> e_y(4);
      Doubles d_whole(at(c.kRows * c.kCols), 0.0),
          d_own(at(19 * c.kCols), 0.0);  // of W, from which those of a and b follow
      for (int i = 0; i < 4; ++i) {
        const int64_t n = c.matrices[i].rows;
        d_y.emplace_back(random, rows, n);
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t r = 0; r < n; ++r) {
            double sum = 0.0;
            const double d = d_y[at(i)].row(t)[r];
            for (int64_t k = 0; k < c.kCols; ++k) {
              const double w = c.element(i, r, k), in = x.row(t)[k];
              sum += in * w;
              e_x[at(t * c.kCols + k)] += d * w;
              if (i < 2) d_whole[at(c.physical_row(i, r) * c.kCols + k)] += d * in;
              if (i == 2) d_own[at(r * c.kCols + k)] += d * in;
            }
            e_y[at(i)].push_back(sum);
          }
        }
      }
      const auto expect = [](const Arrays& arrays, const Doubles& d_w, Doubles& d_a, Doubles& d_b) {
        d_a.assign(arrays.a.size(), 0.5);
        d_b.assign(arrays.b.size(), 0.5);
        for (int64_t r = 0; r < arrays.rows; ++r) {
          for (int64_t k = 0; k < arrays.rank; ++k) {
            for (int64_t col = 0; col < arrays.cols; ++col) {
              const double d = arrays.scale * d_w[at(r * arrays.cols + col)];
              d_a[at(k * arrays.cols + col)] += d * arrays.b[at(r * arrays.rank + k)];
              d_b[at(r * arrays.rank + k)] += d * arrays.a[at(k * arrays.cols + col)];
            }
          }
        }
      };
      Doubles e_a, e_b, e_own_a, e_own_b;
      expect(c.shared, d_whole, e_a, e_b);
      expect(c.of_own, d_own, e_own_a, e_own_b);

      std::vector<float> first;
      for (const int threads : {1, 2, 3}) {
        const auto backend = training(threads);
        Arrays gradient = c.shared, own_gradient = c.of_own;
        for (auto* v : {&gradient.a, &gradient.b, &own_gradient.a, &own_gradient.b}) std::ranges::fill(*v, 0.5f);
        const LowRank g = gradient.whole(), own_g = own_gradient.whole();
        const LowRank g0{g.a, g.b.select_rows(0, 8, 24, 4), 0.0f}, g1{g.a, g.b.select_rows(8, 16, 24, 4), 0.0f};
        Table y0(rows, 32), y1(rows, 64), y2(rows, 19), y3(rows, 7), d_x(rows, c.kCols);
        for (int64_t t = 0; t < rows; ++t) std::fill_n(d_x.row(t), c.kCols, 0.25f);
        const Backend::Linear forward[] = {
            {&c.matrices[0], y0}, {&c.matrices[1], y1}, {&c.matrices[2], y2}, {&c.matrices[3], y3}};
        backend->linear(x, forward);
        const TrainingBackend::LinearGradient backward[] = {{&c.matrices[0], d_y[0], {nullptr, &g0}},
                                                            {&c.matrices[1], d_y[1], {nullptr, &g1}},
                                                            {&c.matrices[2], d_y[2], {nullptr, &own_g}},
                                                            {&c.matrices[3], d_y[3], nullptr}};
        backend->linear_backward(x, backward, d_x);
        ASSERT_TRUE(y0.intact() && y1.intact() && y2.intact() && y3.intact() && d_x.intact());
        std::vector<float> all;
        for (const auto& values : {y0.values(), y1.values(), y2.values(), y3.values(), d_x.values(), gradient.a,
                                   gradient.b, own_gradient.a, own_gradient.b}) {
          all.insert(all.end(), values.begin(), values.end());
        }
        if (first.empty()) first = all;
        ASSERT_TRUE(same_bits(all, first)) << threads << " threads";
        if (threads > 1) continue;
        EXPECT_LT(worst(relative_max(y0.values(), e_y[0])), bound()) << rows;
        EXPECT_LT(worst(relative_max(y1.values(), e_y[1])), bound()) << rows;
        EXPECT_LT(worst(relative_max(y2.values(), e_y[2])), bound()) << rows;
        EXPECT_LT(worst(relative_max(y3.values(), e_y[3])), bound()) << rows;
        EXPECT_LT(worst(relative_max(d_x.values(), e_x)), bound()) << rows;
        EXPECT_LT(worst(relative_max(gradient.a, e_a)), bound()) << rows;
        EXPECT_LT(worst(relative_max(gradient.b, e_b)), bound()) << rows;
        EXPECT_LT(worst(relative_max(own_gradient.a, e_own_a)), bound()) << rows;
        EXPECT_LT(worst(relative_max(own_gradient.b, e_own_b)), bound()) << rows;
        // Frozen, only d_x: the same of it, and without d_x the same gradients.
        Table d_x_again(rows, c.kCols);
        for (int64_t t = 0; t < rows; ++t) std::fill_n(d_x_again.row(t), c.kCols, 0.25f);
        TrainingBackend::LinearGradient frozen[] = {backward[0], backward[1], backward[2], backward[3]};
        for (auto& f : frozen) f.d_weight = {};
        backend->linear_backward(x, frozen, d_x_again);
        EXPECT_TRUE(same_bits(d_x_again.values(), d_x.values()));
        const Arrays once = gradient;
        for (auto* v : {&gradient.a, &gradient.b}) std::ranges::fill(*v, 0.5f);
        backend->linear_backward(x, backward, {});
        EXPECT_TRUE(same_bits(gradient.a, once.a) && same_bits(gradient.b, once.b));
      }
    }
  }
}

/// Experts with additions to some of their matrices, and the same merged.
struct ExpertsCase {
  static constexpr int64_t kRows = 150, kWidth = 40, kInner = 24, kExperts = 4, kChosen = 2, kRank = 3;
  Table x, d_y;
  std::vector<float> factors;
  std::vector<int32_t> chosen;
  std::vector<Weights> elements;
  std::vector<Arrays> arrays;
  std::vector<LowRank> low_rank;
  std::vector<std::vector<float>> merged_values;
  std::vector<MlpWeights> plain, added, merged;

  explicit ExpertsCase(Random& random, DType dtype, bool zero_b = false)
      : x(random, kRows, kWidth), d_y(random, kRows, kWidth), factors(random.vector(kRows * kChosen, 0.1, 1.0)) {
    for (int64_t i = 0; i < kRows * kChosen; ++i) {  // the last expert has no rows, the first more than one task's
      chosen.push_back(static_cast<int32_t>(i % kChosen == 0 ? 0 : 1 + i / kChosen % 2));
    }
    elements.reserve(at(3 * kExperts));
    arrays.reserve(at(3 * kExperts));
    low_rank.reserve(at(3 * kExperts));
    for (int64_t e = 0; e < kExperts; ++e) {
      for (auto* list : {&plain, &added, &merged}) list->emplace_back();
      const auto add = [&](Matrix MlpWeights::* which, int64_t rows, int64_t cols, bool with) {
        const Weights& w = elements.emplace_back(random, dtype, rows, cols);
        Arrays& addition = arrays.emplace_back(random, rows, cols, kRank);
        if (zero_b) std::ranges::fill(addition.b, 0.0f);
        plain.back().*which = added.back().*which = w.matrix;
        low_rank.push_back(addition.whole());
        if (with) (added.back().*which).low_rank = &low_rank.back();
        std::vector<float>& values = merged_values.emplace_back();
        for (int64_t i = 0; i < rows * cols; ++i) {
          values.push_back(
              static_cast<float>(w.at(i / cols, i % cols) + (with ? addition.product(i / cols, i % cols) : 0.0)));
        }
        merged.back().*which = view(values, rows, cols);
      };
      add(&MlpWeights::gate, kInner, kWidth, true);
      add(&MlpWeights::up, kInner, kWidth, e != 1);
      add(&MlpWeights::down, kWidth, kInner, e != 2);
    }
    // Vectors of vectors have moved while they grew, their floats have not.
  }

  struct Result {
    std::vector<float> y, d_x, d_factors;
  };
  Result run(TrainingBackend& backend, const std::vector<MlpWeights>& weights,
             std::span<const TrainingBackend::MlpGradient> gradients) {
    Table y(kRows, kWidth), hidden(kRows * kChosen, kInner), out(kRows * kChosen, kWidth), d_x(kRows, kWidth);
    Result result;
    result.d_factors.assign(factors.size(), NAN);
    for (int64_t t = 0; t < kRows; ++t) std::fill_n(d_x.row(t), kWidth, 0.25f);
    backend.experts(x, weights, kChosen, chosen.data(), factors.data(), hidden, out, y);
    backend.experts_backward(x, weights, kChosen, chosen.data(), factors.data(), d_y, d_x, result.d_factors.data(),
                             gradients);
    result.y = y.values();
    result.d_x = d_x.values();
    return result;
  }
  Result run_mlp(TrainingBackend& backend, const MlpWeights& weights, const TrainingBackend::MlpGradient& gradient) {
    Table y(kRows, kWidth), hidden(kRows, kInner), d_x(kRows, kWidth);
    for (int64_t t = 0; t < kRows; ++t) std::fill_n(d_x.row(t), kWidth, 0.25f);
    backend.mlp(x, weights, hidden, y);
    backend.mlp_backward(x, weights, d_y, d_x, gradient);
    return {y.values(), d_x.values(), {}};
  }
};

Doubles doubles(const std::vector<float>& v) { return {v.begin(), v.end()}; }

TEST_P(LowRankTest, ExpertsAndMlpsAreThoseOfMergedMatrices) {
  testing::Worst worst("relative_max");
  Random random(2);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ExpertsCase c(random, dtype);
    for (const bool as_mlp : {false, true}) {
      const size_t experts = as_mlp ? 1 : at(c.kExperts);
      // Of the merged ones: gradients of whole matrices, which another test holds to the truth.
      std::vector<std::vector<float>> d_w;
      std::vector<TrainingBackend::MlpGradient> whole(experts);
      d_w.reserve(3 * experts);
      for (size_t e = 0; e < experts; ++e) {
        for (auto* to : {&whole[e].gate, &whole[e].up, &whole[e].down})
          to->weight = d_w.emplace_back(at(c.kWidth * c.kInner), 0.0f).data();
      }
      const auto backend = training();
      const ExpertsCase::Result expected =
          as_mlp ? c.run_mlp(*backend, c.merged[0], whole[0]) : c.run(*backend, c.merged, whole);

      ExpertsCase::Result first;
      std::vector<float> first_gradients;
      for (const int threads : {1, 2, 3}) {
        std::vector<Arrays> gradients = c.arrays;
        std::vector<LowRank> views;
        views.reserve(gradients.size());
        std::vector<TrainingBackend::MlpGradient> low_rank(experts);
        for (size_t e = 0; e < experts; ++e) {
          TrainingBackend::MatrixGradient* to[] = {&low_rank[e].gate, &low_rank[e].up, &low_rank[e].down};
          const Matrix* of[] = {&c.added[e].gate, &c.added[e].up, &c.added[e].down};
          for (size_t m = 0; m < 3; ++m) {
            for (auto* v : {&gradients[3 * e + m].a, &gradients[3 * e + m].b}) std::ranges::fill(*v, 0.5f);
            if (of[m]->low_rank != nullptr) to[m]->low_rank = &views.emplace_back(gradients[3 * e + m].whole());
          }
        }
        const auto b = training(threads);
        const ExpertsCase::Result got =
            as_mlp ? c.run_mlp(*b, c.added[0], low_rank[0]) : c.run(*b, c.added, low_rank);
        std::vector<float> all;
        for (const Arrays& g : gradients) {
          all.insert(all.end(), g.a.begin(), g.a.end());
          all.insert(all.end(), g.b.begin(), g.b.end());
        }
        if (threads == 1) first = got, first_gradients = all;
        ASSERT_TRUE(same_bits(got.y, first.y) && same_bits(got.d_x, first.d_x) &&
                    same_bits(got.d_factors, first.d_factors) && same_bits(all, first_gradients))
            << threads;
        if (threads > 1) continue;
        // Rounding of the merged matrices adds to that of sums.
        EXPECT_LT(worst(relative_max(got.y, doubles(expected.y))), 1e-5);
        EXPECT_LT(worst(relative_max(got.d_x, doubles(expected.d_x))), 1e-5);
        EXPECT_LT(worst(relative_max(got.d_factors, doubles(expected.d_factors))), 1e-5);
        for (size_t i = 0; i < 3 * experts; ++i) {
          const Arrays& l = c.arrays[i];
          const Matrix& w = i % 3 == 0 ? c.added[i / 3].gate : i % 3 == 1 ? c.added[i / 3].up : c.added[i / 3].down;
          Doubles e_a(l.a.size(), 0.5), e_b(l.b.size(), 0.5);
          for (int64_t r = 0; w.low_rank != nullptr && r < l.rows; ++r) {
            for (int64_t k = 0; k < l.rank; ++k) {
              for (int64_t col = 0; col < l.cols; ++col) {
                const double d = static_cast<double>(l.scale) * d_w[i][at(r * l.cols + col)];
                e_a[at(k * l.cols + col)] += d * l.b[at(r * l.rank + k)];
                e_b[at(r * l.rank + k)] += d * l.a[at(k * l.cols + col)];
              }
            }
          }
          EXPECT_LT(worst(relative_max(gradients[i].a, e_a)), 1e-5) << i;
          EXPECT_LT(worst(relative_max(gradients[i].b, e_b)), 1e-5) << i;
        }
      }
    }
  }
}

TEST_P(LowRankTest, AZeroBLeavesTheBits) {
  Random random(3);
  const auto backend = training();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    LinearCase linear(random, dtype, 5);
    for (auto* b : {&linear.shared.b, &linear.of_own.b}) std::ranges::fill(*b, 0.0f);
    Table x(random, 70, linear.kCols);
    for (Matrix& with : linear.matrices) {
      Matrix without = with;
      without.low_rank = nullptr;
      Table y(70, with.rows), plain(70, with.rows);
      backend->linear(x, with, y);
      backend->linear(x, without, plain);
      EXPECT_TRUE(same_bits(y.values(), plain.values()));
    }
    ExpertsCase c(random, dtype, /*zero_b=*/true);
    const auto same = [](const ExpertsCase::Result& a, const ExpertsCase::Result& b) {
      return same_bits(a.y, b.y) && same_bits(a.d_x, b.d_x) && same_bits(a.d_factors, b.d_factors);
    };
    EXPECT_TRUE(same(c.run(*backend, c.added, {}), c.run(*backend, c.plain, {})));
    EXPECT_TRUE(same(c.run_mlp(*backend, c.added[0], {}), c.run_mlp(*backend, c.plain[0], {})));
  }
}

TEST_P(LowRankTest, InferenceIsThatOfMergedMatrices) {
  testing::Worst worst("relative_max");
  Random random(4);
  LoraBackend backend(make_cpu_backend(2, GetParam()));
  const auto merged = make_cpu_backend(2, GetParam());
  LinearCase c(random, DType::kBF16, 4);
  constexpr int64_t kRows = 37;
  Table x(random, kRows, c.kCols), y0(kRows, 32), y1(kRows, 64), y2(kRows, 19), y3(kRows, 7);
  Table* ys[] = {&y0, &y1, &y2, &y3};
  const Backend::Linear products[] = {
      {&c.matrices[0], y0}, {&c.matrices[1], y1}, {&c.matrices[2], y2}, {&c.matrices[3], y3}};
  backend.linear(x, products);
  for (int i = 0; i < 4; ++i) {
    Doubles expected;
    for (int64_t t = 0; t < kRows; ++t) {
      for (int64_t r = 0; r < c.matrices[i].rows; ++r) {
        double sum = 0.0;
        for (int64_t k = 0; k < c.kCols; ++k) sum += x.row(t)[k] * c.element(i, r, k);
        expected.push_back(sum);
      }
    }
    ASSERT_TRUE(ys[i]->intact());
    EXPECT_LT(worst(relative_max(ys[i]->values(), expected)), 1e-5) << i;
    Table one(1, c.matrices[i].rows);
    backend.linear({x.row(11), 1, c.kCols, c.kCols}, c.matrices[i], one);
    EXPECT_TRUE(same_bits(one.row(0), ys[i]->row(11), c.matrices[i].rows)) << i;
  }

  ExpertsCase e(random, DType::kF32);
  Table hidden(e.kRows * e.kChosen, e.kInner), out(e.kRows * e.kChosen, e.kWidth), y(e.kRows, e.kWidth),
      expected(e.kRows, e.kWidth);
  backend.experts(e.x, e.added, e.kChosen, e.chosen.data(), e.factors.data(), hidden, out, y);
  Table one(1, e.kWidth);
  backend.experts({e.x.row(9), 1, e.kWidth, e.kWidth}, e.added, e.kChosen, &e.chosen[at(9 * e.kChosen)],
                  &e.factors[at(9 * e.kChosen)], hidden.view().first(e.kChosen), out.view().first(e.kChosen), one);
  EXPECT_TRUE(same_bits(one.row(0), y.row(9), e.kWidth));
  merged->experts(e.x, e.merged, e.kChosen, e.chosen.data(), e.factors.data(), hidden, out, expected);
  EXPECT_LT(worst(relative_max(y.values(), doubles(expected.values()))), 1e-5);
  backend.mlp(e.x, e.added[0], hidden.view().first(e.kRows), y);
  merged->mlp(e.x, e.merged[0], hidden.view().first(e.kRows), expected);
  EXPECT_LT(worst(relative_max(y.values(), doubles(expected.values()))), 1e-5);
  // Without additions, the backend's own bits.
  backend.experts(e.x, e.plain, e.kChosen, e.chosen.data(), e.factors.data(), hidden, out, y);
  merged->experts(e.x, e.plain, e.kChosen, e.chosen.data(), e.factors.data(), hidden, out, expected);
  EXPECT_TRUE(same_bits(y.values(), expected.values()));
}

INSTANTIATE_TEST_SUITE_P(Isas, LowRankTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
