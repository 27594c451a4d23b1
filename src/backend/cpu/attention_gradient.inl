// Part of training_kernels.inl.

inline constexpr AttentionGradientKernels kAttentionGradient{};
