// Products with weight matrices of every type, on every instruction set, against sums in double.
#include "backend/testing/cases.h"

namespace qnext {
namespace {

using testing::kRounding;
using testing::Random;
using testing::same_bits;
using testing::Table;
using testing::Weights;

struct WeightType {
  DType dtype;
  bool scales;
};
constexpr WeightType kTypes[] = {{DType::kF32, false},
                                 {DType::kBF16, false},
                                 {DType::kF16, false},
                                 {DType::kF8E4M3, false},
                                 {DType::kF8E4M3, true}};

class MatmulTest : public ::testing::TestWithParam<Isa> {
 protected:
  /// Error of y = x[row] . w[r] as a fraction of what n + 2 roundings can do to a sum of n products in any order:
  /// each moves it by at most kRounding of the sum of magnitudes (one more where a scale was applied). 1 is the
  /// proven bound.
  static double dot_error(const float* x, const Weights& w, int64_t physical_row, float y) {
    double sum = 0.0, magnitude = 0.0;
    for (int64_t c = 0; c < w.matrix.cols; ++c) {
      const double product = x[c] * w.at(physical_row, c);
      sum += product;
      magnitude += std::fabs(product);
    }
    const double bound = static_cast<double>(w.matrix.cols + 2) * kRounding * magnitude;
    const double error = std::fabs(y - sum);
    return std::isnan(y) ? 1e30 : bound == 0.0 ? (error == 0.0 ? 0.0 : 1e30) : error / bound;
  }
  static void expect_product(Rows x, const Weights& w, const Matrix& selected, Rows y, testing::Worst& worst) {
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t r = 0; r < selected.rows; ++r) {
        ASSERT_LE(worst(dot_error(x.row(t), w, selected.physical_row(r), y.row(t)[r])), 1.0)
            << dtype_name(selected.dtype) << " token " << t << " of " << x.rows << ", row " << r << " of "
            << selected.rows << ", " << selected.cols << " columns";
      }
    }
  }
};

TEST_P(MatmulTest, EveryShape) {
  testing::Worst worst("fraction_of_bound");
  const auto backend = make_cpu_backend(2, GetParam());
  const int64_t row_counts[] = {1, 2, 3, 5, 8, 9, 15, 31, 32, 33, 34, 65, 71};
  const int64_t token_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 33};
  Random random(1);
  int64_t shape = 0;
  for (const WeightType type : kTypes) {
    for (int64_t cols = 1; cols <= 67; ++cols) {
      const Weights w(random, type.dtype, row_counts[shape++ % std::size(row_counts)], cols, type.scales);
      for (const int64_t tokens : token_counts) {
        Table x(random, tokens, cols), y(tokens, w.matrix.rows);
        backend->linear(x, w.matrix, y);
        expect_product(x, w, w.matrix, y, worst);
        ASSERT_TRUE(y.intact());
        Table alone(1, w.matrix.rows);  // a row has the same bits whatever stands beside it
        for (int64_t t = 0; t < tokens; ++t) {
          backend->linear({x.row(t), 1, cols, cols}, w.matrix, alone);
          ASSERT_TRUE(same_bits(alone.row(0), y.row(t), w.matrix.rows))
              << tokens << " tokens, " << cols << " columns";
        }
      }
    }
  }
}

TEST_P(MatmulTest, ScaleBlocksAndRowSelections) {
  testing::Worst worst("fraction_of_bound");
  const auto backend = make_cpu_backend(2, GetParam());
  Random random(2);
  for (const WeightType type : kTypes) {
    for (const int64_t cols : {127, 128, 129, 255, 257, 400}) {
      const Weights w(random, type.dtype, 300, cols, type.scales);
      for (const Matrix& selected : {w.matrix, w.matrix.select_rows(5, 3, 7, 42),
                                     w.matrix.select_rows(120, 16, 17, 10), w.matrix.select_rows(299, 1, 1, 1)}) {
        for (const int64_t tokens : {1, 3, 12}) {
          Table x(random, tokens, cols), y(tokens, selected.rows);
          backend->linear(x, selected, y);
          expect_product(x, w, selected, y, worst);
        }
      }
    }
  }
}

TEST_P(MatmulTest, SeveralProductsShareTheirInput) {
  const auto backend = make_cpu_backend(2, GetParam());
  Random random(3);
  const Weights a(random, DType::kBF16, 70, 40), b(random, DType::kF32, 1, 40),
      c(random, DType::kF8E4M3, 33, 40, true);
  Table x(random, 5, 40), ya(5, 70), yb(5, 1), yc(5, 33), ya1(5, 70), yb1(5, 1), yc1(5, 33);
  const Backend::Linear products[] = {{&a.matrix, ya}, {&b.matrix, yb}, {&c.matrix, yc}};
  backend->linear(x, products);
  backend->linear(x, a.matrix, ya1);
  backend->linear(x, b.matrix, yb1);
  backend->linear(x, c.matrix, yc1);
  EXPECT_TRUE(same_bits(ya.values(), ya1.values()));
  EXPECT_TRUE(same_bits(yb.values(), yb1.values()));
  EXPECT_TRUE(same_bits(yc.values(), yc1.values()));
}

TEST_P(MatmulTest, IndexedRows) {
  const Kernels& kernels = kernels_for(GetParam());
  Random random(4);
  for (const WeightType type : kTypes) {
    for (const int64_t tokens : {1, 3, 7, 8, 13}) {
      const int64_t cols = 37, rows = 29, begin = 3, end = 26;
      const Weights w(random, type.dtype, rows, cols, type.scales);
      Table x(random, 20, cols), y(40, rows);
      std::vector<int32_t> from, to;
      for (int64_t i = 0; i < tokens; ++i) {
        from.push_back(static_cast<int32_t>(random.below(20)));
        to.push_back(static_cast<int32_t>(i * 7 % 40));
      }
      std::vector<float> scratch(static_cast<size_t>(kPanelRows * cols));
      const Rows in = x, out = y;
      kernels.matmul(in.data, in.stride, from.data(), tokens, w.matrix, begin, end, out.data, out.stride, to.data(),
                     scratch.data());
      int64_t written = 0;
      for (float value : y.values()) written += std::isnan(value) ? 0 : 1;
      EXPECT_EQ(written, tokens * (end - begin));  // and nothing else
      for (int64_t i = 0; i < tokens; ++i) {
        for (int64_t r = begin; r < end; ++r) {
          EXPECT_LE(dot_error(x.row(from[static_cast<size_t>(i)]), w, r, y.row(to[static_cast<size_t>(i)])[r]), 1.0);
        }
      }
    }
  }
}

TEST_P(MatmulTest, EveryBitPatternExpandsExactly) {
  // 2^16 (or 2^8) weights in one matrix; NaN and infinities included.
  const Kernels& kernels = kernels_for(GetParam());
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    const int64_t size = dtype_size(dtype), count = size == 1 ? 256 : 65536;
    std::vector<std::byte> bytes(static_cast<size_t>(count * size));
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(&bytes[static_cast<size_t>(i * size)], &i, static_cast<size_t>(size));
    const Matrix w{.dtype = dtype, .rows = 1, .cols = count, .data = bytes.data()};
    std::vector<float> out(static_cast<size_t>(count));
    kernels.expand_row(w, 0, out.data());
    for (int64_t i = 0; i < count; ++i) {
      const float expected = load_as_f32(bytes.data(), dtype, i),
                  got = out[static_cast<size_t>(i)];  // dtype_test.cc tests it
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(got)) << dtype_name(dtype) << " " << i;
      } else {
        ASSERT_TRUE(same_bits(&expected, &got, 1))
            << dtype_name(dtype) << " " << i << ": " << expected << ", " << got;
      }
    }
  }
}

TEST_P(MatmulTest, EmbedAndGather) {
  const auto backend = make_cpu_backend(2, GetParam());
  Random random(5);
  for (const WeightType type : kTypes) {
    const Weights table(random, type.dtype, 140, 67, type.scales);
    const int32_t tokens[] = {139, 0, 127, 128, 0};
    Table out(5, 67), gathered(2, 67);
    backend->embed(table.matrix, tokens, out);
    for (int64_t t = 0; t < 5; ++t) {
      for (int64_t c = 0; c < 67; ++c) EXPECT_EQ(out.row(t)[c], static_cast<float>(table.at(tokens[t], c)));
    }
    const int32_t rows[] = {4, 2};
    backend->gather(out, rows, gathered);
    EXPECT_TRUE(same_bits(gathered.row(0), out.row(4), 67) && same_bits(gathered.row(1), out.row(2), 67));
    EXPECT_TRUE(out.intact() && gathered.intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, MatmulTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
