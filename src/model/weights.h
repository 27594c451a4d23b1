#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "backend/backend.h"
#include "formats/checkpoint.h"
#include "model/config.h"
#include "tensor/matrix.h"

namespace qnext {

// The parameters of the model, typed. Shapes in comments: D hidden, Hk/Hv key/value heads of DeltaNet with dims K and
// V, H/Hkv query/KV heads of attention with dim A, E experts of width F.

struct GatedDeltaNetWeights {
  Matrix q, k;     ///< [Hk*K, D]
  Matrix v, z;     ///< [Hv*V, D]; z is the output gate
  Matrix b, a;     ///< [Hv, D]; b: write strength, a: decay
  Vector conv;     ///< [2*Hk*K + Hv*V, kernel], channels q | k | v, the last tap meets the current token
  Vector a_log;    ///< [Hv]
  Vector dt_bias;  ///< [Hv]
  Vector norm;     ///< [V], plain gain (1 is neutral), shared by all heads
  Matrix out;      ///< [D, Hv*V]
};

struct GatedAttentionWeights {
  Matrix q, gate;         ///< [H*A, D]
  Matrix k, v;            ///< [Hkv*A, D]
  Vector q_norm, k_norm;  ///< [A], zero-centred gain
  Matrix out;             ///< [D, H*A]
};

struct MoeWeights {
  Matrix router;                    ///< [E, D]
  std::vector<MlpWeights> experts;  ///< E, or of a rank that has some of them: those from first_expert on
  int64_t first_expert = 0;
  MlpWeights shared;
  Matrix shared_gate;  ///< [1, D]
};

struct LayerWeights {
  Vector input_norm;  ///< [D], zero-centred
  std::variant<GatedDeltaNetWeights, GatedAttentionWeights> mixer;
  Vector post_attention_norm;  ///< [D], zero-centred
  std::variant<MoeWeights, MlpWeights> mlp;
};

/// Multi-token prediction: one full-attention layer fed with [embedding of the next token ; final-normed hidden].
struct MtpWeights {
  Vector embedding_norm, hidden_norm;  ///< [D], zero-centred
  Matrix fc;                           ///< [D, 2D], input embedding | hidden
  LayerWeights layer;
  Vector norm;  ///< [D], zero-centred
};

/// All parameters. The matrices are views into the checkpoint's mapped files (kept alive here) or into `owned`.
struct Weights {
  Matrix embedding;  ///< [vocab, D]
  std::vector<LayerWeights> layers;
  Vector final_norm;  ///< [D], zero-centred
  Matrix lm_head;     ///< [vocab, D]; the same matrix as the embedding when tied
  std::optional<MtpWeights> mtp;

  std::shared_ptr<const Checkpoint> checkpoint;
  std::deque<std::vector<std::byte>> owned_bytes;  ///< matrices that lie unaligned in their file
  std::deque<std::vector<float>> owned_floats;     ///< vectors, and fp8 scales that are not aligned f32 in their file
};

/// The one function that knows the names of tensors. Finds every parameter of `config` in `checkpoint`: a GGUF file's
/// (gguf_binder.h), or a Hugging Face checkpoint's in any of the published spellings (per-expert or fused experts, fused
/// or split DeltaNet projections, bf16/f16/f32 or fp8 with 128x128 block scales; "model." or "model.language_model." in
/// front). Checks shape and dtype, undoes interleavings by row selection, and refuses tensors that are missing or left over (except rotary_emb.inv_freq, which the config
/// determines). MTP tensors are there as a group or not at all, and as the config announces if it does. With tied
/// embeddings the one tensor may bear either name; a checkpoint that holds both keeps both, as in transformers 5.
/// Throws FileError (tensor, file, expected, found).
Weights bind_weights(const ModelConfig& config, std::shared_ptr<const Checkpoint> checkpoint);

/// Visits every parameter once, in the order of the model, under its Hugging Face name whatever the checkpoint's
/// spelling: the interleaved ones as "...linear_attn.in_proj_qkvz.q" (.k .v .z), "...in_proj_ba.b" (.a),
/// "...self_attn.q_proj.q"
/// (.gate), experts as "...mlp.experts.7.up_proj.weight". A tied head is the embedding and not visited again.
struct ParameterVisitor {
  std::function<void(const std::string& name, const Matrix&)> matrix;
  std::function<void(const std::string& name, const Vector&)> vector;
};
void for_each_parameter(const Weights& weights, const ParameterVisitor& visit);

/// Parameters in total, and those one decoded token touches (of the main stack, without MTP: all but the embedding
/// table and the experts not chosen). The scales of fp8 are not parameters.
struct ParameterCount {
  int64_t total = 0, active = 0;
};
ParameterCount count_parameters(const ModelConfig& config, const Weights& weights);

}  // namespace qnext
