// Part of training_kernels.inl.

inline constexpr GemmKernels kGemm{};
