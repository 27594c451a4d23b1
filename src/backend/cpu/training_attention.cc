#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

void CpuTrainingBackend::head_norm_rope_backward(Rows, int64_t, Vector, double, Rows, Rows, Rows, Rows, float*) { QNEXT_CHECK(false, "not written yet"); }

void CpuTrainingBackend::gated_attention_backward(std::span<const AttentionSegment>, const KvLayout&, Rows, Rows, Rows, Rows, Rows, Rows, Rows, Rows, Rows) { QNEXT_CHECK(false, "not written yet"); }

}  // namespace qnext
