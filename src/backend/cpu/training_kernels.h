#pragma once
#include <cstdint>

#include "backend/cpu/attention_gradient_kernels.h"
#include "backend/cpu/delta_gradient_kernels.h"
#include "backend/cpu/gemm_kernels.h"
#include "backend/cpu/pointwise_gradient_kernels.h"
#include "base/cpu.h"

namespace qnext {

/// The inner loops of training, one table per instruction set, as Kernels are for inference. Each part is declared in its own
/// header and written in the .inl of the same name.
struct TrainingKernels {
  GemmKernels gemm;
  DeltaGradientKernels delta;
  AttentionGradientKernels attention;
  PointwiseGradientKernels pointwise;
};

const TrainingKernels& training_kernels_scalar();
const TrainingKernels& training_kernels_avx2();
const TrainingKernels& training_kernels_avx512();
const TrainingKernels& training_kernels_for(Isa isa);

}  // namespace qnext
