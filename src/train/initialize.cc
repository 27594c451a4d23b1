#include "train/initialize.h"

#include <cmath>
#include <numbers>

#include "base/checksum.h"
#include "base/philox.h"

namespace qnext {

void initialize(ParameterArray& parameters, const ModelConfig& config, uint64_t seed, double range, DtBias dt_bias,
                std::string_view prefix) {
  for (const ParameterInfo& p : parameters.parameters()) {
    const std::string_view name = p.name;
    if (!name.starts_with(prefix)) continue;
    const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
    const std::span<float> out = parameters.of(p);
    const uint64_t stream = checksum(std::as_bytes(std::span(name))) ^ (seed * 0x9E3779B97F4A7C15u);
    const auto fill = [&](auto&& value) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(value(static_cast<uint64_t>(i)));
    };
    const auto uniform = [&](uint64_t i) { return philox_uniform(stream, i); };
    if (p.is_matrix) {
      fill([&](uint64_t i) {  // Box and Muller's
        const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform(2 * i)));
        return range * radius * std::cos(2.0 * std::numbers::pi * uniform(2 * i + 1));
      });
      if (!has("mlp.gate.")) continue;
      for (int64_t r = 0; r < p.rows; ++r) {
        const std::span<float> row = out.subspan(static_cast<size_t>(r * p.cols), static_cast<size_t>(p.cols));
        double square = 0.0;
        for (const float x : row) square += static_cast<double>(x) * x;
        const double scale = square > 0 ? range * std::sqrt(static_cast<double>(p.cols) / square) : 0.0;
        for (float& x : row) x = static_cast<float>(x * scale);
      }
    } else if (has("A_log")) {
      fill([&](uint64_t i) { return std::log(1.0 + 15.0 * uniform(i)); });
    } else if (has("dt_bias")) {
      fill([&](uint64_t i) {
        if (dt_bias == DtBias::kOnes) return 1.0;
        const double dt = std::exp(std::log(1e-3) + uniform(i) * (std::log(0.1) - std::log(1e-3)));
        return dt + std::log(-std::expm1(-dt));  // softplus of it is dt
      });
    } else if (has("conv1d")) {
      const double bound = 1.0 / std::sqrt(static_cast<double>(config.linear_conv_kernel_dim));
      fill([&](uint64_t i) { return bound * (2.0 * uniform(i) - 1.0); });
    } else {
      fill([&](uint64_t) { return has("linear_attn.norm.") ? 1.0 : 0.0; });
    }
  }
}

}  // namespace qnext
