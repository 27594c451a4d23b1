#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/config.h"
#include "model/weights.h"

namespace qnext {

/// Rows [first, first + count) of a parameter, which bears the name that for_each_parameter() gives it. The rows of a
/// Vector are as long as those of the tensor that it is stored in: it has size / cols of them.
struct ParameterRows {
  std::string parameter;
  int64_t first = 0, count = 0;
};

/// What the stored values are made of the parameter's by.
enum class Transform {
  kNone,
  kPlusOne,   ///< 1 + x: gains that are zero-centred in the model
  kMinusExp,  ///< -exp(x): A_log
};

/// How one tensor of a file is made of the model's parameters: its rows are those of `rows` one after the other. The
/// shape is in Hugging Face order; a row is its last dimension.
struct StoredTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<ParameterRows> rows;
  Transform transform = Transform::kNone;
  bool keep_f32 = false;  ///< GGUF: other programs expect F32, whatever the others are stored as

  int64_t cols() const { return shape.back(); }
  int64_t row_count() const;
};

/// What a file holds beyond what the config says.
struct StoredParts {
  bool tied_head = false;  ///< the head is the embedding and has no tensor
  bool mtp = false;
  bool mtp_dense = false;  ///< the MTP layer's MLP is dense although the model has experts
};
StoredParts stored_parts(const Weights& weights);

/// The tensors of a GGUF file, architecture qwen3next, in the order in which llama.cpp writes them: experts stacked,
/// DeltaNet's projections as attn_qkv (q | k | v), attn_gate and ssm_ba (b and a grouped by key head).
std::vector<StoredTensor> gguf_tensors(const ModelConfig& config, const StoredParts& parts);
/// The tensors of a Hugging Face checkpoint as the released ones have them: one tensor per expert, in_proj_qkvz and
/// in_proj_ba grouped by key head.
std::vector<StoredTensor> hugging_face_tensors(const ModelConfig& config, const StoredParts& parts);

/// Reads stored tensors out of a model, whatever the format that it was opened from, with the low-rank additions of its matrices.
class ParameterReader {
 public:
  /// A view of `weights`.
  explicit ParameterReader(const Weights& weights);

  /// Rows [first, first + count) of the tensor as f32, [count, cols], transformed.
  void read(const StoredTensor& tensor, int64_t first, int64_t count, std::span<float> out) const;
  /// The parameter, or null when it is a vector or not there. For copying rows as they are (where it has no low_rank).
  const Matrix* matrix(const std::string& parameter) const;

 private:
  std::unordered_map<std::string, Matrix> matrices_;
  std::unordered_map<std::string, Vector> vectors_;
};

}  // namespace qnext
