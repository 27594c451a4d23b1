#include "backend/cpu/training_backend.h"

#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"

namespace qnext {

const TrainingKernels& training_kernels_for(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return training_kernels_scalar();
    case Isa::kAvx2: return training_kernels_avx2();
    case Isa::kAvx512:
    case Isa::kAmx: return training_kernels_avx512();
  }
  QNEXT_CHECK(false, "unknown isa {}", static_cast<int>(isa));
}

static const ProductKernels& product_kernels_for(Isa isa, Products products) {
  const GemmKernels& k = training_kernels_for(isa).gemm;
  switch (products) {
    case Products::kF32: return k.f32;
    case Products::kBf16: return k.bf16;
    case Products::kBf16Avx512: return product_kernels_bf16_avx512();
    case Products::kBf16Amx: return product_kernels_bf16_amx();
    case Products::kBf16EmulatedAvx512: return k.bf16_emulated_avx512;
    case Products::kBf16EmulatedAmx: return k.bf16_emulated_amx;
  }
  QNEXT_CHECK(false, "unknown products {}", static_cast<int>(products));
}

Products chosen_bf16_products() {
  switch (chosen_bf16()) {
    case Bf16::kNone: return Products::kBf16;
    case Bf16::kAvx512: return Products::kBf16Avx512;
    case Bf16::kAmx: return Products::kBf16Amx;
  }
  return Products::kBf16;
}

std::string_view products_name(Products products) {
  switch (products) {
    case Products::kF32: return "f32";
    case Products::kBf16: return "bf16 (f32 arithmetic)";
    case Products::kBf16Avx512: return "bf16 (avx512)";
    case Products::kBf16Amx: return "bf16 (amx)";
    case Products::kBf16EmulatedAvx512: return "bf16 (emulated avx512)";
    case Products::kBf16EmulatedAmx: return "bf16 (emulated amx)";
  }
  QNEXT_CHECK(false, "unknown products {}", static_cast<int>(products));
}

CpuTrainingBackend::CpuTrainingBackend(std::shared_ptr<ThreadPool> pool, Isa isa, Products products)
    : TrainingBackend(make_cpu_backend(pool, isa, ActivationPrecision::kF32)),
      owner_(std::move(pool)),
      pool_(*owner_),
      k_(training_kernels_for(isa)),
      products_(product_kernels_for(isa, products)),
      scratch_(static_cast<size_t>(pool_.size())) {}

void CpuTrainingBackend::clear(Rows x) {
  pool_.parallel_for((x.rows + 63) / 64, [&](int64_t task, int) {
    for (int64_t t = task * 64; t < std::min(x.rows, (task + 1) * 64); ++t) std::fill_n(x.row(t), x.cols, 0.0f);
  });
}

std::unique_ptr<TrainingBackend> make_cpu_training_backend(int threads, Isa isa, Products products) {
  return std::make_unique<CpuTrainingBackend>(std::make_shared<ThreadPool>(threads), isa, products);
}

}  // namespace qnext
