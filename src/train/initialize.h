#pragma once
#include <cstdint>

#include "model/parameter_array.h"
#include "train/config.h"

namespace qnext {

/// Initial values of the parameters whose name begins with `prefix`: matrices N(0, range²), the router's rows then scaled to the
/// length range * sqrt(columns); zero-centred norms 0; the gated norm 1; A_log = log U(1, 16); conv1d U(±1/sqrt(kernel));
/// dt_bias by log-uniform time steps or 1. Each value depends on seed, parameter name and index alone.
void initialize(ParameterArray& parameters, const ModelConfig& config, uint64_t seed, double range, DtBias dt_bias,
                std::string_view prefix = "");

}  // namespace qnext
