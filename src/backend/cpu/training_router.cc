#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

void CpuTrainingBackend::rms_norm_backward(Rows, Vector, double, Rows, Rows, float*) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::router_statistics(Rows, std::span<double>, double*) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::route_backward(Rows, int64_t, bool, const int32_t*, const float*, const float*, std::span<const float>, float, Rows) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::add_gated_backward(Rows, Rows, Rows, Rows, Rows) { QNEXT_CHECK(false, "not written yet"); }

}  // namespace qnext
