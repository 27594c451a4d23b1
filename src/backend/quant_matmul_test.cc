// Products with weights of block types: against sums in double over decoded weights and activations rounded as
// quant_kernels.h says, and bit for bit between instruction sets, numbers of tokens, threads and forms of a call.
#include "backend/cpu/quant_kernels.h"
#include "backend/testing/cases.h"
#include "base/testing/sanitized.h"
#include "tensor/blocks.h"

namespace qnext {
namespace {

using testing::Random;
using testing::same_bits;
using testing::Table;

std::vector<DType> block_types() {
  std::vector<DType> types;
  for (const DType dtype : kAllDTypes) {
    if (is_block_type(dtype)) types.push_back(dtype);
  }
  return types;
}

/// Random blocks at an odd address: every bit of the integers is random, the half-precision scales are in [2^-9,
/// 2^-4) of either sign, MXFP4's exponents around 2^0. Nothing follows the last block (there the address sanitizer
/// looks).
class BlockWeights {
 public:
  BlockWeights(Random& random, DType dtype, int64_t rows, int64_t cols) {
    const int64_t bytes = rows * bytes_of(dtype, cols), block = block_bytes(dtype);
    bytes_.resize(static_cast<size_t>(bytes + 1));
    std::byte* data = bytes_.data() + 1;
    for (int64_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(random.below(256));
    const auto half = [&](int64_t at) {
      const auto bits =
          static_cast<uint16_t>(random.below(2) << 15 | (6 + random.below(5)) << 10 | random.below(1024));
      std::memcpy(data + at, &bits, sizeof bits);
    };
    for (int64_t at = 0; at < bytes; at += block) {
      switch (dtype) {
        case DType::kMXFP4:
          data[at] = static_cast<std::byte>(120 + random.below(8));
          break;
        case DType::kQ4_1:
        case DType::kQ5_1:
        case DType::kQ4_K:
        case DType::kQ5_K:
          half(at), half(at + 2);
          break;
        case DType::kQ2_K:
          half(at + 80), half(at + 82);
          break;
        case DType::kQ3_K:
          half(at + 108);
          break;
        case DType::kQ6_K:
          half(at + 208);
          break;
        default:
          half(at);
      }
    }
    matrix = {.dtype = dtype, .rows = rows, .cols = cols, .data = data};
  }
  std::vector<float> row(int64_t physical) const {
    std::vector<float> out(static_cast<size_t>(matrix.cols));
    decode(matrix.dtype, matrix.data + physical * matrix.row_bytes(), matrix.cols, out.data());
    return out;
  }

  Matrix matrix;

 private:
  std::vector<std::byte> bytes_;
};

/// x as the products see it.
std::vector<double> rounded(const float* x, int64_t cols, int64_t group) {
  std::vector<double> out;
  for (int64_t c = 0; c < cols; c += group) {
    float largest = 0.0f;
    for (int64_t i = 0; i < group; ++i) largest = std::max(largest, std::fabs(x[c + i]));
    const float scale = largest / 127.0f, inverse = 127.0f / largest;
    for (int64_t i = 0; i < group; ++i)
      out.push_back(largest == 0.0f ? 0.0 : double{scale} * std::lrintf(x[c + i] * inverse));
  }
  return out;
}

class QuantMatmulTest : public ::testing::TestWithParam<Isa> {
 protected:
  const std::unique_ptr<Backend> backend_ = make_cpu_backend(2, GetParam());
  const std::unique_ptr<Backend> scalar_ = make_cpu_backend(1, Isa::kScalar);

  std::vector<int64_t> column_counts(DType dtype) const {
    if (block_elements(dtype) == 256) return testing::kSanitized ? std::vector<int64_t>{512} : std::vector<int64_t>{256, 512, 768};
    return testing::kSanitized ? std::vector<int64_t>{96, 288} : std::vector<int64_t>{32, 64, 96, 224, 256, 288, 320, 544};
  }
};

TEST_P(QuantMatmulTest, EveryTypeAndShape) {
  testing::Worst worst("relative_to_magnitudes");
  const int64_t row_counts[] = {1, 2, 3, 4, 5, 7, 16, 31, 33, 70};
  const std::vector<int64_t> token_counts =
      testing::kSanitized ? std::vector<int64_t>{1, 4, 9} : std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 33};
  Random random(1);
  size_t shape = 0;
  for (const DType dtype : block_types()) {
    for (const int64_t cols : column_counts(dtype)) {
      for (const int64_t tokens : token_counts) {
        const int64_t rows = row_counts[shape++ % std::size(row_counts)];
        const BlockWeights w(random, dtype, rows, cols);
        Table x(random, tokens, cols), y(tokens, rows), expected(tokens, rows), alone(1, rows);
        backend_->linear(x, w.matrix, y);
        ASSERT_TRUE(y.intact());
        scalar_->linear(x, w.matrix, expected);
        for (int64_t t = 0; t < tokens; ++t) {
          ASSERT_TRUE(same_bits(y.row(t), expected.row(t), rows))
              << dtype_name(dtype) << " " << rows << " x " << cols << ", token " << t << " of " << tokens;
          backend_->linear({x.row(t), 1, cols, cols}, w.matrix, alone);
          ASSERT_TRUE(same_bits(y.row(t), alone.row(0), rows))
              << dtype_name(dtype) << " token " << t << " of " << tokens;
        }
        const std::vector<double> xs = rounded(x.row(0), cols, block_elements(dtype));
        for (int64_t r = 0; r < rows; ++r) {
          double sum = 0.0, magnitude = 0.0;
          const std::vector<float> weights = w.row(r);
          for (size_t c = 0; c < xs.size(); ++c) {
            sum += xs[c] * double{weights[c]};
            magnitude += std::fabs(xs[c] * double{weights[c]});
          }
          // A few roundings per block (2^-24 each), of sums whose parts may be larger than the decoded weights.
          ASSERT_LE(worst(std::fabs(y.row(0)[r] - sum) / magnitude), 1e-6) << dtype_name(dtype) << " row " << r;
        }
      }
    }
  }
}

TEST_P(QuantMatmulTest, RowSelectionsThreadsAndSharedInputs) {
  Random random(2);
  for (const DType dtype : block_types()) {
    const BlockWeights w(random, dtype, 300, 512), other(random, DType::kQ4_K, 130, 512),
        third(random, DType::kQ8_0, 37, 512);
    const Matrix selected = w.matrix.select_rows(5, 3, 7, 42);
    for (const int64_t tokens : {1, 3, testing::kSanitized ? 9 : 40}) {
      Table x(random, tokens, 512), all(tokens, 300), part(tokens, selected.rows), b(tokens, 130), c(tokens, 37);
      backend_->linear(x, w.matrix, all);
      const Backend::Linear products[] = {{&other.matrix, b}, {&selected, part}, {&third.matrix, c}};
      backend_->linear(x, products);
      Table b1(tokens, 130), c1(tokens, 37), one_thread(tokens, 300);
      backend_->linear(x, other.matrix, b1);
      backend_->linear(x, third.matrix, c1);
      make_cpu_backend(1, GetParam())->linear(x, w.matrix, one_thread);
      EXPECT_TRUE(same_bits(b.values(), b1.values()) && same_bits(c.values(), c1.values()));
      EXPECT_TRUE(same_bits(all.values(), one_thread.values()));
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < selected.rows; ++r) {
          ASSERT_TRUE(same_bits(part.row(t) + r, all.row(t) + selected.physical_row(r), 1))
              << dtype_name(dtype) << " " << r;
        }
      }
    }
  }
}

TEST_P(QuantMatmulTest, PartsOfRowsForChosenTokens) {
  // What a task asks of the kernels: some rows of a selection, a few tokens by index, outputs by index; nothing else is written.
  const QuantKernels &kernels = quant_kernels_for(GetParam()), &scalar = quant_kernels_scalar();
  Random random(8);
  constexpr int64_t kRows = 42;
  for (const DType dtype : block_types()) {
    const int64_t group = scale_group(dtype);
    for (const int64_t cols : {int64_t{256}, group == 32 ? int64_t{288} : int64_t{768}}) {
      const BlockWeights w(random, dtype, 100, cols);
      for (const Matrix& m : {w.matrix, w.matrix.select_rows(5, 3, 7, kRows / 3)}) {
        for (int64_t tokens = 1; tokens <= 10; ++tokens) {
          std::vector<QuantUnit> units(static_cast<size_t>(tokens * ((cols + 255) / 256)));
          const QuantRows x{units.data(), tokens, cols};
          for (int64_t t = 0; t < tokens; ++t) scalar.round_row(random.vector(cols, -3.0, 3.0).data(), cols, group, units.data() + t, tokens);
          std::vector<int32_t> from(static_cast<size_t>(tokens)), to(from.size());
          for (int64_t t = 0; t < tokens; ++t) {
            from[static_cast<size_t>(t)] = static_cast<int32_t>(t / 2);
            to[static_cast<size_t>(t)] = static_cast<int32_t>(tokens - 1 - t);
          }
          for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {3, 8}, {5, 42}, {40, 42}, {8, 20}}) {
            std::vector<QuantUnit> scratch(static_cast<size_t>(quant_scratch_bytes(tokens, end - begin)) / sizeof(QuantUnit) + 1);
            auto* memory = reinterpret_cast<std::byte*>(scratch.data());
            Table got(tokens, kRows), expected(tokens, kRows);
            for (Table* y : {&got, &expected}) {
              for (int64_t t = 0; t < tokens; ++t) std::fill_n(y->row(t), kRows, 0.25f);
            }
            kernels.matmul(x, from.data(), tokens, m, begin, end, got.row(0), got.view().stride, to.data(), memory);
            scalar.matmul(x, from.data(), tokens, m, begin, end, expected.row(0), expected.view().stride, to.data(), memory);
            ASSERT_TRUE(got.intact());
            ASSERT_TRUE(same_bits(got.values(), expected.values()))
                << dtype_name(dtype) << " " << cols << " x " << tokens << ", rows " << begin << " to " << end;
          }
        }
      }
    }
  }
}

TEST_P(QuantMatmulTest, LargestIntegersDoNotOverflow) {
  // Every byte 0xFF or 0x00 and activations of full magnitude with the signs that add up.
  Random random(3);
  for (const DType dtype : block_types()) {
    for (const int fill : {0x00, 0xFF, 0x7F, 0x80}) {
      BlockWeights w(random, dtype, 5, 512);
      std::vector<std::byte> bytes(static_cast<size_t>(w.matrix.bytes()), static_cast<std::byte>(fill));
      const uint16_t one = 0x3C00;
      const int64_t d = dtype == DType::kQ2_K ? 80 : dtype == DType::kQ3_K ? 108 : dtype == DType::kQ6_K ? 208 : 0;
      for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(block_bytes(dtype))) {
        if (dtype == DType::kMXFP4) {
          bytes[at] = std::byte{127};
          continue;
        }
        std::memcpy(&bytes[at + static_cast<size_t>(d)], &one, sizeof one);
        if (has_minima(dtype)) std::memcpy(&bytes[at + static_cast<size_t>(d) + 2], &one, sizeof one);
      }
      Matrix m = w.matrix;
      m.data = bytes.data();
      for (const int64_t tokens : {1, 2, 12}) {
        Table x(tokens, 512), y(tokens, 5), expected(tokens, 5);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t c = 0; c < 512; ++c) {
            const float sign = t % 3 == 0 ? 1.0f : t % 3 == 1 ? -1.0f : m.at(0, c) < 0.0f ? -1.0f : 1.0f;
            x.row(t)[c] = sign * 127.0f;
          }
        }
        backend_->linear(x, m, y);
        scalar_->linear(x, m, expected);
        for (int64_t t = 0; t < tokens; ++t) {
          double sum = 0.0, magnitude = 0.0;
          for (int64_t c = 0; c < 512; ++c) {
            sum += double{m.at(0, c)} * double{x.row(t)[c]};
            magnitude += std::fabs(double{m.at(0, c)} * double{x.row(t)[c]});
          }
          ASSERT_NEAR(y.row(t)[0], sum, 1e-6 * magnitude) << dtype_name(dtype) << " " << fill << " token " << t;
          ASSERT_TRUE(same_bits(y.row(t), expected.row(t), 5)) << dtype_name(dtype) << " " << fill << " token " << t;
        }
      }
    }
  }
}

TEST_P(QuantMatmulTest, RoundingOfActivations) {
  // Units of this set equal those of the scalar set: sums, scales, zero rows, tiny and not finite values, partial
  // units.
  const QuantKernels &kernels = quant_kernels_for(GetParam()), &scalar = quant_kernels_scalar();
  Random random(4);
  for (const auto& [cols, group] :
       {std::pair<int64_t, int64_t>{256, 256}, {768, 256}, {32, 32}, {96, 32}, {288, 32}, {512, 32}}) {
    for (int kind = 0; kind < 7; ++kind) {
      std::vector<float> x = random.vector(cols, -3.0, 3.0);
      if (kind == 1) std::fill(x.begin(), x.end(), 0.0f);
      if (kind == 2) x[static_cast<size_t>(cols - 1)] = NAN;
      if (kind == 3) x[0] = -INFINITY;
      if (kind == 4) std::for_each(x.begin(), x.end(), [](float& v) { v *= 1e-37f; });
      if (kind == 5) std::for_each(x.begin(), x.end(), [](float& v) { v *= 1e38f; });
      if (kind == 6) std::for_each(x.begin(), x.end(), [](float& v) { v = std::round(v) + 0.5f; });
      const auto count = static_cast<size_t>((cols + 255) / 256);
      std::vector<QuantUnit> got(count), expected(count);
      kernels.round_row(x.data(), cols, group, got.data(), 1);
      scalar.round_row(x.data(), cols, group, expected.data(), 1);
      for (size_t u = 0; u < count; ++u) {
        ASSERT_EQ(std::memcmp(got[u].q, expected[u].q, 256), 0) << kind;
        ASSERT_EQ(std::memcmp(got[u].offset, expected[u].offset, 256), 0) << kind;
        for (int s = 0; s < 16; ++s) ASSERT_EQ(got[u].sums[s], expected[u].sums[s]) << kind << " " << s;
        for (int s = 0; s < 8; ++s) ASSERT_EQ(got[u].sums32[s], expected[u].sums32[s]) << kind << " " << s;
        for (int64_t g = 0; g < 256 / group; ++g) {
          if (static_cast<int64_t>(u) * 256 + g * group >= cols) continue;
          if (std::isnan(expected[u].scale[g])) {
            ASSERT_TRUE(std::isnan(got[u].scale[g])) << kind;
          } else {
            ASSERT_TRUE(same_bits(&got[u].scale[g], &expected[u].scale[g], 1)) << kind;
            ASSERT_TRUE(group != 32 || same_bits(&got[u].scaled_sums[g], &expected[u].scaled_sums[g], 1)) << kind;
          }
        }
        for (int64_t i = 0; i < 256 && kind == 0; ++i) {
          const int64_t c = static_cast<int64_t>(u) * 256 + i;
          if (c >= cols) break;
          const float scale = expected[u].scale[i / group];
          ASSERT_NEAR(scale * static_cast<float>(got[u].q[i]), x[static_cast<size_t>(c)], 0.5001f * scale);
        }
      }
    }
  }
}

TEST_P(QuantMatmulTest, NotFiniteStaysNotFinite) {
  Random random(5);
  for (const DType dtype : block_types()) {
    const BlockWeights w(random, dtype, 6, 512);
    for (const float bad : {NAN, INFINITY}) {
      for (const int64_t tokens : {1, 9}) {
        Table x(random, tokens, 512), y(tokens, 6);
        x.row(tokens - 1)[300] = bad;
        backend_->linear(x, w.matrix, y);
        for (int64_t r = 0; r < 6; ++r) EXPECT_FALSE(std::isfinite(y.row(tokens - 1)[r])) << dtype_name(dtype);
        for (int64_t r = 0; r < 6 && tokens > 1; ++r) EXPECT_TRUE(std::isfinite(y.row(0)[r])) << dtype_name(dtype);
      }
    }
  }
}

TEST_P(QuantMatmulTest, ActivationsInF32) {
  testing::Worst worst("relative_to_magnitudes");
  const auto backend = make_cpu_backend(2, GetParam(), ActivationPrecision::kF32);
  Random random(6);
  for (const DType dtype : block_types()) {
    const BlockWeights w(random, dtype, 40, 512);
    for (const int64_t tokens : {1, 11}) {
      Table x(random, tokens, 512), y(tokens, 40), alone(1, 40);
      backend->linear(x, w.matrix, y);
      backend->linear({x.row(tokens - 1), 1, 512, 512}, w.matrix, alone);
      EXPECT_TRUE(same_bits(alone.row(0), y.row(tokens - 1), 40));
      for (int64_t r = 0; r < 40; ++r) {
        double sum = 0.0, magnitude = 0.0;
        const std::vector<float> weights = w.row(r);
        for (size_t c = 0; c < weights.size(); ++c) {
          sum += double{x.row(0)[c]} * double{weights[c]};
          magnitude += std::fabs(double{x.row(0)[c]} * double{weights[c]});
        }
        ASSERT_LE(worst(std::fabs(y.row(0)[r] - sum) / magnitude), 514 * testing::kRounding) << dtype_name(dtype);
      }
    }
  }
}

TEST_P(QuantMatmulTest, ExpertsEqualOneByOne) {
  // The grouped call equals mlp() of each expert alone, weighted and added in the order of the choice; types differ
  // between the matrices of an expert and between experts.
  Random random(7);
  constexpr int64_t kExperts = 6, kWidth = 512, kHidden = 256;
  const DType types[][3] = {
      {DType::kQ4_K, DType::kQ4_K, DType::kQ6_K},       {DType::kQ4_K, DType::kQ5_K, DType::kQ8_0},
      {DType::kIQ4_XS, DType::kIQ4_XS, DType::kIQ4_NL}, {DType::kMXFP4, DType::kQ4_0, DType::kBF16},
      {DType::kQ2_K, DType::kQ2_K, DType::kQ3_K},       {DType::kF32, DType::kQ8_0, DType::kQ5_1}};
  std::vector<std::unique_ptr<BlockWeights>> blocks;
  std::vector<std::unique_ptr<testing::Weights>> plain;
  const auto matrix = [&](DType dtype, int64_t rows, int64_t cols) {
    if (is_block_type(dtype))
      return blocks.emplace_back(std::make_unique<BlockWeights>(random, dtype, rows, cols))->matrix;
    return plain.emplace_back(std::make_unique<testing::Weights>(random, dtype, rows, cols))->matrix;
  };
  std::vector<MlpWeights> experts;
  for (const auto& [gate, up, down] : types) {
    experts.push_back({matrix(gate, kHidden, kWidth), matrix(up, kHidden, kWidth), matrix(down, kWidth, kHidden)});
  }
  for (const int64_t rows : {1, 2, 5, 50, 300}) {
    constexpr int64_t kChosen = 3;
    Table x(random, rows, kWidth, -0.2, 0.2), y(rows, kWidth), hidden(rows * kChosen, kHidden),
        out(rows * kChosen, kWidth);
    std::vector<int32_t> chosen;
    for (int64_t i = 0; i < rows * kChosen; ++i)
      chosen.push_back(static_cast<int32_t>((i / kChosen * 5 + i % kChosen) % kExperts));
    const std::vector<float> weights = random.vector(rows * kChosen, 0.0, 1.0);
    backend_->experts(x, experts, kChosen, chosen.data(), weights.data(), hidden, out, y);
    EXPECT_TRUE(y.intact() && hidden.intact() && out.intact());
    for (int64_t t = 0; t < rows; t += 1 + rows / 7) {
      std::vector<float> expected(kWidth, 0.0f);
      for (int64_t slot = 0; slot < kChosen; ++slot) {
        const auto at = static_cast<size_t>(t * kChosen + slot);
        Table h(1, kHidden), e(1, kWidth);
        backend_->mlp({x.row(t), 1, kWidth, kWidth}, experts[static_cast<size_t>(chosen[at])], h, e);
        kernels_for(GetParam()).scale_add(expected.data(), e.row(0), weights[at], kWidth);
      }
      ASSERT_TRUE(same_bits(expected.data(), y.row(t), kWidth)) << rows << " rows, row " << t;
    }
  }
}

TEST(QuantMatmul, TilesEqualScalarBitForBit) {
  // The kernel of AMX machines, on tiles in plain C++: every type, extreme bytes among the random ones, rows and tokens
  // around multiples of the tile.
  if (detect_isa() < Isa::kAvx512 || !has_avx512_vnni()) GTEST_SKIP() << "needs AVX-512 VNNI around the tiles";
  const QuantKernels &tiles = quant_kernels_amx_emulated(), &scalar = quant_kernels_scalar();
  Random random(9);
  for (const DType dtype : block_types()) {
    const int64_t group = scale_group(dtype);
    for (const int64_t cols : {int64_t{256}, int64_t{768}, group == 32 ? int64_t{288} : int64_t{512}}) {
      const BlockWeights w(random, dtype, 40, cols);
      const Matrix selected = w.matrix.select_rows(1, 3, 4, 9);
      for (const int64_t tokens : testing::kSanitized ? std::vector<int64_t>{33} : std::vector<int64_t>{kAmxTokens, 16, 31, 33, 70}) {
        std::vector<QuantUnit> units(static_cast<size_t>(tokens * ((cols + 255) / 256)));
        const QuantRows x{units.data(), tokens, cols};
        for (int64_t t = 0; t < tokens; ++t) {
          std::vector<float> row = random.vector(cols, -3.0, 3.0);
          if (t == 3) std::fill(row.begin(), row.end(), 1.0f);  // all 127
          scalar.round_row(row.data(), cols, group, units.data() + t, tokens);
        }
        std::vector<int32_t> reversed(static_cast<size_t>(tokens));
        for (int64_t t = 0; t < tokens; ++t) reversed[static_cast<size_t>(t)] = static_cast<int32_t>(tokens - 1 - t);
        std::vector<QuantUnit> scratch(static_cast<size_t>(quant_scratch_bytes(tokens, selected.rows)) / sizeof(QuantUnit) + 1);
        auto* memory = reinterpret_cast<std::byte*>(scratch.data());
        Table got(tokens, selected.rows), expected(tokens, selected.rows);
        for (const int32_t* index : {static_cast<const int32_t*>(nullptr), static_cast<const int32_t*>(reversed.data())}) {
          tiles.matmul(x, index, tokens, selected, 0, selected.rows, got.row(0), got.view().stride, index, memory);
          scalar.matmul(x, index, tokens, selected, 0, selected.rows, expected.row(0), expected.view().stride, index, memory);
          ASSERT_TRUE(got.intact());
          ASSERT_TRUE(same_bits(got.values(), expected.values())) << dtype_name(dtype) << " " << cols << " x " << tokens;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, QuantMatmulTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
