#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/testing/temporary_directory.h"  // for the users of this file
#include "model/config.h"
#include "tensor/dtype.h"

namespace qnext::testing {

/// How a random checkpoint is spelled. The parameters depend on `seed`, `linear_std` and the config only: checkpoints
/// of one seed in different spellings are the same model up to the rounding of `dtype`. (For kF8E4M3 the rounding
/// depends on which rows share a block, so there the spellings differ by it.)
struct CheckpointOptions {
  uint64_t seed = 1;
  /// Of all tensors; kF8E4M3 quantises what the published fp8 checkpoints quantise and keeps the rest in bf16.
  DType dtype = DType::kBF16;
  bool bf16_scales = false;    ///< fp8 scales in bf16 instead of f32
  bool fused_experts = false;  ///< experts.gate_up_proj and experts.down_proj instead of a tensor per expert
  bool split_projections =
      false;  ///< in_proj_qkv, in_proj_z, in_proj_b, in_proj_a instead of in_proj_qkvz, in_proj_ba
  bool mtp = true;
  bool language_model_prefix = false;  ///< "model.language_model." instead of "model."
  bool legacy_config = false;          ///< config.json as transformers 4 wrote it
  int shards = 1;                      ///< 1: model.safetensors; else as many shards with an index
  double linear_std = 0.05;            ///< of the elements of all matrices
};

/// A small model with every kind of part: three DeltaNet layers (the second with a dense MLP) and one of attention.
ModelConfig tiny_config();

/// The text of a config.json that parse_config reads as `config`.
std::string config_json(const ModelConfig& config, const CheckpointOptions& options = {});

struct CheckpointTensor {
  std::string name;
  std::string dtype_text;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

/// The tensors of a checkpoint, in the order of the model. To be changed by tests of bad checkpoints.
std::vector<CheckpointTensor> random_tensors(const ModelConfig& config, const CheckpointOptions& options = {});

/// Writes the tensors to `directory` (created if need be) as one file or as `shards` files with an index.
void write_tensors(const std::filesystem::path& directory, const std::vector<CheckpointTensor>& tensors,
                   int shards = 1);

/// Writes config.json, generation_config.json (when the config has end tokens) and the tensors.
void write_random_checkpoint(const std::filesystem::path& directory, const ModelConfig& config,
                             const CheckpointOptions& options = {});

/// The parameter that for_each_parameter visits as `name`, [rows, cols] row-major (a vector is one row), before it is
/// rounded to the dtype of the checkpoint.
std::vector<float> random_parameter(const CheckpointOptions& options, const std::string& name, int64_t rows,
                                    int64_t cols);

}  // namespace qnext::testing
