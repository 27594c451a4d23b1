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

CpuTrainingBackend::CpuTrainingBackend(std::shared_ptr<ThreadPool> pool, Isa isa)
    : TrainingBackend(make_cpu_backend(pool, isa, ActivationPrecision::kF32)),
      owner_(std::move(pool)),
      pool_(*owner_),
      k_(training_kernels_for(isa)),
      scratch_(static_cast<size_t>(pool_.size())) {}

void CpuTrainingBackend::clear(Rows x) {
  pool_.parallel_for((x.rows + 63) / 64, [&](int64_t task, int) {
    for (int64_t t = task * 64; t < std::min(x.rows, (task + 1) * 64); ++t) std::fill_n(x.row(t), x.cols, 0.0f);
  });
}

std::unique_ptr<TrainingBackend> make_cpu_training_backend(int threads, Isa isa) {
  return std::make_unique<CpuTrainingBackend>(std::make_shared<ThreadPool>(threads), isa);
}

}  // namespace qnext
