// Products for many rows, experts, the loss and the optimiser, on every instruction set, against sums in double and
// against derivatives of forward passes in double by complex steps: Im f(x + ih) / h is f'(x) to the last digit.
#include <complex>
#include <functional>

#include "backend/cpu/training_backend.h"
#include "backend/testing/gradients.h"
#include "tensor/blocks.h"

namespace qnext {
namespace {

using testing::Random;
using testing::relative_max;
using testing::same_bits;
using testing::Table;
using testing::Weights;
using MlpGradient = TrainingBackend::MlpGradient;
using Complex = std::complex<double>;
using Doubles = std::vector<double>;

constexpr double kStep = 1e-30;

using testing::Arithmetic;

std::unique_ptr<TrainingBackend> backend_of(Arithmetic a, int threads) { return make_cpu_training_backend(threads, a.isa, a.products); }

size_t at(int64_t i) { return static_cast<size_t>(i); }

class TrainingProductsTest : public ::testing::TestWithParam<Arithmetic> {
 protected:
  /// Of the largest of up to 130,000 errors, relative to the root mean square of the tensor. Chains of hundreds of
  /// terms in f32 lose more than those in double that are rounded every 256 terms. Operands in bf16: docs/numerics.md.
  double bound() const {
    if (GetParam().products != Products::kF32) return kBf16Bound;
    return GetParam().isa == Isa::kScalar ? 1e-6 : 1e-5;
  }
  /// Where nothing is a product.
  double f32_bound() const { return GetParam().isa == Isa::kScalar ? 1e-6 : 1e-5; }
  static constexpr double kBf16Bound = 0.04;
  const std::unique_ptr<TrainingBackend> backend_ = backend_of(GetParam(), 2);
};

TEST_P(TrainingProductsTest, Product) {
  testing::Worst worst("relative_max");
  Random random(1);
  struct Shape {
    int64_t m, n, inner;
  };
  for (const Shape& s : {Shape{1, 1, 1}, Shape{3, 5, 7}, Shape{6, 16, 8}, Shape{7, 17, 9}, Shape{13, 33, 300},
                         Shape{300, 20, 31}, Shape{20, 530, 31}, Shape{257, 513, 258}, Shape{1100, 40, 20},
                         Shape{5, 4, 0}, Shape{0, 4, 5}, Shape{4, 0, 5}, Shape{31, 29, 1000}}) {
    const std::vector<float> a = random.vector(s.m * s.inner), b = random.vector(s.n * s.inner);
    // c = a bᵀ is a linear layer, a b what goes back through one, aᵀ b the gradient of its weight.
    enum Product { kNT, kNN, kTN };
    for (const Product form : {kNT, kNN, kTN}) {
      Doubles expected(at(s.m * s.n), 0.0);
      for (int64_t i = 0; i < s.m; ++i) {
        for (int64_t l = 0; l < s.inner; ++l) {
          const double left = a[at(form == kTN ? l * s.m + i : i * s.inner + l)];
          for (int64_t j = 0; j < s.n; ++j) {
            expected[at(i * s.n + j)] += left * b[at(form == kNT ? j * s.inner + l : l * s.n + j)];
          }
        }
      }
      std::vector<float> first;
      for (const int threads : {1, 2, 3}) {
        std::vector<float> c(at(s.m * s.n), form == kNT ? NAN : 0.0f), left = a, right = b;
        const auto rows = [](std::vector<float>& v, int64_t count, int64_t cols) { return Rows{v.data(), count, cols, cols}; };
        const auto backend = backend_of(GetParam(), threads);
        const auto weight = [&](int64_t count, int64_t cols) {
          const auto* data = reinterpret_cast<const std::byte*>(right.data());
          return Matrix{.dtype = DType::kF32, .rows = count, .cols = cols, .data = data};
        };
        if (form == kNT) {
          backend->linear(rows(left, s.m, s.inner), weight(s.n, s.inner), rows(c, s.m, s.n));
        } else if (form == kNN) {
          const Matrix w = weight(s.inner, s.n);
          std::vector<float> x(at(s.m * s.n));
          const TrainingBackend::LinearGradient gradient[] = {{&w, rows(left, s.m, s.inner), nullptr}};
          backend->linear_backward(rows(x, s.m, s.n), gradient, rows(c, s.m, s.n));
        } else {
          std::vector<float> w(at(s.m * s.n));
          const Matrix any{.dtype = DType::kF32, .rows = s.m, .cols = s.n, .data = reinterpret_cast<const std::byte*>(w.data())};
          const TrainingBackend::LinearGradient gradient[] = {{&any, rows(left, s.inner, s.m), c.data()}};
          backend->linear_backward(rows(right, s.inner, s.n), gradient, {});
        }
        if (first.empty()) first = c;
        ASSERT_TRUE(same_bits(c, first)) << threads << " threads";
      }
      EXPECT_LT(worst(relative_max(first, expected)), bound()) << s.m << " " << s.n << " " << s.inner;
    }
  }
}

/// A Q4_K matrix of random blocks and its elements, by decode_block.
struct Q4K {
  std::vector<std::byte> bytes;
  Doubles values;
  Matrix matrix;
  Q4K(Random& random, int64_t rows, int64_t cols) : bytes(at(bytes_of(DType::kQ4_K, rows * cols))) {
    for (std::byte& b : bytes) b = static_cast<std::byte>(random.below(256));
    for (size_t i = 0; i < bytes.size(); i += sizeof(BlockQ4_K)) {
      const uint16_t scales[] = {f32_to_f16(random.uniform(0.001, 0.002)), f32_to_f16(random.uniform(0.001, 0.01))};
      std::memcpy(bytes.data() + i, scales, sizeof scales);
      float block[256];
      decode_block(DType::kQ4_K, bytes.data() + i, block);
      values.insert(values.end(), block, block + 256);
    }
    matrix = {.dtype = DType::kQ4_K, .rows = rows, .cols = cols, .data = bytes.data()};
  }
  double at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * matrix.cols + c)]; }
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
};

/// linear and linear_backward of two products against double, for weights whose elements are at(r, c).
template <typename W>
void check_linear(TrainingBackend& backend, Random& random, const W& w0, const W& w1, const Matrix& m0,
                  const Matrix& m1, bool frozen, int64_t rows, double bound, testing::Worst& worst) {
  const int64_t cols = m0.cols;
  Table x(random, rows, cols), y0(rows, m0.rows), y1(rows, m1.rows), d_y0(random, rows, m0.rows),
      d_y1(random, rows, m1.rows), d_x(random, rows, cols);
  const auto before = d_x.values();
  std::vector<float> d_w0 = random.vector(m0.rows * cols), d_w1 = random.vector(m1.rows * cols);
  Doubles e_y0, e_y1, e_x(before.begin(), before.end()), e_w0(d_w0.begin(), d_w0.end()),
      e_w1(d_w1.begin(), d_w1.end());
  const auto expect = [&](const W& w, int64_t n, Table& d_y, Doubles& e_y, Doubles& e_w) {
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t r = 0; r < n; ++r) {
        double sum = 0.0;
        const double d = d_y.row(t)[r];
        for (int64_t c = 0; c < cols; ++c) {
          const double weight = w(r, c);
          sum += x.row(t)[c] * weight;
          e_x[at(t * cols + c)] += d * weight;
          e_w[at(r * cols + c)] += d * x.row(t)[c];
        }
        e_y.push_back(sum);
      }
    }
  };
  expect(w0, m0.rows, d_y0, e_y0, e_w0);
  expect(w1, m1.rows, d_y1, e_y1, e_w1);
  const Backend::Linear forward[] = {{&m0, y0}, {&m1, y1}};
  backend.linear(x, forward);
  const TrainingBackend::LinearGradient backward[] = {{&m0, d_y0, frozen ? nullptr : d_w0.data()},
                                                      {&m1, d_y1, d_w1.data()}};
  backend.linear_backward(x, backward, d_x);
  ASSERT_TRUE(y0.intact() && y1.intact() && d_x.intact());
  if (frozen) e_w0.assign(d_w0.begin(), d_w0.end());
  EXPECT_LT(worst(relative_max(y0.values(), e_y0)), bound) << rows;
  EXPECT_LT(worst(relative_max(y1.values(), e_y1)), bound) << rows;
  EXPECT_LT(worst(relative_max(d_x.values(), e_x)), bound) << rows;
  EXPECT_LT(worst(relative_max(d_w0, e_w0)), bound) << rows;
  EXPECT_LT(worst(relative_max(d_w1, e_w1)), bound) << rows;
  // Without d_x only the weights' gradients grow.
  const auto d_x_before = d_x.values();
  backend.linear_backward(x, backward, {});
  EXPECT_TRUE(same_bits(d_x.values(), d_x_before));
}

TEST_P(TrainingProductsTest, LinearAndItsGradients) {
  testing::Worst worst("relative_max");
  Random random(2);
  for (const int64_t rows : {0, 1, 2, 37, 300}) {
    for (const auto& [n, cols] : {std::pair<int64_t, int64_t>{1, 1}, {19, 45}, {70, 257}, {520, 33}}) {
      if (n * cols == 1 && rows > 2) continue;  // the sum may be as small as it likes: no tensor to compare it with
      for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
        const Weights w0(random, dtype, n, cols), w1(random, dtype, 5, cols);
        check_linear<std::function<double(int64_t, int64_t)>>(
            *backend_, random, [&](int64_t r, int64_t c) { return w0.at(r, c); },
            [&](int64_t r, int64_t c) { return w1.at(r, c); }, w0.matrix, w1.matrix, dtype != DType::kF32, rows,
            bound(), worst);
      }
    }
  }
  // Scaled fp8, Q4_K, and rows selected from a larger matrix (as in_proj_qkvz has them).
  const Weights f8(random, DType::kF8E4M3, 150, 290, true), f8b(random, DType::kF8E4M3, 3, 290, true);
  check_linear<std::function<double(int64_t, int64_t)>>(
      *backend_, random, [&](int64_t r, int64_t c) { return f8.at(r, c); },
      [&](int64_t r, int64_t c) { return f8b.at(r, c); }, f8.matrix, f8b.matrix, true, 40, bound(), worst);
  const Q4K q(random, 67, 768), q1(random, 9, 768);
  check_linear<std::function<double(int64_t, int64_t)>>(
      *backend_, random, [&](int64_t r, int64_t c) { return q.at(r, c); },
      [&](int64_t r, int64_t c) { return q1.at(r, c); }, q.matrix, q1.matrix, true, 40, bound(), worst);
  const Weights whole(random, DType::kF32, 96, 61);
  const Matrix even = whole.matrix.select_rows(0, 8, 24, 4), odd = whole.matrix.select_rows(8, 16, 24, 4);
  check_linear<std::function<double(int64_t, int64_t)>>(
      *backend_, random, [&](int64_t r, int64_t c) { return whole.at(r / 8 * 24 + r % 8, c); },
      [&](int64_t r, int64_t c) { return whole.at(8 + r / 16 * 24 + r % 16, c); }, even, odd, true, 50, bound(),
      worst);
}

TEST_P(TrainingProductsTest, LinearBitsForAnyThreads) {
  Random random(3);
  const Weights w(random, DType::kF32, 200, 300);
  Table x(random, 270, 300), d_y(random, 270, 200);
  std::vector<float> first_y, first_x, first_w;
  for (const int threads : {1, 2, 3}) {
    const auto backend = backend_of(GetParam(), threads);
    Table y(270, 200), d_x(270, 300);
    for (int64_t t = 0; t < 270; ++t) std::fill_n(d_x.row(t), 300, 0.25f);
    std::vector<float> d_w(200 * 300, 0.5f);
    backend->linear(x, w.matrix, y);
    const TrainingBackend::LinearGradient gradient{&w.matrix, d_y, d_w.data()};
    backend->linear_backward(x, {&gradient, 1}, d_x);
    if (threads == 1) first_y = y.values(), first_x = d_x.values(), first_w = d_w;
    EXPECT_TRUE(same_bits(y.values(), first_y) && same_bits(d_x.values(), first_x) && same_bits(d_w, first_w))
        << threads;
    // A row's bits depend on nothing but the row.
    Table one(1, 200);
    backend->linear({x.row(101), 1, 300, 300}, w.matrix, one);
    EXPECT_TRUE(same_bits(one.row(0), y.row(101), 200));
  }
}

// ---- SwiGLU and experts
// ----------------------------------------------------------------------------------------------

/// Parameters of experts in T, and the naive forward pass.
template <typename T>
struct Model {
  int64_t width, inner, k;
  std::vector<std::vector<T>> gate, up, down;  // by expert
  std::vector<T> x, weights;
  std::vector<int32_t> chosen;

  /// sum of d_y * y over the rows; rows [begin, end).
  T loss(Table& d_y, int64_t begin, int64_t end, Doubles* y = nullptr) const {
    T total = 0.0;
    std::vector<T> row(at(width)), h(at(inner));
    for (int64_t t = begin; t < end; ++t) {
      std::fill(row.begin(), row.end(), T(0.0));
      for (int64_t i = t * k; i < (t + 1) * k; ++i) {
        const size_t e = at(chosen[at(i)]);
        for (int64_t f = 0; f < inner; ++f) {
          T g = 0.0, u = 0.0;
          for (int64_t d = 0; d < width; ++d) {
            g += x[at(t * width + d)] * gate[e][at(f * width + d)];
            u += x[at(t * width + d)] * up[e][at(f * width + d)];
          }
          h[at(f)] = g / (1.0 + std::exp(-g)) * u;
        }
        for (int64_t d = 0; d < width; ++d) {
          T sum = 0.0;
          for (int64_t f = 0; f < inner; ++f) sum += h[at(f)] * down[e][at(d * inner + f)];
          row[at(d)] += weights[at(i)] * sum;
        }
      }
      for (int64_t d = 0; d < width; ++d) total += row[at(d)] * static_cast<double>(d_y.row(t)[d]);
      if constexpr (std::is_same_v<T, double>) {
        if (y != nullptr) y->insert(y->end(), row.begin(), row.end());
      }
    }
    return total;
  }
};

struct ExpertsCase {
  int64_t rows, width, inner, experts, k;
  bool crowded;  ///< everything on the first k experts
};

class ExpertsGradient {
 public:
  ExpertsGradient(Random& random, const ExpertsCase& c)
      : c_(c),
        x(random, c.rows, c.width),
        d_y(random, c.rows, c.width),
        factors(random.vector(c.rows * c.k, 0.05, 1.0)) {
    const double size = 1.5 / std::sqrt(static_cast<double>(c.width));
    for (int64_t e = 0; e < c.experts; ++e) {
      gate.push_back(random.vector(c.inner * c.width, -2 * size, 2 * size));
      up.push_back(random.vector(c.inner * c.width, -2 * size, 2 * size));
      down.push_back(random.vector(c.inner * c.width, -size, size));
    }
    for (int64_t i = 0; i < c.rows * c.k; ++i) {
      // Distinct per row; the last expert only where all of them are needed.
      const int64_t among = c.experts > c.k ? c.experts - 1 : c.experts;
      chosen.push_back(static_cast<int32_t>(c.crowded ? i % c.k : (i / c.k * 5 + i % c.k) % among));
    }
    for (int64_t e = 0; e < c.experts; ++e) {
      const auto matrix = [](const std::vector<float>& v, int64_t rows, int64_t cols) {
        return Matrix{
            .dtype = DType::kF32, .rows = rows, .cols = cols, .data = reinterpret_cast<const std::byte*>(v.data())};
      };
      weights.push_back({matrix(gate[at(e)], c.inner, c.width), matrix(up[at(e)], c.inner, c.width),
                         matrix(down[at(e)], c.width, c.inner)});
    }
  }

  template <typename T>
  Model<T> model() {
    Model<T> m{.width = c_.width,
               .inner = c_.inner,
               .k = c_.k,
               .gate = {},
               .up = {},
               .down = {},
               .x = {},
               .weights = {},
               .chosen = chosen};
    for (size_t e = 0; e < gate.size(); ++e) {
      m.gate.emplace_back(gate[e].begin(), gate[e].end());
      m.up.emplace_back(up[e].begin(), up[e].end());
      m.down.emplace_back(down[e].begin(), down[e].end());
    }
    const auto values = x.values();
    m.x.assign(values.begin(), values.end());
    m.weights.assign(factors.begin(), factors.end());
    return m;
  }

  struct Gradients {
    std::vector<std::vector<float>> gate, up, down;
    std::vector<float> x, factors;
    bool operator==(const Gradients& o) const {
      for (size_t e = 0; e < gate.size(); ++e) {
        if (!same_bits(gate[e], o.gate[e]) || !same_bits(up[e], o.up[e]) || !same_bits(down[e], o.down[e]))
          return false;
      }
      return same_bits(x, o.x) && same_bits(factors, o.factors);
    }
  };
  /// All gradients start at `start`.
  Gradients run(TrainingBackend& backend, float start, bool as_mlp = false) {
    Gradients g{gate, up, down, {}, std::vector<float>(factors.size(), NAN)};
    std::vector<MlpGradient> d_experts;
    for (size_t e = 0; e < gate.size(); ++e) {
      for (auto* v : {&g.gate[e], &g.up[e], &g.down[e]}) std::fill(v->begin(), v->end(), start);
      d_experts.push_back({g.gate[e].data(), g.up[e].data(), g.down[e].data()});
    }
    Table d_x(c_.rows, c_.width);
    for (int64_t t = 0; t < c_.rows; ++t) std::fill_n(d_x.row(t), c_.width, start);
    if (as_mlp) {
      backend.mlp_backward(x, weights[0], d_y, d_x, d_experts[0]);
    } else {
      backend.experts_backward(x, weights, c_.k, chosen.data(), factors.data(), d_y, d_x, g.factors.data(),
                               d_experts);
    }
    EXPECT_TRUE(d_x.intact());
    g.x = d_x.values();
    return g;
  }

  ExpertsCase c_;
  Table x, d_y;
  std::vector<float> factors;
  std::vector<std::vector<float>> gate, up, down;
  std::vector<int32_t> chosen;
  std::vector<MlpWeights> weights;
};

/// Gradients at `samples` random elements (all when there are no more) against complex steps; the size of the whole
/// tensor gives the scale.
class Sampler {
 public:
  Sampler(ExpertsGradient& c, Random& random) : c_(c), random_(random), model_(c.model<Complex>()) {}
  double error(std::vector<Complex>& parameter, const std::vector<float>& got, double start, int samples,
               int64_t row = -1) {
    double squares = 0.0, worst = 0.0;
    for (const float g : got) squares += (g - start) * (g - start);
    const double rms = std::sqrt(squares / static_cast<double>(std::max<size_t>(1, got.size())));
    const auto size = static_cast<int64_t>(got.size());
    for (int64_t s = 0; s < std::min<int64_t>(samples, size); ++s) {
      const int64_t i = size <= samples ? s : random_.below(size);
      const int64_t t = row < 0 ? -1 : i / row;  // only this row depends on it
      parameter[at(i)].imag(kStep);
      const double derivative = model_.loss(c_.d_y, t < 0 ? 0 : t, t < 0 ? c_.c_.rows : t + 1).imag() / kStep;
      parameter[at(i)].imag(0.0);
      worst = std::max(worst, std::fabs(got[at(i)] - start - derivative));
    }
    return rms == 0.0 ? worst : worst / rms;
  }
  Model<Complex>& model() { return model_; }

 private:
  ExpertsGradient& c_;
  Random& random_;
  Model<Complex> model_;
};

TEST_P(TrainingProductsTest, ExpertsAndTheirGradients) {
  testing::Worst worst("relative_max");
  Random random(4);
  for (const ExpertsCase& c : {ExpertsCase{0, 8, 4, 3, 2, false}, ExpertsCase{1, 1, 1, 1, 1, false},
                               ExpertsCase{5, 19, 7, 4, 2, false}, ExpertsCase{40, 45, 37, 7, 3, false},
                               ExpertsCase{300, 24, 16, 3, 2, true}, ExpertsCase{33, 300, 9, 2, 1, false},
                               ExpertsCase{20, 13, 270, 3, 2, false}, ExpertsCase{70, 256, 64, 6, 4, false}}) {
    ExpertsGradient one(random, c);
    const std::string name =
        std::to_string(c.rows) + " rows of " + std::to_string(c.width) + ", inner " + std::to_string(c.inner);
    Doubles expected;
    one.model<double>().loss(one.d_y, 0, c.rows, &expected);
    std::vector<float> first;
    ExpertsGradient::Gradients gradients;
    for (const int threads : {1, 2, 3}) {
      const auto backend = backend_of(GetParam(), threads);
      Table y(c.rows, c.width), hidden(c.rows * c.k, c.inner), expert_out(c.rows * c.k, c.width);
      backend->experts(one.x, one.weights, c.k, one.chosen.data(), one.factors.data(), hidden, expert_out, y);
      ASSERT_TRUE(y.intact() && hidden.intact() && expert_out.intact());
      const auto g = one.run(*backend, 0.0f);
      if (threads == 1) first = y.values(), gradients = g;
      ASSERT_TRUE(same_bits(y.values(), first)) << name;
      ASSERT_TRUE(g == gradients) << name << ", " << threads << " threads";
      if (c.rows > 4) {  // a row alone
        Table alone(1, c.width);
        backend->experts({one.x.row(3), 1, c.width, c.width}, one.weights, c.k, &one.chosen[at(3 * c.k)],
                         &one.factors[at(3 * c.k)], hidden.view().first(c.k), expert_out.view().first(c.k), alone);
        ASSERT_TRUE(same_bits(alone.row(0), y.row(3), c.width));
      }
    }
    EXPECT_LT(worst(relative_max(first, expected)), bound()) << name;
    Sampler sampler(one, random);
    Model<Complex>& m = sampler.model();
    const int samples = c.rows * c.inner * c.width > 100000 ? 3 : 25;
    for (size_t e = 0; e < m.gate.size(); ++e) {
      EXPECT_LT(worst(sampler.error(m.gate[e], gradients.gate[e], 0.0, samples)), bound()) << name << ", gate " << e;
      EXPECT_LT(worst(sampler.error(m.up[e], gradients.up[e], 0.0, samples)), bound()) << name << ", up " << e;
      EXPECT_LT(worst(sampler.error(m.down[e], gradients.down[e], 0.0, samples)), bound()) << name << ", down " << e;
    }
    EXPECT_LT(worst(sampler.error(m.x, gradients.x, 0.0, 100, c.width)), bound()) << name << ", x";
    EXPECT_LT(worst(sampler.error(m.weights, gradients.factors, 0.0, 100, c.k)), bound()) << name << ", weights";
    // Gradients are added to what is there, an expert without rows keeps its own.
    const auto more = one.run(*backend_, 0.5f);
    EXPECT_LT(sampler.error(m.x, more.x, 0.5, 20, c.width), 10 * bound()) << name;
    for (size_t e = 0; e < m.gate.size(); ++e) {
      EXPECT_LT(sampler.error(m.down[e], more.down[e], 0.5, 1), 10 * bound()) << name;
      if (std::find(one.chosen.begin(), one.chosen.end(), static_cast<int32_t>(e)) != one.chosen.end()) continue;
      const std::vector<float> kept(one.gate[e].size(), 0.5f);
      EXPECT_TRUE(same_bits(more.gate[e], kept) && same_bits(more.up[e], kept) && same_bits(more.down[e], kept))
          << name;
    }
  }
}

TEST_P(TrainingProductsTest, FrozenExperts) {
  Random random(5);
  const ExpertsCase c{70, 40, 24, 5, 2, false};
  ExpertsGradient one(random, c);
  const auto all = one.run(*backend_, 0.0f);
  // Gradients of some matrices only; d_x and d_weights stay the same.
  std::vector<float> d_up(at(c.inner * c.width), 0.0f), d_factors(one.factors.size(), NAN);
  std::vector<MlpGradient> some(at(c.experts));
  some[1].up = d_up.data();
  Table d_x(c.rows, c.width);
  for (int64_t t = 0; t < c.rows; ++t) std::fill_n(d_x.row(t), c.width, 0.0f);
  backend_->experts_backward(one.x, one.weights, c.k, one.chosen.data(), one.factors.data(), one.d_y, d_x,
                             d_factors.data(), some);
  EXPECT_TRUE(same_bits(d_up, all.up[1]) && same_bits(d_x.values(), all.x) && same_bits(d_factors, all.factors));
  // bf16 experts equal the same weights in f32.
  std::vector<Weights> bf16;
  std::vector<std::vector<float>> floats;
  std::vector<MlpWeights> half, full;
  floats.reserve(at(3 * c.experts));
  bf16.reserve(at(3 * c.experts));
  for (int64_t e = 0; e < c.experts; ++e) {
    const auto add = [&](int64_t rows, int64_t cols, Matrix& in_half, Matrix& in_full) {
      const Weights& w = bf16.emplace_back(random, DType::kBF16, rows, cols);
      auto& v = floats.emplace_back();
      for (int64_t i = 0; i < rows * cols; ++i) v.push_back(static_cast<float>(w.at(i / cols, i % cols)));
      in_half = w.matrix;
      in_full = {
          .dtype = DType::kF32, .rows = rows, .cols = cols, .data = reinterpret_cast<const std::byte*>(v.data())};
    };
    add(c.inner, c.width, half.emplace_back().gate, full.emplace_back().gate);
    add(c.inner, c.width, half.back().up, full.back().up);
    add(c.width, c.inner, half.back().down, full.back().down);
  }
  std::vector<float> first;
  for (const auto* weights : {&half, &full}) {
    Table y(c.rows, c.width), hidden(c.rows * c.k, c.inner), out(c.rows * c.k, c.width), gradient(c.rows, c.width);
    for (int64_t t = 0; t < c.rows; ++t) std::fill_n(gradient.row(t), c.width, 0.0f);
    backend_->experts(one.x, *weights, c.k, one.chosen.data(), one.factors.data(), hidden, out, y);
    backend_->experts_backward(one.x, *weights, c.k, one.chosen.data(), one.factors.data(), one.d_y, gradient,
                               d_factors.data(), {});
    auto values = y.values();
    for (const float g : gradient.values()) values.push_back(g);
    values.insert(values.end(), d_factors.begin(), d_factors.end());
    if (first.empty()) first = values;
    EXPECT_TRUE(same_bits(values, first));
  }
}

TEST_P(TrainingProductsTest, MlpAndItsGradients) {
  testing::Worst worst("relative_max");
  Random random(6);
  for (const auto& [rows, width, inner] : {std::array<int64_t, 3>{0, 4, 4}, {1, 3, 2}, {37, 45, 67}, {270, 33, 20}}) {
    ExpertsGradient one(random, {rows, width, inner, 1, 1, true});
    std::fill(one.factors.begin(), one.factors.end(), 1.0f);
    Doubles expected;
    one.model<double>().loss(one.d_y, 0, rows, &expected);
    std::vector<float> first;
    ExpertsGradient::Gradients gradients;
    for (const int threads : {1, 2, 3}) {
      const auto backend = backend_of(GetParam(), threads);
      Table y(rows, width), hidden(rows, inner);
      backend->mlp(one.x, one.weights[0], hidden, y);
      ASSERT_TRUE(y.intact() && hidden.intact());
      const auto g = one.run(*backend, 0.0f, true);
      if (threads == 1) first = y.values(), gradients = g;
      ASSERT_TRUE(same_bits(y.values(), first));
      ASSERT_TRUE(same_bits(g.x, gradients.x) && same_bits(g.gate[0], gradients.gate[0]) &&
                  same_bits(g.up[0], gradients.up[0]) && same_bits(g.down[0], gradients.down[0]));
    }
    EXPECT_LT(worst(relative_max(first, expected)), bound());
    Sampler sampler(one, random);
    Model<Complex>& m = sampler.model();
    EXPECT_LT(worst(sampler.error(m.gate[0], gradients.gate[0], 0.0, 30)), bound());
    EXPECT_LT(worst(sampler.error(m.up[0], gradients.up[0], 0.0, 30)), bound());
    EXPECT_LT(worst(sampler.error(m.down[0], gradients.down[0], 0.0, 30)), bound());
    EXPECT_LT(worst(sampler.error(m.x, gradients.x, 0.0, 200, width)), bound());
  }
}

// ---- the loss and the optimiser
// --------------------------------------------------------------------------------------

TEST_P(TrainingProductsTest, EmbedBackward) {
  Random random(7);
  for (const int64_t width : {1, 45, 300}) {
    constexpr int64_t kRows = 50;
    Table d_out(random, kRows, width);
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t < kRows; ++t) tokens.push_back(static_cast<int32_t>(random.below(7)));
    std::vector<float> expected(at(8 * width), 0.5f), got = expected;
    for (int64_t t = 0; t < kRows; ++t) {  // the order is given, so the bits are
      for (int64_t d = 0; d < width; ++d) expected[at(tokens[at(t)] * width + d)] += d_out.row(t)[d];
    }
    backend_->embed_backward(tokens, d_out, got.data());
    EXPECT_TRUE(same_bits(got, expected)) << width;
  }
}

TEST_P(TrainingProductsTest, CrossEntropy) {
  testing::Worst worst("relative_max"), worst_loss("loss");
  Random random(8);
  struct Case {
    int64_t rows, width, vocabulary;
    double spread;
  };
  for (const Case& c : {Case{0, 4, 5, 1.0}, Case{1, 3, 1, 1.0}, Case{9, 17, 33, 1.0}, Case{70, 20, 1030, 2.0},
                        Case{300, 12, 70, 20.0}, Case{40, 40, 5000, 1.0}}) {
    Table x(random, c.rows, c.width, -c.spread, c.spread);
    const Weights head(random, DType::kF32, c.vocabulary, c.width);
    std::vector<int32_t> targets;
    for (int64_t t = 0; t < c.rows; ++t) {
      targets.push_back(t % 5 == 3 ? -1 : static_cast<int32_t>(random.below(c.vocabulary)));
    }
    constexpr float kScale = 0.125f;
    double loss = 0.0;
    int64_t count = 0;
    Doubles e_x(at(c.rows * c.width), 0.0), e_head(at(c.vocabulary * c.width), 0.0);
    std::vector<int32_t> e_predictions;
    for (int64_t t = 0; t < c.rows; ++t) {
      Doubles logits(at(c.vocabulary), 0.0);
      for (int64_t v = 0; v < c.vocabulary; ++v) {
        for (int64_t d = 0; d < c.width; ++d) logits[at(v)] += x.row(t)[d] * head.at(v, d);
      }
      const auto best = std::max_element(logits.begin(), logits.end());
      e_predictions.push_back(targets[at(t)] < 0 ? -1 : static_cast<int32_t>(best - logits.begin()));
      if (targets[at(t)] < 0) continue;
      ++count;
      double sum = 0.0;
      for (const double l : logits) sum += std::exp(l - *best);
      const double most = *best, lse = most + std::log(sum);
      loss += lse - logits[at(targets[at(t)])];
      for (int64_t v = 0; v < c.vocabulary; ++v) {
        const double d = kScale * (std::exp(logits[at(v)] - lse) - (v == targets[at(t)] ? 1.0 : 0.0));
        for (int64_t i = 0; i < c.width; ++i) {
          e_x[at(t * c.width + i)] += d * head.at(v, i);
          e_head[at(v * c.width + i)] += d * x.row(t)[i];
        }
      }
    }
    TrainingBackend::CrossEntropy first{};
    std::vector<float> first_x, first_head;
    for (const int threads : {1, 2, 3}) {
      const auto backend = backend_of(GetParam(), threads);
      Table d_x(c.rows, c.width);
      std::vector<float> d_head(at(c.vocabulary * c.width), 0.0f);
      std::vector<int32_t> predictions(at(c.rows), -7);
      const auto got = backend->cross_entropy(x, head.matrix, targets, kScale, d_x, d_head.data(),
                                              threads == 3 ? std::span<int32_t>() : std::span<int32_t>(predictions));
      ASSERT_TRUE(d_x.intact());
      if (threads == 1) first = got, first_x = d_x.values(), first_head = d_head;
      EXPECT_EQ(got.loss, first.loss);
      EXPECT_EQ(got.targets, count);
      ASSERT_TRUE(same_bits(d_x.values(), first_x) && same_bits(d_head, first_head)) << threads;
      if (threads < 3) {
        if (GetParam().products == Products::kF32) {
          EXPECT_EQ(predictions, e_predictions);
        }
      }
      EXPECT_EQ(backend->cross_entropy(x, head.matrix, targets, kScale, {}, nullptr, {}).loss, first.loss);
    }
    EXPECT_LT(worst_loss(std::fabs(first.loss - loss) / std::max(1.0, loss)), bound());
    // The absolute error of a logit, which is rounded to f32, is the relative error of a probability.
    const double limit = c.spread > 10.0 ? 10 * bound() : 2 * bound();
    EXPECT_LT(worst(relative_max(first_x, e_x)), limit) << c.rows;
    EXPECT_LT(worst(relative_max(first_head, e_head)), limit) << c.rows;
  }
}

TEST_P(TrainingProductsTest, CrossEntropyTakesTheLowestOfEquals) {
  std::vector<float> head(8 * 2, 0.0f);
  for (const size_t v : {3, 5}) head[2 * v] = 1.0f;
  const Matrix matrix{
      .dtype = DType::kF32, .rows = 8, .cols = 2, .data = reinterpret_cast<const std::byte*>(head.data())};
  float x[] = {1.0f, 0.0f, -1.0f, 0.0f};
  const std::vector<int32_t> targets = {7, 7}, none = {-1, -1};
  std::vector<int32_t> predictions(2);
  backend_->cross_entropy({x, 2, 2, 2}, matrix, targets, 1.0f, {}, nullptr, predictions);
  EXPECT_EQ(predictions, (std::vector<int32_t>{3, 0}));
  const auto got = backend_->cross_entropy({x, 2, 2, 2}, matrix, none, 1.0f, {}, nullptr, predictions);
  EXPECT_EQ(predictions, none);
  EXPECT_EQ(got.targets, 0);
  EXPECT_EQ(got.loss, 0.0);
  x[1] = NAN;
  EXPECT_TRUE(std::isnan(backend_->cross_entropy({x, 2, 2, 2}, matrix, targets, 1.0f, {}, nullptr, predictions).loss));
}

TEST_P(TrainingProductsTest, AdamW) {
  testing::Worst worst("relative_max");
  Random random(9);
  for (const int64_t n : {0, 1, 19, 40000}) {
    const std::vector<float> w = random.vector(n), g = random.vector(n), m = random.vector(n, -0.1, 0.1),
                             v = random.vector(n, 0.0, 0.1);
    const TrainingBackend::AdamW step{0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.271f, 0.1426f, 0.7f};
    Doubles e_w, e_m, e_v;
    for (size_t i = 0; i < w.size(); ++i) {
      const double gradient = static_cast<double>(g[i]) * step.gradient_scale;
      const double b1 = step.beta1, b2 = step.beta2;
      e_m.push_back(b1 * m[i] + (1.0 - b1) * gradient);
      e_v.push_back(b2 * v[i] + (1.0 - b2) * gradient * gradient);
      const double move = e_m[i] / step.correction1 / (std::sqrt(e_v[i] / step.correction2) + step.eps);
      e_w.push_back(w[i] - step.learning_rate * (move + static_cast<double>(step.weight_decay) * w[i]));
    }
    std::vector<float> got_w = w, got_m = m, got_v = v;
    backend_->adamw(got_w, g, got_m, got_v, step);
    EXPECT_LT(worst(relative_max(got_w, e_w)), f32_bound());
    EXPECT_LT(worst(relative_max(got_m, e_m)), f32_bound());
    EXPECT_LT(worst(relative_max(got_v, e_v)), f32_bound());
  }
}

TEST_P(TrainingProductsTest, SumOfSquares) {
  Random random(10);
  for (const int64_t n : {0, 1, 31, 1025, 200003}) {
    std::vector<float> x = random.vector(n, -2.0, 2.0);
    double expected = 0.0;
    for (const float v : x) expected += static_cast<double>(v) * v;
    const double got = backend_->sum_of_squares(x);
    EXPECT_NEAR(got, expected, 1e-6 * expected);
    for (const int threads : {1, 3}) EXPECT_EQ(backend_of(GetParam(), threads)->sum_of_squares(x), got);
    if (n == 0) continue;
    x[at(n - 1)] = NAN;
    EXPECT_TRUE(std::isnan(backend_->sum_of_squares(x)));
    x[at(n - 1)] = INFINITY;
    EXPECT_FALSE(std::isfinite(backend_->sum_of_squares(x)));
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, TrainingProductsTest, ::testing::ValuesIn(testing::arithmetics()), testing::arithmetic_name);

}  // namespace
}  // namespace qnext
