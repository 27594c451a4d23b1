#pragma once
#include "model/tensor_taker.h"

namespace qnext {

/// Binds the tensors of a GGUF file of architecture qwen3next: DeltaNet's projections split (attn_qkv, attn_gate) or
/// as in legacy files (ssm_in), experts in three stacks or with gate and up fused. Undoes what converters do to
/// values (norms hold 1 + gain, ssm_a holds -exp(A_log)), in f32. For bind_weights.
void bind_gguf(const ModelConfig& config, TensorTaker& tensors, Weights& weights);

}  // namespace qnext
