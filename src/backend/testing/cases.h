#pragma once
// What the tests of the backend share: random inputs whose surroundings are NaN, and sums in double. The kernels'
// conversions are not used here: a test that shared them would agree with their mistakes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kernels.h"

namespace qnext::testing {

/// Half an ulp of f32, relative: the error of one rounding.
inline constexpr double kRounding = 0x1p-24;

inline std::vector<Isa> isas() {
  std::vector<Isa> list;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa <= detect_isa()) list.push_back(isa);
  }
  return list;
}
inline std::string isa_test_name(const ::testing::TestParamInfo<Isa>& info) {
  return std::string(isa_name(info.param));
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t bits() { return engine_(); }
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  float uniform(double low, double high) {
    return static_cast<float>(low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53);
  }
  std::vector<float> vector(int64_t n, double low = -1.0, double high = 1.0) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = uniform(low, high);
    return v;
  }

 private:
  std::mt19937_64 engine_;
};

/// Owns Rows. The gap after each row but the last is NaN, and nothing follows the last (there the address sanitizer
/// looks): a kernel that reads outside spoils its result, one that writes outside is found by intact().
class Table {
 public:
  Table(int64_t rows, int64_t cols, int64_t gap = 3)
      : data_(static_cast<size_t>(rows == 0 ? 0 : rows * (cols + gap) - gap), NAN),
        rows_(rows),
        cols_(cols),
        gap_(gap) {}
  Table(Random& random, int64_t rows, int64_t cols, double low = -1.0, double high = 1.0) : Table(rows, cols) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) view().row(r)[c] = random.uniform(low, high);
    }
  }
  Rows view() { return {data_.data(), rows_, cols_, cols_ + gap_}; }
  operator Rows() { return view(); }  // NOLINT: a Table stands wherever Rows do
  float* row(int64_t r) { return view().row(r); }
  std::vector<float> values() {
    std::vector<float> out;
    for (int64_t r = 0; r < rows_; ++r) out.insert(out.end(), row(r), row(r) + cols_);
    return out;
  }
  bool intact() const {
    for (size_t i = 0; i < data_.size(); ++i) {
      if (static_cast<int64_t>(i) % (cols_ + gap_) >= cols_ && !std::isnan(data_[i])) return false;
    }
    return true;
  }

 private:
  std::vector<float> data_;
  int64_t rows_, cols_, gap_;
};

/// A random weight matrix: its bytes, aligned to the dtype and to nothing more, and its elements in double by the
/// definitions of the formats.
class Weights {
 public:
  Weights(Random& random, DType dtype, int64_t rows, int64_t cols, bool with_scales = false)
      : values_(static_cast<size_t>(rows * cols)) {
    const auto size = static_cast<size_t>(dtype_size(dtype));
    bytes_.resize(values_.size() * size + size);
    std::byte* data = bytes_.data() + size;
    const int64_t scale_rows = (rows + 127) / 128, scale_cols = (cols + 127) / 128;
    if (with_scales) scales_ = random.vector(scale_rows * scale_cols, 0.5, 2.0);
    for (int64_t i = 0; i < rows * cols; ++i) {
      double value = random_element(random, dtype, data + static_cast<size_t>(i) * size);
      if (with_scales) value *= scales_[static_cast<size_t>(i / cols / 128 * scale_cols + i % cols / 128)];
      values_[static_cast<size_t>(i)] = value;
    }
    matrix = {.dtype = dtype,
              .rows = rows,
              .cols = cols,
              .data = data,
              .block_scales = with_scales ? scales_.data() : nullptr,
              .scale_cols = with_scales ? scale_cols : 0};
  }
  double at(int64_t r, int64_t c) const { return values_[static_cast<size_t>(r * matrix.cols + c)]; }

  Matrix matrix;

 private:
  static double random_element(Random& random, DType dtype, std::byte* out) {
    const auto put = [&](auto bits) { std::memcpy(out, &bits, sizeof bits); };
    const auto binary = [](uint64_t sign, int exponent, double significand) {
      return (sign != 0 ? -1.0 : 1.0) * std::ldexp(significand, exponent);
    };
    const uint64_t sign = random.bits() & 1;
    if (dtype == DType::kF32) {
      const float value = random.uniform(-1.0, 1.0);
      put(value);
      return value;
    }
    if (dtype == DType::kBF16) {  // 1, 8, 7 bits; |x| in [2^-7, 2)
      const auto exponent = static_cast<uint16_t>(120 + random.below(8)),
                 mantissa = static_cast<uint16_t>(random.below(128));
      put(static_cast<uint16_t>(sign << 15 | exponent << 7 | mantissa));
      return binary(sign, exponent - 127, 1.0 + mantissa / 128.0);
    }
    if (dtype == DType::kF16) {  // 1, 5, 10 bits; subnormals to [1, 2)
      const auto exponent = static_cast<uint16_t>(random.below(16)),
                 mantissa = static_cast<uint16_t>(random.below(1024));
      put(static_cast<uint16_t>(sign << 15 | exponent << 10 | mantissa));
      return exponent == 0 ? binary(sign, -14, mantissa / 1024.0)
                           : binary(sign, exponent - 15, 1.0 + mantissa / 1024.0);
    }
    // E4M3: every value but the NaNs, up to 448.
    const auto bits = static_cast<uint8_t>(sign << 7 | static_cast<uint64_t>(random.below(127)));
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    put(bits);
    return exponent == 0 ? binary(sign, -6, mantissa / 8.0) : binary(sign, exponent - 7, 1.0 + mantissa / 8.0);
  }

  std::vector<std::byte> bytes_;
  std::vector<float> scales_;
  std::vector<double> values_;
};

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

/// Largest difference, relative to the root mean square of what is expected.
template <typename Got>
double relative_max(const std::vector<Got>& got, const std::vector<double>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double squares = 0.0, worst = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - expected[i]);
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, difference);
    squares += expected[i] * expected[i];
  }
  const double rms = std::sqrt(squares / static_cast<double>(std::max<size_t>(1, expected.size())));
  return rms == 0.0 ? worst : worst / rms;
}

inline bool same_bits(const float* a, const float* b, int64_t n) {
  return n == 0 || std::memcmp(a, b, static_cast<size_t>(n) * sizeof(float)) == 0;
}
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), static_cast<int64_t>(a.size()));
}

/// Keeps the largest error of a test for `--gtest_output=xml`, from which docs/numerics.md has its numbers.
class Worst {
 public:
  explicit Worst(const char* name) : name_(name) {}
  ~Worst() {
    char text[32];
    std::snprintf(text, sizeof text, "%.2e", value_);
    ::testing::Test::RecordProperty(name_, text);
  }
  double operator()(double error) {
    value_ = std::max(value_, error);
    return error;
  }

 private:
  const char* name_;
  double value_ = 0.0;
};

}  // namespace qnext::testing
