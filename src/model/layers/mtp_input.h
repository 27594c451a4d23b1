#pragma once
#include <cstdint>
#include <span>

#include "backend/training_backend.h"
#include "model/config.h"
#include "model/weights.h"

namespace qnext {

/// What the MTP module computes before its layer, T rows.
struct MtpInputActivations {
  Rows embedded;  ///< [T, D] of the next tokens
  Rows joined;    ///< [T, 2D] embedding | hidden, normed
};

/// out = fc [norm(embedding of next_tokens) ; norm(hidden)]. hidden [T, D]: final-normed states of the positions before those
/// tokens, or what mtp.norm gave at the step before. embedded may be the memory of hidden.
void forward(const ModelConfig& config, const MtpWeights& weights, const Matrix& embedding,
             std::span<const int32_t> next_tokens, Rows hidden, MtpInputActivations& act, Rows out, Backend& backend);

struct MtpInputBackwardSpace {
  Rows d_embedded;  ///< [T, D]
  Rows d_joined;    ///< [T, 2D]
};
/// d_hidden +=. hidden must not share memory with act.embedded.
void backward(const ModelConfig& config, const MtpWeights& weights, const MtpWeights& gradients, float* d_embedding,
              std::span<const int32_t> next_tokens, Rows hidden, const MtpInputActivations& act, Rows d_out,
              MtpInputBackwardSpace& space, Rows d_hidden, TrainingBackend& backend);

}  // namespace qnext
