#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

void CpuTrainingBackend::causal_conv1d_silu_backward(std::span<const ConvSegment>, Rows, Vector, int64_t, std::span<const UnitNorm>, Rows, Rows, float*) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::delta_gates_backward(Rows, Rows, Vector, Vector, Rows, Rows, Rows, Rows, float*, float*) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::gated_delta_rule_backward(std::span<const DeltaSegment>, const DeltaShape&, Rows, Rows, Rows, Rows, Rows, Rows, Rows, Rows, Rows, Rows, Rows) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::gated_rms_norm_backward(Rows, Rows, Vector, double, Rows, Rows, Rows, float*) { QNEXT_CHECK(false, "not written yet"); }

}  // namespace qnext
