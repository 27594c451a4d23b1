// Part of training_kernels.inl.

inline constexpr PointwiseGradientKernels kPointwiseGradient{};
