#pragma once
// What the tests of gradients share: forward-mode derivatives in double, and how far gradients are from them.
#include <cmath>

#include "backend/cpu/training_backend.h"
#include "backend/testing/cases.h"

namespace qnext::testing {

/// A number and its derivative in one direction: a forward pass written over Dual gives exact derivatives of itself, and
/// shares nothing with a backward pass.
struct Dual {
  double value = 0.0, slope = 0.0;
  Dual() = default;
  Dual(double v, double s = 0.0) : value(v), slope(s) {}  // NOLINT: a constant
};
inline Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.slope + b.slope}; }
inline Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.slope - b.slope}; }
inline Dual operator*(Dual a, Dual b) { return {a.value * b.value, a.value * b.slope + a.slope * b.value}; }
inline Dual operator/(Dual a, Dual b) {
  const double quotient = a.value / b.value;
  return {quotient, (a.slope - quotient * b.slope) / b.value};
}
inline Dual& operator+=(Dual& a, Dual b) { return a = a + b; }
inline Dual exp(Dual a) { return {std::exp(a.value), std::exp(a.value) * a.slope}; }
inline Dual log(Dual a) { return {std::log(a.value), a.slope / a.value}; }
inline Dual sqrt(Dual a) { return {std::sqrt(a.value), a.slope / (2.0 * std::sqrt(a.value))}; }
inline double value_of(double x) { return x; }
inline double value_of(Dual x) { return x.value; }

/// Root mean square of the difference, relative to that of what is expected, or to `floor` where that is larger (gradients that
/// are zero but for rounding).
template <typename Got>
double relative_rms(const std::vector<Got>& got, const std::vector<double>& expected, double floor = 0.0) {
  EXPECT_EQ(got.size(), expected.size());
  double difference = 0.0, squares = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(got[i]) - expected[i];
    difference += d * d;
    squares += expected[i] * expected[i];
  }
  if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
  const auto n = static_cast<double>(std::max<size_t>(1, expected.size()));
  const double rms = std::max(std::sqrt(squares / n), floor);
  return rms == 0.0 ? std::sqrt(difference / n) : std::sqrt(difference / n) / rms;
}

/// An instruction set and how products round.
struct Arithmetic {
  Isa isa;
  Products products;
};
/// Bf16 by the real instructions only where the machine has them, which are the same whatever the set.
inline std::vector<Arithmetic> arithmetics(bool f32 = true) {
  std::vector<Arithmetic> list;
  for (const Isa isa : isas()) {
    if (isa == Isa::kAmx) continue;  // the set of training is that of AVX-512
    if (f32) list.push_back({isa, Products::kF32});
    for (const Products products : {Products::kBf16, Products::kBf16EmulatedAvx512, Products::kBf16EmulatedAmx}) list.push_back({isa, products});
  }
  if (detect_bf16() >= Bf16::kAvx512) list.push_back({Isa::kAvx512, Products::kBf16Avx512});
  if (detect_bf16() >= Bf16::kAmx) list.push_back({Isa::kAvx512, Products::kBf16Amx});
  return list;
}
inline std::string arithmetic_name(const ::testing::TestParamInfo<Arithmetic>& info) {
  std::string name = std::string(isa_name(info.param.isa)) + "_" + std::string(products_name(info.param.products));
  std::erase_if(name, [](char c) { return c == '(' || c == ')'; });
  std::ranges::replace(name, ' ', '_');
  return name;
}

/// What relative_rms of a gradient may be. The scalar set computes in double between loads and stores.
inline double gradient_tolerance(Isa isa) { return isa == Isa::kScalar ? 1e-6 : 2e-6; }

}  // namespace qnext::testing
