#pragma once
#include <functional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"
#include "model/layers/decoder_layer.h"
#include "model/state.h"
#include "model/weights.h"

namespace qnext {

/// Everything a forward pass computes on the way, for at most max_rows rows: allocated once. The parts of `layer` and
/// mtp_input share memory: one set serves all layers in turn.
struct Activations {
  Rows residual;  ///< [T, D] the stream that layers add to
  Rows hidden;    ///< [T, D] final-normed
  Rows cos, sin;  ///< [T, rope dims / 2]
  Rows mtp_input;  ///< [T, 2D] embedding | hidden, normed
  std::vector<double> inverse_frequencies;  ///< [rope dims / 2]
  LayerActivations layer;
  Rows logit_input;  ///< [rows asked for, D]
  Rows logits;       ///< [rows asked for, vocab]; grows to the largest number asked for

  Activations(const ModelConfig& config, int64_t max_rows, Backend& backend);
  /// Bytes that the constructor allocates.
  static int64_t bytes(const ModelConfig& config, int64_t max_rows);
  void reserve_logits(const ModelConfig& config, int64_t rows, Backend& backend);

 private:
  Activations(const ModelConfig& config, int64_t max_rows, Arena arena);
  Arena arena_, logit_arena_;
};

/// Hidden states after the embedding (layer -1), each layer (0..L-1), and the final norm (L).
using Observer = std::function<void(int64_t layer, Rows hidden)>;

/// One step of the main stack over a ragged batch: tokens[row] for every row of every segment. Appends to the segments'
/// states (whose KV blocks must have room) but leaves `length` to the caller. Leaves final-normed hidden states of all rows in
/// act.hidden and logits of `logit_rows` in act.logits. Throws Error naming the layer whose output is not finite.
void forward(const ModelConfig& config, const Weights& weights, const StateLayout& layout, std::span<const int32_t> tokens,
             std::span<const Segment> segments, std::span<const int32_t> logit_rows, Activations& act, Backend& backend,
             const Observer& observer = {});

/// The MTP module: row i combines the embedding of next_tokens[i] with `hidden` row i, the final-normed hidden state of the
/// position before that token; logits predict the token after it. Segments' positions count MTP slots. Leaves mtp.norm's
/// output in act.hidden (the input of a further draft step) and logits of all rows in act.logits.
void forward_mtp(const ModelConfig& config, const Weights& weights, const StateLayout& layout,
                 std::span<const int32_t> next_tokens, Rows hidden, std::span<const Segment> segments, Activations& act,
                 Backend& backend);

}  // namespace qnext
