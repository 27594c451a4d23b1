// Included inside a target region and namespace by training_kernels_<isa>.cc, after simd.h, as kernels.inl is by kernels_<isa>.cc.

#include "backend/cpu/small_product.inl"
#include "backend/cpu/gemm.inl"
#include "backend/cpu/delta_gradient.inl"
#include "backend/cpu/attention_gradient.inl"
#include "backend/cpu/pointwise_gradient.inl"

inline constexpr TrainingKernels kTable{
    .gemm = kGemm, .delta = kDeltaGradient, .attention = kAttentionGradient, .pointwise = kPointwiseGradient};
