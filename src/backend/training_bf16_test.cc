// Products of operands rounded to bf16: bit for bit the sums that gemm_kernels.h states, and that rounding happens
// where it is meant to and nowhere else.
#include <bit>
#include <span>

#include "backend/testing/gradients.h"
#include "tensor/blocks.h"

namespace qnext {
namespace {

using testing::Arithmetic;
using testing::Random;
using testing::same_bits;
using testing::Table;
using testing::Weights;

size_t at(int64_t i) { return static_cast<size_t>(i); }

/// The nearest bf16, ties to even, by arithmetic on the value.
float nearest_bf16(float x) {
  if (x == 0.0f || !std::isfinite(x)) return x;
  int exponent = 0;
  std::frexp(x, &exponent);                       // |x| in [2^(exponent - 1), 2^exponent)
  const int unit = std::max(exponent, -125) - 8;  // 8 significant bits; fewer below 2^-126
  const double scaled = std::ldexp(static_cast<double>(x), -unit), rounded = std::ldexp(std::nearbyint(scaled), unit);
  return std::fabs(rounded) > 0x1.FEp127 ? std::copysign(INFINITY, x) : static_cast<float>(rounded);
}
std::vector<float> nearest_bf16(std::vector<float> x) {
  for (float& v : x) v = nearest_bf16(v);
  return x;
}

/// Numbers of all sizes, some of whose products are too small for f32, and zeros.
std::vector<float> numbers(Random& random, int64_t n) {
  std::vector<float> x = random.vector(n);
  for (float& v : x) {
    const int64_t kind = random.below(16);
    if (kind == 0) v = 0.0f;
    if (kind == 1) v *= 0x1p-70f;
    if (kind == 2) v *= 0x1p-126f;
    if (kind == 3) v *= 1000.0f;
  }
  return x;
}

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
float step(float a, float b, float c) { return flushed(std::fma(flushed(a), flushed(b), flushed(c))); }

/// c += the products of one term's row and column, both rounded, as ProductKernels states it.
float chain(Products products, std::span<const float> a, std::span<const float> b, float c) {
  const auto of = [](std::span<const float> x, size_t l) { return l < x.size() ? nearest_bf16(x[l]) : 0.0f; };
  switch (products) {
    case Products::kF32:
    case Products::kBf16:
      for (size_t l = 0; l < a.size(); ++l) c = std::fma(of(a, l), of(b, l), c);
      return c;
    case Products::kBf16Avx512:
    case Products::kBf16EmulatedAvx512: {
      for (size_t l = 0; l < (a.size() + 31) / 32 * 32; l += 2) {
        c = step(of(a, l), of(b, l), step(of(a, l + 1), of(b, l + 1), c));
      }
      return c;
    }
    case Products::kBf16Amx:
    case Products::kBf16EmulatedAmx:
      for (size_t first = 0; first < a.size(); first += 32) {
        float even = 0.0f, odd = 0.0f;
        for (size_t l = first; l < first + 32; l += 2) {
          even = step(of(a, l), of(b, l), even);
          odd = step(of(a, l + 1), of(b, l + 1), odd);
        }
        c = flushed(flushed(c) + flushed(even + odd));
      }
      return c;
  }
  return c;
}

const ProductKernels& kernels(Arithmetic a) {
  const GemmKernels& k = training_kernels_for(a.isa).gemm;
  switch (a.products) {
    case Products::kBf16Avx512:
      return product_kernels_bf16_avx512();
    case Products::kBf16Amx:
      return product_kernels_bf16_amx();
    case Products::kBf16EmulatedAvx512:
      return k.bf16_emulated_avx512;
    case Products::kBf16EmulatedAmx:
      return k.bf16_emulated_amx;
    default:
      return k.bf16;
  }
}

bool emulated(Products p) { return p != Products::kBf16Avx512 && p != Products::kBf16Amx; }

/// One side of a product: its numbers, and how they lie.
struct Side {
  std::vector<float> values;  // [lines][inner]
  std::vector<float> memory;
  std::vector<int32_t> index;
  GemmOperand operand;
  std::span<const float> line(int64_t i, int64_t inner) const { return {values.data() + i * inner, at(inner)}; }

  enum Form { kLines, kInnerLines, kIndexed, kIndexedInnerLines, kForms };
  Side(Random& random, int64_t lines, int64_t inner, Form form) : values(numbers(random, lines * inner)) {
    const bool across = form == kInnerLines || form == kIndexedInnerLines,
               indexed = form == kIndexed || form == kIndexedInnerLines;
    const int64_t rows = across ? inner : lines, cols = across ? lines : inner, stride = cols + 3;
    memory.assign(at(std::max<int64_t>(1, (indexed ? 2 : 1) * rows * stride)), NAN);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t to = indexed ? 2 * (rows - 1 - r) : r;  // every other one, backwards
      index.push_back(static_cast<int32_t>(to));
      for (int64_t c = 0; c < cols; ++c)
        memory[at(to * stride + c)] = values[at(across ? c * inner + r : r * inner + c)];
    }
    operand = {
        .data = memory.data(), .stride = stride, .index = indexed ? index.data() : nullptr, .inner_lines = across};
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;
};

float magnitude(std::span<const float> a, std::span<const float> b) {
  float sum = 0.0f;
  for (size_t l = 0; l < a.size(); ++l) sum += std::fabs(a[l] * b[l]);
  return sum;
}

/// Real instructions may sum in an order of their own: within the rounding of some thousand f32 sums.
bool near(const std::vector<float>& got, const std::vector<float>& expected, const std::vector<float>& magnitudes) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::fabs(got[i] - expected[i]) <= 1e-5f * magnitudes[i] + 0x1p-100f)) return false;
  }
  return got.size() == expected.size();
}

class TrainingBf16Test : public ::testing::TestWithParam<Arithmetic> {
 protected:
  std::unique_ptr<TrainingBackend> backend(int threads = 2) const {
    return make_cpu_training_backend(threads, GetParam().isa, GetParam().products);
  }
  /// The scalar set's own arithmetic is in double between loads and stores; what is emulated is not.
  bool in_double() const { return GetParam().isa == Isa::kScalar && GetParam().products == Products::kBf16; }
};

TEST_P(TrainingBf16Test, SumsAreThoseStated) {
  if (in_double()) GTEST_SKIP() << "sums in double";
  Random random(1);
  const ProductKernels& k = kernels(GetParam());
  std::vector<float> scratch_memory(at(k.scratch_floats + 16), NAN);
  float* scratch = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch_memory.data()) + 63) / 64 * 64);
  struct Shape {
    int64_t m, n, inner, more;  // `more`: the inner dimension of a second term
  };
  for (const Shape& s : {Shape{1, 1, 1, 0}, Shape{3, 5, 2, 7}, Shape{16, 16, 32, 0}, Shape{17, 15, 31, 33},
                         Shape{32, 32, 64, 1}, Shape{33, 47, 65, 30}, Shape{48, 33, 96, 0}, Shape{15, 70, 513, 40},
                         Shape{270, 21, 40, 0}, Shape{20, 530, 35, 0}, Shape{40, 40, 1100, 3}}) {
    for (int form = 0; form < Side::kForms; ++form) {
      for (int other = 0; other < Side::kForms; ++other) {
        if (s.m * s.n * s.inner > 100000 && form + other != 3) continue;
        const Side a(random, s.m, s.inner, static_cast<Side::Form>(form)),
            b(random, s.n, s.inner, static_cast<Side::Form>(other));
        const Side a2(random, s.m, s.more, static_cast<Side::Form>(other)),
            b2(random, s.n, s.more, static_cast<Side::Form>(form));
        const GemmTerm terms[] = {{a.operand, b.operand, s.inner}, {a2.operand, b2.operand, s.more}};
        const bool accumulate = (form + other) % 2 == 1, indexed = form % 2 == 1;
        const std::vector<float> start = random.vector(s.m * s.n);
        std::vector<int32_t> rows;
        for (int64_t i = 0; i < s.m; ++i) rows.push_back(static_cast<int32_t>(indexed ? s.m - 1 - i : i));
        std::vector<float> expected(at(s.m * s.n)), magnitudes(expected.size());
        for (int64_t i = 0; i < s.m; ++i) {
          for (int64_t j = 0; j < s.n; ++j) {
            const int64_t to = rows[at(i)] * s.n + j;
            magnitudes[at(to)] = std::fabs(start[at(to)]) + magnitude(a.line(i, s.inner), b.line(j, s.inner)) +
                                 magnitude(a2.line(i, s.more), b2.line(j, s.more));
            const float first =
                chain(GetParam().products, a.line(i, s.inner), b.line(j, s.inner), accumulate ? start[at(to)] : 0.0f);
            expected[at(to)] = chain(GetParam().products, a2.line(i, s.more), b2.line(j, s.more), first);
          }
        }
        for (const bool cut : {false, true}) {
          Table c(s.m, s.n);
          for (int64_t i = 0; i < s.m; ++i) std::copy_n(start.data() + i * s.n, s.n, c.row(i));
          const GemmJob job{.terms = {terms, s.more > 0 ? 2u : 1u},
                            .c = c.view().data,
                            .ldc = c.view().stride,
                            .c_index = indexed ? rows.data() : nullptr,
                            .m = s.m,
                            .n = s.n,
                            .accumulate = accumulate};
          const int64_t row = cut ? s.m / 3 : s.m, col = cut ? s.n / 2 : s.n;
          k.multiply(job, 0, row, 0, col, scratch);
          if (cut) {
            k.multiply(job, row, s.m, 0, col, scratch);
            k.multiply(job, 0, s.m, col, s.n, scratch);
          }
          ASSERT_TRUE(c.intact());
          ASSERT_TRUE(emulated(GetParam().products) ? same_bits(c.values(), expected) : near(c.values(), expected, magnitudes))
              << s.m << " " << s.n << " " << s.inner << " forms " << form << " " << other << " cut " << cut;
        }
      }
    }
  }
}

/// Two operands that are each off by 2^-8 at most (bf16 has 8 significant bits), and sums in f32.
TEST_P(TrainingBf16Test, WithinTheBoundOfRounding) {
  testing::Worst worst("of_bound");
  Random random(6);
  for (const int64_t inner : {1, 31, 300, 2000}) {
    const Weights w(random, DType::kF32, 37, inner);
    Table x(random, 40, inner), y(40, 37);
    backend()->linear(x, w.matrix, y);
    for (int64_t t = 0; t < 40; ++t) {
      for (int64_t r = 0; r < 37; ++r) {
        double sum = 0.0, magnitudes = 0.0;
        for (int64_t c = 0; c < inner; ++c) {
          const double product = static_cast<double>(x.row(t)[c]) * w.at(r, c);
          sum += product;
          magnitudes += std::fabs(product);
        }
        const double bound = (0x1p-7 + 0x1p-16 + static_cast<double>(inner) * testing::kRounding) * magnitudes;
        EXPECT_LE(worst(std::fabs(y.row(t)[r] - sum) / bound), 1.0) << inner;
      }
    }
  }
}

/// Weights of other types are rounded after they were expanded.
TEST_P(TrainingBf16Test, AnyTypeOfWeights) {
  Random random(2);
  const Weights f16(random, DType::kF16, 37, 70), bf16(random, DType::kBF16, 37, 70),
      f8(random, DType::kF8E4M3, 37, 70, true);
  for (const Weights* w : {&f16, &bf16, &f8}) {
    std::vector<float> floats;
    for (int64_t i = 0; i < 37 * 70; ++i) floats.push_back(w->matrix.at(i / 70, i % 70));
    const Matrix same{
        .dtype = DType::kF32, .rows = 37, .cols = 70, .data = reinterpret_cast<const std::byte*>(floats.data())};
    Table x(random, 20, 70), y(20, 37), y_same(20, 37), d_x(20, 70), d_x_same(20, 70);
    for (int64_t t = 0; t < 20; ++t) std::fill_n(d_x.row(t), 70, 0.0f), std::fill_n(d_x_same.row(t), 70, 0.0f);
    const auto b = backend();
    b->linear(x, w->matrix, y);
    b->linear(x, same, y_same);
    const TrainingBackend::LinearGradient back{&w->matrix, y, {}}, back_same{&same, y, {}};
    b->linear_backward(x, {&back, 1}, d_x);
    b->linear_backward(x, {&back_same, 1}, d_x_same);
    EXPECT_TRUE(same_bits(y.values(), y_same.values()) && same_bits(d_x.values(), d_x_same.values()));
  }
}

/// Not with f32: every operand is rounded before it is multiplied, so that rounding it beforehand changes no bit, and
/// not rounding changes nearly all.
TEST_P(TrainingBf16Test, OperandsAreRounded) {
  Random random(3);
  constexpr int64_t kRows = 45, kWidth = 52, kInner = 39, kExperts = 3, kSlots = 2;
  std::vector<std::vector<float>> raw;
  for (int64_t e = 0; e < kExperts; ++e) {
    for (int i = 0; i < 3; ++i) raw.push_back(random.vector(kInner * kWidth));
  }
  const std::vector<float> x = random.vector(kRows * kWidth), d_y = random.vector(kRows * kWidth),
                           factors = random.vector(kRows * kSlots);
  std::vector<int32_t> chosen, targets;
  for (int64_t i = 0; i < kRows * kSlots; ++i) chosen.push_back(static_cast<int32_t>(i % kExperts));
  for (int64_t t = 0; t < kRows; ++t) targets.push_back(static_cast<int32_t>(t % kInner));
  /// Everything that has products, one result after the other.
  const auto run = [&](TrainingBackend& b, bool rounded) {
    const auto of = [&](const std::vector<float>& v) { return rounded ? nearest_bf16(v) : v; };
    std::vector<std::vector<float>> memory;
    for (const auto& v : raw) memory.push_back(of(v));
    std::vector<MlpWeights> experts;
    for (size_t e = 0; e < at(kExperts); ++e) {
      const auto matrix = [&](size_t i, int64_t rows, int64_t cols) {
        return Matrix{.dtype = DType::kF32,
                      .rows = rows,
                      .cols = cols,
                      .data = reinterpret_cast<const std::byte*>(memory[3 * e + i].data())};
      };
      experts.push_back({matrix(0, kInner, kWidth), matrix(1, kInner, kWidth), matrix(2, kWidth, kInner)});
    }
    std::vector<float> in = of(x), gradient = of(d_y);
    const Rows rows{in.data(), kRows, kWidth, kWidth}, d_rows{gradient.data(), kRows, kWidth, kWidth};
    std::vector<std::vector<float>> results;
    const auto result = [&](int64_t r, int64_t c) {
      results.emplace_back(at(r * c), 0.0f);
      return Rows{results.back().data(), r, c, c};
    };
    results.reserve(64);
    std::vector<float> space(at(kRows * kSlots * (kWidth + kInner)));
    const Rows hidden{space.data(), kRows * kSlots, kInner, kInner},
        out{space.data() + kRows * kSlots * kInner, kRows * kSlots, kWidth, kWidth};
    b.linear(rows, experts[0].gate, result(kRows, kInner));
    {
      const Rows d_w = result(kWidth, kInner), d_x = result(kRows, kInner);
      std::vector<float> inner_rows = of(std::vector<float>(x.begin(), x.begin() + kRows * kInner));
      const TrainingBackend::LinearGradient g{&experts[0].down, d_rows, d_w.data};
      b.linear_backward({inner_rows.data(), kRows, kInner, kInner}, {&g, 1}, d_x);
    }
    b.mlp(rows, experts[0], hidden.first(kRows), result(kRows, kWidth));
    b.experts(rows, experts, kSlots, chosen.data(), factors.data(), hidden, out, result(kRows, kWidth));
    std::vector<TrainingBackend::MlpGradient> d_experts;
    for (size_t e = 0; e < at(kExperts); ++e) {
      float *gate = result(kInner, kWidth).data, *up = result(kInner, kWidth).data,
            *down = result(kWidth, kInner).data;
      d_experts.push_back({gate, up, down});
    }
    b.mlp_backward(rows, experts[0], d_rows, result(kRows, kWidth), d_experts[0]);
    float* d_factors = result(kRows, kSlots).data;
    b.experts_backward(rows, experts, kSlots, chosen.data(), factors.data(), d_rows, result(kRows, kWidth), d_factors,
                       d_experts);
    const Rows d_x = result(kRows, kWidth), d_head = result(kInner, kWidth);
    const double loss = b.cross_entropy(rows, experts[1].gate, targets, 0.5f, d_x, d_head.data, {}).loss;
    *result(1, 1).data = static_cast<float>(loss);
    return results;
  };
  const auto b = backend(), f32 = make_cpu_training_backend(2, GetParam().isa);
  const auto raw_results = run(*b, false), rounded = run(*b, true), of_f32 = run(*f32, false),
             of_f32_rounded = run(*f32, true);
  ASSERT_EQ(raw_results.size(), rounded.size());
  for (size_t i = 0; i < rounded.size(); ++i) {
    EXPECT_TRUE(same_bits(raw_results[i], rounded[i])) << "result " << i;
    EXPECT_FALSE(same_bits(raw_results[i], of_f32[i])) << "result " << i;
    EXPECT_FALSE(same_bits(of_f32[i], of_f32_rounded[i])) << "result " << i;
  }
}

TEST_P(TrainingBf16Test, RoundingOfEveryKindOfNumber) {
  Random random(4);
  std::vector<float> x = {0.0f,
                          -0.0f,
                          1.0f,
                          1.0f + 0x1p-8f,
                          1.0f + 3 * 0x1p-8f,
                          -1.0f - 0x1p-8f,
                          1.0f + 0x1.1p-8f,
                          0x1.FFp0f,
                          3.3e38f,
                          -0x1.FFp127f,
                          INFINITY,
                          -INFINITY,
                          NAN,
                          std::bit_cast<float>(0x7F800001u),
                          0x1p-126f,
                          0x1.FFp-126f};
  for (int i = 0; i < 3000; ++i) {
    const float v = std::bit_cast<float>(static_cast<uint32_t>(random.bits()));
    if (std::fabs(v) >= 0x1p-126f || std::isnan(v)) x.push_back(v);  // smaller ones are zeros to the instructions
  }
  const auto n = static_cast<int64_t>(x.size());
  const float one = 1.0f;
  const Matrix unit{.dtype = DType::kF32, .rows = 1, .cols = 1, .data = reinterpret_cast<const std::byte*>(&one)};
  std::vector<float> y(x.size());
  backend()->linear({x.data(), n, 1, 1}, unit, Rows{y.data(), n, 1, 1});
  for (size_t i = 0; i < x.size(); ++i) {
    const float want = nearest_bf16(x[i]);
    EXPECT_TRUE(std::isnan(want) ? std::isnan(y[i]) : y[i] == want) << x[i] << " became " << y[i];
  }
}

/// What decides something discrete is computed as without bf16, beside products that are not.
TEST_P(TrainingBf16Test, ExactProductsAreThoseOfF32) {
  Random random(5);
  const Weights router(random, DType::kF32, 40, 130), gate(random, DType::kF32, 3, 130);
  Table x(random, 70, 130), logits(70, 40), logits_f32(70, 40), g(70, 3), g_f32(70, 3);
  const auto b = backend(), f32 = make_cpu_training_backend(2, GetParam().isa);
  const Backend::Linear products[] = {{&router.matrix, logits, true}, {&gate.matrix, g}};
  const Backend::Linear products_f32[] = {{&router.matrix, logits_f32}, {&gate.matrix, g_f32}};
  b->linear(x, products);
  f32->linear(x, products_f32);
  EXPECT_TRUE(same_bits(logits.values(), logits_f32.values()));
  EXPECT_FALSE(same_bits(g.values(), g_f32.values()));
}

INSTANTIATE_TEST_SUITE_P(Isas, TrainingBf16Test, ::testing::ValuesIn(testing::arithmetics(false)),
                         testing::arithmetic_name);

}  // namespace
}  // namespace qnext
