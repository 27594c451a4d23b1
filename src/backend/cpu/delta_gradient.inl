// Part of training_kernels.inl.

inline constexpr DeltaGradientKernels kDeltaGradient{};
