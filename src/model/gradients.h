#pragma once
#include "backend/training_backend.h"
#include "model/weights.h"

namespace qnext {

// Gradients have the type of the weights: their matrices and vectors are views into a float array that is written through
// them, and so are their matrices' low-rank additions. Empty: the parameter is frozen.

inline TrainingBackend::MatrixGradient gradient_of(const Matrix& gradient) {
  return {const_cast<float*>(reinterpret_cast<const float*>(gradient.data)), gradient.low_rank};
}
inline float* gradient_of(const Vector& gradient) { return const_cast<float*>(gradient.data); }
inline TrainingBackend::MlpGradient gradient_of(const MlpWeights& gradient) {
  return {gradient_of(gradient.gate), gradient_of(gradient.up), gradient_of(gradient.down)};
}

}  // namespace qnext
