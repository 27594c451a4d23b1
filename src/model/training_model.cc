#include "model/training_model.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "model/gradients.h"
#include "model/rope.h"

namespace qnext {

TrainingModel::TrainingModel(const ModelConfig& config, const Weights& weights, const Options& options,
                             TrainingBackend& backend)
    : config_(config),
      weights_(weights),
      options_(options),
      backend_(backend),
      layout_(config, DType::kF32, false),
      inverse_frequencies_(rope_inverse_frequencies(config.rope)) {
  QNEXT_CHECK(options.mtp_steps == 0 || weights.mtp.has_value(), "{} MTP steps without a module", options.mtp_steps);
  mtp_layout_.kv = layout_.kv;
  mtp_layout_.kv_block_bytes = layout_.kv.bytes();
  mtp_layout_.mtp_kv_offset = 0;
}

// ---- memory

bool TrainingModel::is_attention(int64_t block) const {
  return block >= config_.num_layers() || config_.layer_types[static_cast<size_t>(block)] == LayerKind::kFullAttention;
}

LayerActivations TrainingModel::layer_activations(LayerKind kind, int64_t rows, Arena& arena) const {
  LayerActivations act;
  act.normed = arena.rows(rows, config_.hidden_size);
  act.middle = arena.rows(rows, config_.hidden_size);
  act.mlp_input = arena.rows(rows, config_.hidden_size);
  act.mlp.allocate_kept(config_, rows, arena);
  if (kind == LayerKind::kLinearAttention) {
    act.delta = GatedDeltaNetActivations(config_, rows, Keep::kForBackward, arena);
  } else {
    act.attention = GatedAttentionActivations(config_, rows, Keep::kForBackward, arena);
  }
  return act;
}

void TrainingModel::allocate(int64_t batches, int64_t rows, Arena& inputs, Arena& kept, Arena& working,
                             std::vector<Tape>& tapes) {
  const int64_t d = config_.hidden_size, layers = config_.num_layers(), steps = options_.mtp_steps;
  tapes.assign(static_cast<size_t>(batches), {});
  for (Tape& tape : tapes) {
    tape.cos = inputs.rows(rows, config_.rope.dims / 2);
    tape.sin = inputs.rows(rows, config_.rope.dims / 2);
    for (int64_t i = 0; i <= layers; ++i) tape.inputs.push_back(inputs.rows(rows, d));
    for (int64_t i = 0; i < steps; ++i) {
      tape.mtp_inputs.push_back(inputs.rows(rows, d));
      tape.mtp_outputs.push_back(inputs.rows(rows, d));
    }
    tape.kept.resize(static_cast<size_t>(layers + steps));
  }
  // Working space: one layer's activations of each kind in the same memory, its gradients, and the ends of the model.
  shared_ = {};
  shared_.normed = working.rows(rows, d);
  shared_.middle = working.rows(rows, d);
  shared_.mlp_input = working.rows(rows, d);
  shared_.mixed = working.rows(rows, d);
  shared_.mlp.allocate_kept(config_, rows, working);
  const int64_t kinds = working.used();
  shared_.delta = GatedDeltaNetActivations(config_, rows, Keep::kForBackward, working);
  working.rewind(kinds);
  shared_.attention = GatedAttentionActivations(config_, rows, Keep::kForBackward, working);
  working.rewind(working.bytes());
  const int64_t passes = working.used();
  shared_.mlp.allocate_working(config_, rows, working);  // of the forward pass, over when the backward pass begins
  working.rewind(passes);
  layer_space_ = LayerBackwardSpace(config_, rows, working);
  working.rewind(working.bytes());
  d_x_ = working.rows(rows, d);
  d_hidden_ = working.rows(rows, d);
  d_deeper_ = working.rows(rows, d);
  hidden_.clear();
  for (int64_t i = 0; i <= steps; ++i) hidden_.push_back(working.rows(rows, d));
  if (steps > 0) {
    mtp_input_.embedded = working.rows(rows, d);
    mtp_input_.joined = working.rows(rows, 2 * d);
    mtp_space_.d_embedded = working.rows(rows, d);
    mtp_space_.d_joined = working.rows(rows, 2 * d);
  }
  predictions_.assign(static_cast<size_t>(1 + steps), std::vector<int32_t>(static_cast<size_t>(rows)));
  // The budget keeps what the backward pass wants first: of each batch the last layers.
  for (int64_t block = layers + steps - 1; block >= 0; --block) {
    for (Tape& tape : tapes) {
      const LayerKind kind = is_attention(block) ? LayerKind::kFullAttention : LayerKind::kLinearAttention;
      Arena size;
      layer_activations(kind, rows, size);
      if (kept.used() + size.bytes() > options_.kept_bytes) return;
      tape.kept[static_cast<size_t>(block)] = layer_activations(kind, rows, kept);
    }
  }
}

TrainingModel::Memory TrainingModel::memory(int64_t batches, int64_t rows) const {
  TrainingModel other(config_, weights_, options_, backend_);
  Arena inputs, kept, working;
  std::vector<Tape> tapes;
  other.allocate(batches, rows, inputs, kept, working, tapes);
  return {inputs.bytes(), kept.bytes(), working.bytes()};
}

void TrainingModel::reserve(std::span<const TrainingBatch> batches) {
  int64_t rows = reserved_rows_;
  for (const TrainingBatch& batch : batches) rows = std::max(rows, static_cast<int64_t>(batch.tokens.size()));
  const auto count = std::max(reserved_batches_, static_cast<int64_t>(batches.size()));
  if (rows == reserved_rows_ && count == reserved_batches_) return;
  for (Arena* arena : {&inputs_, &kept_, &working_}) *arena = Arena();  // the old ones go first
  const Memory bytes = memory(count, rows);
  inputs_ = Arena(backend_.allocate(bytes.inputs));
  kept_ = Arena(backend_.allocate(bytes.kept));
  working_ = Arena(backend_.allocate(bytes.working));
  allocate(count, rows, inputs_, kept_, working_, tapes_);
  reserved_rows_ = rows;
  reserved_batches_ = count;
}

// ---- forward

void TrainingModel::require_finite(Rows x, std::string_view what, int64_t block) {
  if (backend_.all_finite(x)) return;
  const int64_t layers = config_.num_layers();
  const std::string name = block < 0 ? "embedding" : block >= layers ? "mtp.layers.0" : fmt::format("layer {}", block);
  throw Error(fmt::format("{}: expected finite values, found NaN or infinity in its {}", name, what));
}

LayerActivations& TrainingModel::activations(Tape& tape, int64_t block) {
  std::optional<LayerActivations>& kept = tape.kept[static_cast<size_t>(block)];
  if (!kept) return shared_;
  // Working space is one for all.
  kept->mixed = shared_.mixed;
  kept->mlp.expert_hidden = shared_.mlp.expert_hidden;
  kept->mlp.expert_out = shared_.mlp.expert_out;
  kept->mlp.hidden = shared_.mlp.hidden;
  return *kept;
}

void TrainingModel::run_layer(const TrainingBatch& batch, Tape& tape, int64_t block, LayerActivations& act,
                              std::optional<Rows> out) {
  const int64_t rows = static_cast<int64_t>(batch.tokens.size()), layers = config_.num_layers();
  const auto index = static_cast<size_t>(block);
  const Rows cos = tape.cos.first(rows), sin = tape.sin.first(rows);
  if (block >= layers) {
    const auto step = static_cast<size_t>(block - layers);
    return qnext::forward(config_, weights_.mtp->layer, mtp_layout_, -1, 0, batch.mtp[step],
                          tape.mtp_inputs[step].first(rows), cos, sin, act, out, backend_);
  }
  if (!is_attention(block)) {
    const int64_t begin = layout_.delta_offset[index];
    const int64_t floats = layout_.conv_offset[index] - begin + (config_.linear_conv_kernel_dim - 1) * config_.linear_conv_width();
    for (size_t s = 0; s < batch.segments.size(); ++s) {
      float* state = batch.segments[s].state->recurrent + begin;
      if (const float* before = batch.before[s].state->recurrent; before != nullptr) {
        std::copy_n(before + begin, floats, state);
      } else {
        std::fill_n(state, floats, 0.0f);
      }
    }
  }
  qnext::forward(config_, weights_.layers[index], layout_, block, layout_.kv_offset[index], batch.segments,
                 tape.inputs[index].first(rows), cos, sin, act, out, backend_);
}

void TrainingModel::count_routing(const LayerActivations& act, int64_t rows, RoutingStatistics& statistics) {
  if (act.mlp.experts.empty()) return;
  const auto experts = static_cast<size_t>(config_.num_experts);
  statistics.counts.resize(experts);
  statistics.probabilities.resize(experts);
  statistics.rows += rows;
  for (int64_t i = 0; i < rows * config_.num_experts_per_tok; ++i) {
    ++statistics.counts[static_cast<size_t>(act.mlp.experts[static_cast<size_t>(i)])];
  }
  backend_.router_statistics(act.mlp.router_logits.first(rows), statistics.probabilities, &statistics.squared_lse);
}

void TrainingModel::forward(std::span<const TrainingBatch> batches, std::vector<RoutingStatistics>& statistics) {
  reserve(batches);
  const int64_t layers = config_.num_layers(), steps = options_.mtp_steps;
  statistics.resize(static_cast<size_t>(layers + (steps > 0 ? 1 : 0)));
  const auto is_moe = [&](int64_t block) {
    return block >= layers ? std::holds_alternative<MoeWeights>(weights_.mtp->layer.mlp)
                           : static_cast<bool>(config_.layer_is_moe[static_cast<size_t>(block)]);
  };
  for (size_t b = 0; b < batches.size(); ++b) {
    const TrainingBatch& batch = batches[b];
    Tape& tape = tapes_[b];
    const auto rows = static_cast<int64_t>(batch.tokens.size());
    for (const Segment& s : batch.segments) {
      for (int64_t i = 0; i < s.rows; ++i) {
        rope_row(inverse_frequencies_, config_.rope.attention_factor, s.position + i, tape.cos.row(s.row + i),
                 tape.sin.row(s.row + i));
      }
    }
    backend_.embed(weights_.embedding, batch.tokens, tape.inputs[0].first(rows));
    require_finite(tape.inputs[0].first(rows), "output", -1);
    for (int64_t i = 0; i < layers; ++i) {
      LayerActivations& act = activations(tape, i);
      const Rows out = tape.inputs[static_cast<size_t>(i) + 1].first(rows);
      run_layer(batch, tape, i, act, out);
      require_finite(out, "output", i);
      if (is_moe(i)) count_routing(act, rows, statistics[static_cast<size_t>(i)]);
    }
    for (int64_t step = 0; step < steps; ++step) {
      const auto index = static_cast<size_t>(step);
      const Rows hidden = hidden_of(tape, step, rows, hidden_[0].first(rows));
      qnext::forward(config_, *weights_.mtp, weights_.embedding, batch.next[index], hidden, mtp_input_,
                     tape.mtp_inputs[index].first(rows), backend_);
      LayerActivations& act = activations(tape, layers + step);
      const Rows out = tape.mtp_outputs[index].first(rows);
      run_layer(batch, tape, layers + step, act, out);
      require_finite(out, "output", layers);
      if (is_moe(layers)) count_routing(act, rows, statistics.back());
    }
  }
}

/// The final-normed states of the main model (depth 0), or what mtp.norm gives at MTP step `depth`.
Rows TrainingModel::hidden_of(Tape& tape, int64_t depth, int64_t rows, Rows out) {
  if (depth == 0) {
    backend_.rms_norm(tape.inputs.back().first(rows), weights_.final_norm, config_.rms_norm_eps, out);
  } else {
    backend_.rms_norm(tape.mtp_outputs[static_cast<size_t>(depth) - 1].first(rows), weights_.mtp->norm,
                      config_.rms_norm_eps, out);
  }
  return out;
}

// ---- losses and backward

/// Counts, for MTP step d and every row of a piece, whether it predicted what the main model predicts d rows later.
static void count_drafts(const TrainingBatch& batch, std::span<const std::vector<int32_t>> predictions, LossSums& sums) {
  for (size_t d = 1; d < batch.targets.size(); ++d) {
    for (const Segment& s : batch.segments) {
      for (int64_t i = 0; i + static_cast<int64_t>(d) < s.rows; ++i) {
        const auto row = static_cast<size_t>(s.row + i);
        if (batch.targets[d][row] < 0) continue;
        ++sums.depths[d].drafts;
        if (predictions[d][row] == predictions[0][row + d]) ++sums.depths[d].accepted;
      }
    }
  }
}

void TrainingModel::evaluate(std::span<const TrainingBatch> batches, LossSums& sums) {
  sums.depths.resize(static_cast<size_t>(1 + options_.mtp_steps));
  for (size_t b = 0; b < batches.size(); ++b) {
    const TrainingBatch& batch = batches[b];
    const auto rows = static_cast<int64_t>(batch.tokens.size());
    for (int64_t depth = 0; depth <= options_.mtp_steps; ++depth) {
      const auto index = static_cast<size_t>(depth);
      const Rows hidden = hidden_of(tapes_[b], depth, rows, hidden_[index].first(rows));
      const auto result = backend_.cross_entropy(hidden, weights_.lm_head, batch.targets[index], 0.0f, {}, nullptr,
                                                 std::span(predictions_[index]).first(batch.tokens.size()));
      sums.depths[index].loss += result.loss;
      sums.depths[index].targets += result.targets;
    }
    count_drafts(batch, predictions_, sums);
  }
}

void TrainingModel::backward(std::span<const TrainingBatch> batches, const LossScales& scales, const Weights& gradients,
                             LossSums& sums, const Ready& ready) {
  sums.depths.resize(static_cast<size_t>(1 + options_.mtp_steps));
  for (size_t b = 0; b < batches.size(); ++b) {
    backward_batch(batches[b], tapes_[b], scales, gradients, sums, b + 1 == batches.size() ? ready : Ready{});
  }
}

void TrainingModel::backward_batch(const TrainingBatch& batch, Tape& tape, const LossScales& scales,
                                   const Weights& gradients, LossSums& sums, const Ready& ready) {
  const int64_t layers = config_.num_layers(), steps = options_.mtp_steps;
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  const Rows cos = tape.cos.first(rows), sin = tape.sin.first(rows);
  const Rows d_x = d_x_.first(rows), d_deeper = d_deeper_.first(rows), d_hidden = d_hidden_.first(rows);
  const auto router_loss = [&](int64_t layer) {
    const auto index = static_cast<size_t>(layer);
    return RouterLoss{index < scales.balance.size() ? std::span<const float>(scales.balance[index]) : std::span<const float>(),
                      scales.z};
  };
  const auto cross_entropy = [&](size_t depth, Rows hidden) {
    const auto result = backend_.cross_entropy(hidden, weights_.lm_head, batch.targets[depth], scales.targets[depth], d_hidden,
                                               gradient_of(gradients.lm_head).weight,
                                               std::span(predictions_[depth]).first(batch.tokens.size()));
    sums.depths[depth].loss += result.loss;
    sums.depths[depth].targets += result.targets;
  };
  for (int64_t depth = 0; depth <= steps; ++depth) {
    hidden_of(tape, depth, rows, hidden_[static_cast<size_t>(depth)].first(rows));
  }
  // The deepest MTP step first: each hands its input's gradient (d_deeper) on to the step above.
  backend_.clear(d_deeper);
  for (int64_t depth = steps; depth > 0; --depth) {
    const auto index = static_cast<size_t>(depth), step = index - 1;
    const int64_t block = layers + depth - 1;
    cross_entropy(index, hidden_[index].first(rows));
    backend_.add(d_hidden, d_deeper, d_hidden);
    backend_.clear(d_x);
    backend_.rms_norm_backward(tape.mtp_outputs[step].first(rows), weights_.mtp->norm, config_.rms_norm_eps, d_hidden, d_x,
                               gradient_of(gradients.mtp->norm));
    LayerActivations& act = activations(tape, block);
    if (&act == &shared_) run_layer(batch, tape, block, act);
    qnext::backward(config_, weights_.mtp->layer, gradients.mtp->layer, mtp_layout_, -1, 0, batch.mtp[step],
                    tape.mtp_inputs[step].first(rows), cos, sin, act, router_loss(layers), layer_space_, d_x, backend_);
    require_finite(d_x, "gradient", block);
    // What is before the layer, again: embedded and joined are one for all steps.
    const Rows hidden = hidden_[step].first(rows);
    qnext::forward(config_, *weights_.mtp, weights_.embedding, batch.next[step], hidden, mtp_input_,
                   tape.mtp_inputs[step].first(rows), backend_);
    backend_.clear(d_deeper);
    qnext::backward(config_, *weights_.mtp, *gradients.mtp, gradient_of(gradients.embedding).weight, batch.next[step], hidden,
                    mtp_input_, d_x, mtp_space_, d_deeper, backend_);
  }
  if (steps > 0 && ready) ready(layers);
  cross_entropy(0, hidden_[0].first(rows));
  count_drafts(batch, predictions_, sums);
  backend_.add(d_hidden, d_deeper, d_hidden);
  backend_.clear(d_x);
  backend_.rms_norm_backward(tape.inputs.back().first(rows), weights_.final_norm, config_.rms_norm_eps, d_hidden, d_x,
                             gradient_of(gradients.final_norm));
  require_finite(d_x, "gradient", layers - 1);
  for (int64_t i = layers - 1; i >= 0; --i) {
    const auto index = static_cast<size_t>(i);
    LayerActivations& act = activations(tape, i);
    if (&act == &shared_) run_layer(batch, tape, i, act);
    qnext::backward(config_, weights_.layers[index], gradients.layers[index], layout_, i, layout_.kv_offset[index],
                    batch.before, tape.inputs[index].first(rows), cos, sin, act, router_loss(i), layer_space_, d_x, backend_);
    require_finite(d_x, "gradient", i);
    if (ready) ready(i);
  }
  if (float* d_embedding = gradient_of(gradients.embedding).weight) backend_.embed_backward(batch.tokens, d_x, d_embedding);
  if (ready) ready(-1);
}

}  // namespace qnext
