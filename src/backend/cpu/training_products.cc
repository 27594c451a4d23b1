#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

void CpuTrainingBackend::linear(Rows x, std::span<const Linear> products) { inner().linear(x, products); }

void CpuTrainingBackend::mlp(Rows x, const MlpWeights& weights, Rows hidden, Rows y) { inner().mlp(x, weights, hidden, y); }

void CpuTrainingBackend::experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights, Rows hidden, Rows expert_out, Rows y) { inner().experts(x, experts, k, chosen, weights, hidden, expert_out, y); }

void CpuTrainingBackend::embed_backward(std::span<const int32_t>, Rows, float*) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::linear_backward(Rows, std::span<const LinearGradient>, Rows) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::experts_backward(Rows, std::span<const MlpWeights>, int64_t, const int32_t*, const float*, Rows, Rows, float*, std::span<const MlpGradient>) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::mlp_backward(Rows, const MlpWeights&, Rows, Rows, const MlpGradient&) { QNEXT_CHECK(false, "not written yet"); }

CpuTrainingBackend::CrossEntropy CpuTrainingBackend::cross_entropy(Rows, const Matrix&, std::span<const int32_t>, float, Rows, float*, std::span<int32_t>) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::adamw(std::span<float>, std::span<const float>, std::span<float>, std::span<float>, const AdamW&) { QNEXT_CHECK(false, "not written yet"); }

double CpuTrainingBackend::sum_of_squares(std::span<const float>) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::product(Product, const float*, const float*, float*, int64_t, int64_t, int64_t) { QNEXT_CHECK(false, "not written yet"); }

}  // namespace qnext
