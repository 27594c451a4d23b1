#pragma once
#include <vector>

#include "backend/backend.h"
#include "model/config.h"

namespace qnext {

/// Inverse frequencies theta_j, j < dims / 2, with YaRN's interpolation where the config asks for it
/// (arXiv 2309.00071; docs/model.md).
std::vector<double> rope_inverse_frequencies(const RopeConfig& rope);

/// cos and sin of position * theta_j, times the attention factor, for one row. Angles are taken in double: at position
/// 262,143 a float angle is already off by up to 0.008 rad.
void rope_row(const std::vector<double>& inverse_frequencies, double attention_factor, int64_t position, float* cos,
              float* sin);

}  // namespace qnext
