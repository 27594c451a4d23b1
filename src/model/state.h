#pragma once
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"

namespace qnext {

/// Where one sequence's memory lies: keys and values in blocks of 64 tokens that each hold every attention layer (the
/// MTP module's last), and one array with the recurrent and convolution states of every DeltaNet layer.
struct StateLayout {
  KvLayout kv;                          ///< one attention layer of a block
  int64_t kv_block_bytes = 0;           ///< all attention layers, 64 tokens
  int64_t recurrent_floats = 0;         ///< all DeltaNet layers, one sequence
  std::vector<int64_t> kv_offset;       ///< per layer: bytes into a block; -1 for DeltaNet layers
  std::vector<int64_t> delta_offset;    ///< per layer: floats to [Hv, K, V]; -1 for attention layers
  std::vector<int64_t> conv_offset;     ///< per layer: floats to [kernel - 1, channels]
  int64_t mtp_kv_offset = -1;           ///< bytes into a block; -1 without MTP

  StateLayout() = default;
  StateLayout(const ModelConfig& config, DType kv_dtype, bool mtp);
};

/// The model's view of one sequence; runtime/ owns the memory. All zero at length 0.
struct SequenceState {
  int64_t length = 0;                ///< tokens the main stack has seen
  int64_t mtp_length = 0;            ///< slots the MTP module has seen
  std::vector<std::byte*> kv_blocks;
  float* recurrent = nullptr;

  KvView kv(int64_t offset) const { return {kv_blocks.data(), offset}; }
};

/// The rows of one sequence in a ragged batch: its next tokens, at positions position, position + 1, ...
struct Segment {
  int64_t row = 0, rows = 0, position = 0;
  SequenceState* state = nullptr;
};

}  // namespace qnext
