#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "backend/training_backend.h"
#include "model/config.h"
#include "model/layers/decoder_layer.h"
#include "model/layers/mtp_input.h"
#include "model/state.h"
#include "model/weights.h"

namespace qnext {

/// Some pieces of documents that are trained on together, T rows. A piece that does not begin its document continues from
/// states and keys that an earlier step left; no gradient goes back there.
struct TrainingBatch {
  std::vector<int32_t> tokens;  ///< [T]
  /// targets[d][t]: token t + 1 + d of the row's document, which the main model (d = 0) or MTP step d should predict; -1 where
  /// the document has ended or the token is no target.
  std::vector<std::vector<int32_t>> targets;  ///< [1 + D][T]
  /// next[d][t]: token t + 1 + d of the row's document, which MTP step d + 1 reads; 0 where the document has ended.
  std::vector<std::vector<int32_t>> next;  ///< [D][T]
  /// The pieces. state->recurrent is working space for the states of all layers, left as they are after the last row (a step
  /// sets it from `before` by itself); the KV blocks must have room.
  std::vector<Segment> segments;
  /// The same pieces; state->recurrent is what it was before the first row, or null: zeros. Same KV blocks.
  std::vector<Segment> before;
  /// The same pieces with the KV blocks of each MTP step (TrainingModel::mtp_layout).
  std::vector<std::vector<Segment>> mtp;  ///< [D]
};

/// How the routers of one layer (of the MTP layer: all steps together) chose over the rows of an optimiser step.
struct RoutingStatistics {
  int64_t rows = 0;
  std::vector<int64_t> counts;         ///< [E] rows that chose the expert
  std::vector<double> probabilities;   ///< [E] sum over rows of the softmax over all experts
  double squared_lse = 0.0;            ///< sum over rows of log-sum-exp(logits)²
};

/// What the loss is made of: scales of the sums over targets, and how routing enters.
struct LossScales {
  std::vector<float> targets;                ///< [1 + D]
  std::vector<std::vector<float>> balance;   ///< per layer (MTP last), see RouterLoss; empty: none
  float z = 0.0f;
};

/// Sums over all targets of a step.
struct LossSums {
  struct Depth {
    double loss = 0.0;  ///< nats
    int64_t targets = 0;
    /// MTP: rows whose prediction and the main model's of the same token were compared, and were the same: what greedy
    /// drafting with that many tokens before it would accept.
    int64_t drafts = 0, accepted = 0;
  };
  std::vector<Depth> depths;  ///< [1 + D]
};

/// Forward and backward passes over all batches of an optimiser step. forward() keeps the input of every layer, and what is
/// inside the layers as far as the budget reaches; backward() computes the rest again, to the same bits. So all batches'
/// routing is known before the first gradient, and the load-balance loss can count over the whole step.
/// A Weights' matrices must be f32 where they have gradients. Not thread-safe.
class TrainingModel {
 public:
  struct Options {
    int64_t mtp_steps = 0;      ///< D; the weights must have an MTP module when not 0
    int64_t kept_bytes = 0;     ///< for what is inside the layers; 0: all of it is computed again
  };
  TrainingModel(const ModelConfig& config, const Weights& weights, const Options& options, TrainingBackend& backend);

  const StateLayout& layout() const { return layout_; }
  /// KV blocks of one MTP step.
  const StateLayout& mtp_layout() const { return mtp_layout_; }

  /// Adds to the statistics (one per layer, with the MTP layer last when there is one; sized on the first call). Throws Error
  /// naming the layer whose output is not finite.
  void forward(std::span<const TrainingBatch> batches, std::vector<RoutingStatistics>& statistics);
  /// Gradients of the same batches, added to `gradients`. ready(layer) follows when all gradients of a layer are complete:
  /// first the MTP module (layer L), then L - 1, ..., 0, then -1: embedding, final norm and head. Throws Error naming the
  /// layer whose gradient is not finite.
  using Ready = std::function<void(int64_t layer)>;
  void backward(std::span<const TrainingBatch> batches, const LossScales& scales, const Weights& gradients, LossSums& sums,
                const Ready& ready = {});
  /// The losses alone, after forward().
  void evaluate(std::span<const TrainingBatch> batches, LossSums& sums);

  /// Bytes of layer inputs, of kept activations, and of working space, for steps of `batches` batches of `rows` rows.
  struct Memory {
    int64_t inputs = 0, kept = 0, working = 0;
  };
  Memory memory(int64_t batches, int64_t rows) const;

 private:
  /// What a step keeps of one batch.
  struct Tape {
    Rows cos, sin;
    std::vector<Rows> inputs;                          ///< [L + 1][T, D] residual stream before each layer, and after the last
    std::vector<Rows> mtp_inputs, mtp_outputs;         ///< [D][T, D] of the MTP layer, each step
    std::vector<std::optional<LayerActivations>> kept;  ///< [L + D]
  };
  void reserve(std::span<const TrainingBatch> batches);
  void allocate(int64_t batches, int64_t rows, Arena& inputs, Arena& kept, Arena& working, std::vector<Tape>& tapes);
  LayerActivations layer_activations(LayerKind kind, int64_t rows, Arena& arena) const;
  bool is_attention(int64_t block) const;
  LayerActivations& activations(Tape& tape, int64_t block);
  /// Without `out`: again, for the backward pass.
  void run_layer(const TrainingBatch& batch, Tape& tape, int64_t block, LayerActivations& act, std::optional<Rows> out = {});
  Rows hidden_of(Tape& tape, int64_t depth, int64_t rows, Rows out);
  void backward_batch(const TrainingBatch& batch, Tape& tape, const LossScales& scales, const Weights& gradients,
                      LossSums& sums, const Ready& ready);
  void count_routing(const LayerActivations& act, int64_t rows, RoutingStatistics& statistics);
  void require_finite(Rows x, std::string_view what, int64_t block);

  const ModelConfig& config_;
  const Weights& weights_;
  Options options_;
  TrainingBackend& backend_;
  StateLayout layout_, mtp_layout_;
  std::vector<double> inverse_frequencies_;

  int64_t reserved_batches_ = 0, reserved_rows_ = 0;
  Arena inputs_, kept_, working_;
  std::vector<Tape> tapes_;
  // Working space.
  LayerActivations shared_;
  LayerBackwardSpace layer_space_;
  MtpInputActivations mtp_input_;
  MtpInputBackwardSpace mtp_space_;
  std::vector<Rows> hidden_;  ///< [1 + D][T, D] final-normed, of the main model and each MTP step
  Rows d_hidden_, d_deeper_, d_x_;
  std::vector<std::vector<int32_t>> predictions_;  ///< [1 + D][T]
};

}  // namespace qnext
