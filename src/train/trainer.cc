#include "train/trainer.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>

#include "base/checksum.h"
#include "base/error.h"
#include "tokenizer/tokenizer.h"
#include "train/expert_parallel_backend.h"
#include "train/schedule.h"

namespace qnext {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Lanes::Options lane_options(const TrainConfig& config, const Communicator& communicator) {
  return {.seed = static_cast<uint64_t>(config.data.seed),
          .mtp_steps = config.model.mtp_steps,
          .micro_batch_tokens = config.data.micro_batch_tokens,
          .max_context = config.data.max_context,
          .carry_state = config.data.carry_state,
          .rank = communicator.rank(),
          .ranks = communicator.size()};
}

/// The values of a configuration that change what a run computes. With LoRA also which base it is: by its norms and other vectors,
/// which are in memory and in no two models the same.
std::map<std::string, std::string> values_that_matter(const TrainConfig& config, const Weights& weights) {
  auto values = config.values;
  for (const char* key : {"run.output", "run.threads", "checkpoint.every", "checkpoint.keep_last", "memory.activations_mib", "evaluation.prompts", "evaluation.sample_tokens", "distributed.expert_parallel"}) values.erase(key);
  if (config.lora.rank > 0) {
    RunningChecksum sum;
    for_each_parameter(weights, {[](const std::string&, const Matrix&) {},
                                 [&](const std::string&, const Vector& v) { sum.update(std::as_bytes(std::span(v.data, static_cast<size_t>(v.size)))); }});
    values["lora.base"] = fmt::format("{:016x}", sum.value());
  }
  return values;
}

bool divides_experts(const TrainConfig& config, const Communicator& communicator) {
  if (!config.distributed.expert_parallel || communicator.size() == 1) return false;
  if (config.shape.num_experts % communicator.size() != 0) {
    throw Error(fmt::format("distributed.expert_parallel: expected a number of processes that divides the {} experts of a layer, found {}",
                            config.shape.num_experts, communicator.size()));
  }
  return true;
}

ExpertRange experts_here(const TrainConfig& config, const Communicator& communicator) {
  if (!divides_experts(config, communicator)) return {};
  return experts_of_rank(config.shape.num_experts, communicator.rank(), communicator.size());
}

ParameterShares shares_of(const TrainConfig& config, const Communicator& communicator, std::span<const ParameterInfo> parameters) {
  const int64_t experts = divides_experts(config, communicator) ? config.shape.num_experts / communicator.size() : 0;
  return {parameters, communicator.rank(), communicator.size(), experts};
}

}  // namespace

Trainer::Trainer(const TrainConfig& config, TrainingBackend& backend, Communicator& communicator,
                 std::function<void(const std::string&)> warn)
    : config_(config),
      expert_parallel_(divides_experts(config, communicator)
                           ? std::make_unique<ExpertParallelBackend>(backend, communicator, config.shape.num_experts)
                           : nullptr),
      backend_(expert_parallel_ ? *expert_parallel_ : backend),
      communicator_(communicator),
      warn_(std::move(warn)),
      data_(config.data.train),
      trained_(make_trained_model(config_, backend_, experts_here(config, communicator))),
      parameters_(trained_->parameters()),
      gradients_(trained_->gradients()),
      optimizer_(parameters_.parameters(), shares_of(config, communicator, parameters_.parameters()), config.optimizer, backend_),
      model_(config_.shape, trained_->weights(), {config.model.mtp_steps, config.memory.activation_bytes}, backend_),
      lanes_(data_, lane_options(config, communicator), model_.layout(), model_.mtp_layout(), backend_),
      store_(config_, communicator, warn_),
      count_(count_parameters(config.shape, expert_parallel_ ? skeleton_of(config.shape, config.model.mtp_steps > 0) : trained_->weights())) {
  const Tokenizer tokenizer = load_tokenizer(config_.model.tokenizer);
  const auto check_data = [&](const TokenDataset& data) {
    data.require_vocabulary(config_.shape.vocab_size);
    data.require_tokenizer(tokenizer);
  };
  check_data(data_);
  for (const auto& stage : config_.data.stages) {
    if (stage.sequence_length > static_cast<int64_t>(data_.token_count())) {
      throw Error(fmt::format("data.sequence_length is {}, but the training data has only {} tokens", stage.sequence_length,
                              data_.token_count()));
    }
    const int64_t lanes = config_.data.batch_tokens / stage.sequence_length;
    if (lanes < communicator.size()) {
      throw Error(fmt::format("{} sequences of {} tokens to a step are too few for {} processes", lanes, stage.sequence_length,
                              communicator.size()));
    }
  }
  if (!config_.data.valid.empty()) check_data(valid_.emplace(config_.data.valid));

  state_.data_fingerprint = data_.fingerprint();
  const CheckpointStore::Arrays arrays{trained_.get(), &optimizer_, &lanes_};
  if (const auto found = store_.newest()) {
    state_ = store_.load(*found, arrays, data_.fingerprint());
    saved_step_ = state_.step;
    resumed_from_ = *found;
    const auto now = values_that_matter(config_, trained_->weights());
    for (const auto& [key, value] : now) {
      const auto it = state_.config.find(key);
      const std::string before = it == state_.config.end() ? "nothing" : it->second;
      if (before != value) warn_(fmt::format("{} was {} when the checkpoint was written, and is {} now", key, before, value));
    }
  } else {
    trained_->initialize();
  }
  state_.config = values_that_matter(config_, trained_->weights());

  layer_values_.resize(static_cast<size_t>(config_.shape.num_layers()) + 2);
  for (const ParameterInfo& p : gradients_.parameters()) {
    auto& list = layer_values_[layer_index(p.name)];
    // Between neighbours lie zeros.
    if (!list.empty() && p.offset - list.back().second < 64) list.back().second = p.offset + p.size();
    else list.emplace_back(p.offset, p.offset + p.size());
  }

  // Products: two operations a parameter forward, two backward for their inputs' gradients and two for their own, which frozen
  // ones do not have. The MTP module runs once per step of it.
  const ModelConfig& c = config_.shape;
  double per_row = 2.0 * static_cast<double>(count_.active);
  if (const auto& mtp = trained_->weights().mtp; mtp && config_.model.mtp_steps > 0) {
    double active = static_cast<double>(c.vocab_size * c.hidden_size);
    for (const ParameterInfo& p : parameter_list(c, true)) {
      if (!p.name.starts_with("mtp.")) continue;
      active += static_cast<double>(p.size()) * (p.expert >= 0 ? static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.num_experts) : 1.0);
    }
    per_row += 2.0 * active * static_cast<double>(config_.model.mtp_steps);
  }
  const bool lora = config_.lora.rank > 0;
  flops_per_row_ = (lora ? 2.0 : 3.0) * per_row;
  for (const ParameterInfo& p : parameters_.parameters()) {
    if (!lora) break;
    const bool routed = p.name.find(".experts.") != p.name.npos;
    flops_per_row_ += 6.0 * static_cast<double>(p.size()) * (routed ? static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.num_experts) : 1.0);
  }
  // The delta rule as a recurrence: decay, read, write and query of a K x V state.
  for (const LayerKind kind : c.layer_types) {
    if (kind == LayerKind::kLinearAttention) flops_per_row_ += 21.0 * static_cast<double>(c.linear_num_value_heads * c.linear_key_head_dim * c.linear_value_head_dim);
  }
}

TrainingMemory Trainer::memory() const {
  TrainingMemory most;
  for (const auto& stage : config_.data.stages) {
    const auto parts = [](int64_t n, int64_t size) { return (n + size - 1) / size; };
    const int64_t lanes = parts(config_.data.batch_tokens / stage.sequence_length, communicator_.size()),
                  lanes_per_batch = std::min(lanes, std::max<int64_t>(1, config_.data.micro_batch_tokens / stage.sequence_length));
    const TrainingModel::Memory m = model_.memory(parts(lanes, lanes_per_batch), lanes_per_batch * stage.sequence_length);
    if (m.inputs + m.kept + m.working > most.inputs + most.kept + most.working) {
      most = {.inputs = m.inputs, .kept = m.kept, .working = m.working};
    }
  }
  most.parameters = static_cast<int64_t>(parameters_.values().size_bytes());
  most.gradients = static_cast<int64_t>(gradients_.values().size_bytes());
  most.moments = optimizer_.moment_bytes();
  return most;
}

/// A parameter's row of layer_values_.
size_t Trainer::layer_index(std::string_view name) const {
  const auto layers = static_cast<size_t>(config_.shape.num_layers());
  constexpr std::string_view kLayers = "model.layers.";
  if (name.starts_with("mtp.")) return layers;
  if (!name.starts_with(kLayers)) return layers + 1;
  size_t layer = layers;
  std::from_chars(name.data() + kLayers.size(), name.data() + name.size(), layer);
  QNEXT_CHECK(layer < layers, "{}", name);
  return layer;
}

std::string Trainer::layer_name(int64_t layer) const {
  return layer >= config_.shape.num_layers() ? "mtp" : fmt::format("layer {}", layer);
}

double Trainer::flops(std::span<const TrainingBatch> batches) const {
  int64_t attention_layers = config_.model.mtp_steps;
  for (const LayerKind kind : config_.shape.layer_types) attention_layers += kind == LayerKind::kFullAttention ? 1 : 0;
  double rows = 0.0, pairs = 0.0;
  for (const TrainingBatch& batch : batches) {
    rows += static_cast<double>(batch.tokens.size());
    for (const Segment& s : batch.segments) {
      const auto n = static_cast<double>(s.rows), before = static_cast<double>(s.position);
      pairs += n * before + n * (n + 1) / 2;
    }
  }
  return rows * flops_per_row_ + 12.0 * pairs * static_cast<double>(attention_layers * config_.shape.attention_width());
}

// ---- over all ranks

void Trainer::reduce(std::vector<RoutingStatistics>& statistics) {
  if (communicator_.size() == 1) return;
  std::vector<int64_t> counts;
  std::vector<double> sums;
  for (const RoutingStatistics& s : statistics) {
    counts.push_back(s.rows);
    counts.insert(counts.end(), s.counts.begin(), s.counts.end());
    sums.push_back(s.squared_lse);
    sums.insert(sums.end(), s.probabilities.begin(), s.probabilities.end());
  }
  communicator_.sum(counts);
  communicator_.sum(sums);
  size_t c = 0, p = 0;
  for (RoutingStatistics& s : statistics) {
    s.rows = counts[c++];
    for (int64_t& count : s.counts) count = counts[c++];
    s.squared_lse = sums[p++];
    for (double& probability : s.probabilities) probability = sums[p++];
  }
}

void Trainer::reduce(LossSums& sums) {
  if (communicator_.size() == 1) return;
  std::vector<double> losses;
  std::vector<int64_t> counts;
  for (const auto& depth : sums.depths) {
    losses.push_back(depth.loss);
    counts.insert(counts.end(), {depth.targets, depth.drafts, depth.accepted});
  }
  communicator_.sum(losses);
  communicator_.sum(counts);
  for (size_t d = 0; d < sums.depths.size(); ++d) {
    sums.depths[d] = {losses[d], counts[3 * d], counts[3 * d + 1], counts[3 * d + 2]};
  }
}

bool Trainer::anywhere(bool here) {
  int64_t count = here ? 1 : 0;
  communicator_.sum(std::span(&count, 1));
  return count > 0;
}

/// The backward pass is through with a layer (-1: with all): its gradients go to those who update its parameters, while the
/// layers before it are computed.
void Trainer::begin_reduce(int64_t layer) {
  const auto& values = layer_values_[layer >= 0 ? static_cast<size_t>(layer) : layer_values_.size() - 1];
  for (const ParameterShares::Run& run : shares().runs()) {
    if (!run.shared) continue;  // complete where they are
    for (const auto& [first, last] : values) {
      const int64_t begin = std::max(first, run.begin), end = std::min(last, run.end);
      if (begin < end) communicator_.begin_reduce(gradients_.values().subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), run.owner);
    }
  }
}

// ---- a step

/// What each sum is multiplied by in the loss, and what the balance and z losses are.
LossScales Trainer::scales_of(std::span<const TrainingBatch> batches, std::vector<RoutingStatistics>& statistics,
                              StepReport& report) {
  const TrainConfig::Loss& loss = config_.loss;
  const auto depths = static_cast<size_t>(1 + config_.model.mtp_steps);
  std::vector<int64_t> targets(depths);
  for (const TrainingBatch& batch : batches) {
    for (size_t d = 0; d < depths; ++d) {
      targets[d] += std::ranges::count_if(batch.targets[d], [](int32_t t) { return t >= 0; });
      if (d == 0) report.tokens += static_cast<int64_t>(batch.tokens.size());
    }
  }
  targets.push_back(report.tokens);
  communicator_.sum(std::span(targets));
  report.tokens = targets.back();
  report.targets = targets[0];
  reduce(statistics);

  LossScales scales;
  for (size_t d = 0; d < depths; ++d) {
    const double weight = d == 0 ? 1.0 : loss.mtp_weight / static_cast<double>(depths - 1);
    scales.targets.push_back(static_cast<float>(weight / static_cast<double>(std::max<int64_t>(1, targets[d]))));
  }
  if (loss.z_coefficient > 0 && report.tokens > 0) scales.z = static_cast<float>(loss.z_coefficient / static_cast<double>(report.tokens));
  const auto experts = static_cast<size_t>(config_.shape.num_experts);
  const double e = static_cast<double>(experts), k = static_cast<double>(config_.shape.num_experts_per_tok);
  const auto layers = static_cast<size_t>(config_.shape.num_layers());
  // transformers pools the layers of the main model; the MTP module, which it does not have, is a pool by itself.
  std::vector<double> pooled_counts[2], pooled_probabilities[2];
  double pooled_rows[2] = {};
  for (size_t i = 0; i < statistics.size(); ++i) {
    const RoutingStatistics& s = statistics[i];
    if (s.rows == 0) continue;
    const size_t pool = i >= layers;
    pooled_counts[pool].resize(experts);
    pooled_probabilities[pool].resize(experts);
    pooled_rows[pool] += static_cast<double>(s.rows);
    for (size_t j = 0; j < experts; ++j) {
      pooled_counts[pool][j] += static_cast<double>(s.counts[j]);
      pooled_probabilities[pool][j] += s.probabilities[j];
    }
  }
  scales.balance.resize(statistics.size());
  for (size_t i = 0; i < statistics.size(); ++i) {
    const RoutingStatistics& s = statistics[i];
    if (s.rows == 0) continue;
    const double n = static_cast<double>(s.rows);
    LayerLoad load{layer_name(static_cast<int64_t>(i)), s.counts, s.rows};
    for (size_t j = 0; j < experts; ++j) load.balance += e / (k * n * n) * static_cast<double>(s.counts[j]) * s.probabilities[j];
    report.z_loss += static_cast<double>(scales.z) * s.squared_lse;
    if (loss.balance != BalanceForm::kNone && loss.balance_coefficient > 0) {
      std::vector<float>& scale = scales.balance[i];
      for (size_t j = 0; j < experts; ++j) {
        const bool global = loss.balance == BalanceForm::kGlobal;
        const size_t pool = i >= layers;
        const double rows = global ? n : pooled_rows[pool];
        const double count = global ? static_cast<double>(s.counts[j]) : pooled_counts[pool][j];
        scale.push_back(static_cast<float>(loss.balance_coefficient * e * count / (rows * rows * (global ? k : 1.0))));
      }
      if (loss.balance == BalanceForm::kGlobal) report.balance_loss += loss.balance_coefficient * load.balance;
    }
    report.loads.push_back(std::move(load));
  }
  if (loss.balance == BalanceForm::kHuggingFace) {
    for (size_t pool = 0; pool < 2; ++pool) {
      for (size_t j = 0; j < pooled_counts[pool].size(); ++j) {
        report.balance_loss += loss.balance_coefficient * e * pooled_counts[pool][j] * pooled_probabilities[pool][j] / (pooled_rows[pool] * pooled_rows[pool]);
      }
    }
  }
  return scales;
}

void Trainer::report_losses(const LossSums& sums, StepReport& report) const {
  const auto mean = [](const LossSums::Depth& d) { return d.targets > 0 ? d.loss / static_cast<double>(d.targets) : 0.0; };
  report.loss = mean(sums.depths[0]);
  report.total_loss = report.loss + report.balance_loss + report.z_loss;
  for (size_t d = 1; d < sums.depths.size(); ++d) {
    const auto& depth = sums.depths[d];
    report.mtp_loss.push_back(mean(depth));
    report.mtp_acceptance.push_back(depth.drafts > 0 ? static_cast<double>(depth.accepted) / static_cast<double>(depth.drafts) : 0.0);
    report.total_loss += config_.loss.mtp_weight / static_cast<double>(sums.depths.size() - 1) * report.mtp_loss.back();
  }
}

/// Norm of the whole gradient, and of each layer's. Throws for one that is not finite.
double Trainer::gradient_norm(StepReport& report) {
  const auto group_of = [&](const std::string& name) -> std::string {
    if (name.starts_with("mtp.")) return "mtp";
    if (name.starts_with("model.embed")) return "embedding";
    if (!name.starts_with("model.layers.")) return "head";
    return "layer " + name.substr(13, name.find('.', 13) - 13);
  };
  const auto& list = gradients_.parameters();
  std::vector<std::string> groups;
  std::vector<double> squares;
  for (size_t i = 0; i < list.size();) {
    const std::string group = group_of(list[i].name);
    size_t end = i + 1;
    while (end < list.size() && group_of(list[end].name) == group) ++end;
    groups.push_back(group);
    squares.push_back(0.0);
    for (const ParameterShares::Run& run : shares().runs()) {
      const auto first = std::max(list[i].offset, run.begin), last = std::min(list[end - 1].offset + list[end - 1].size(), run.end);
      if (first >= last || !shares().is_ours(run)) continue;
      squares.back() += backend_.sum_of_squares(gradients_.values().subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)));
    }
    i = end;
  }
  communicator_.sum(std::span(squares));
  double total = 0.0;
  for (size_t g = 0; g < groups.size(); ++g) {
    if (!std::isfinite(squares[g])) throw Error(fmt::format("{}: expected finite gradients, found NaN or infinity in its weights' gradient", groups[g]));
    report.group_norms.push_back({groups[g], std::sqrt(squares[g])});
    total += squares[g];
  }
  return std::sqrt(total);
}

StepReport Trainer::step() {
  const auto start = Clock::now();
  StepReport report;
  best_now_ = false;
  report.step = state_.step + 1;
  try {
    const auto& stage = config_.stage(state_.tokens_seen);
    report.sequence_length = stage.sequence_length;
    const auto batches = lanes_.next(config_.data.batch_tokens / stage.sequence_length, stage.sequence_length);
    report.data_seconds = seconds_since(start);

    auto from = Clock::now();
    std::vector<RoutingStatistics> statistics;
    model_.forward(batches, statistics);
    const LossScales scales = scales_of(batches, statistics, report);
    report.forward_seconds = seconds_since(from);

    from = Clock::now();
    std::ranges::fill(gradients_.values(), 0.0f);
    LossSums sums;
    model_.backward(batches, scales, trained_->gradient_weights(), sums, [&](int64_t layer) { begin_reduce(layer); });
    reduce(sums);
    communicator_.finish();
    report_losses(sums, report);
    if (!std::isfinite(report.total_loss)) throw Error("head: expected a finite loss, found NaN or infinity");
    report.backward_seconds = seconds_since(from);

    from = Clock::now();
    report.gradient_norm = gradient_norm(report);
    const double clip = config_.optimizer.clip;
    report.clipped = clip > 0 && report.gradient_norm > clip;
    const double factor = schedule_factor(config_.optimizer, report.step);
    optimizer_.update(parameters_, gradients_, report.step, factor, report.clipped ? clip / report.gradient_norm : 1.0);
    for (const ParameterShares::Run& run : shares().runs()) {
      if (!run.shared) continue;
      communicator_.broadcast(parameters_.values().subspan(static_cast<size_t>(run.begin), static_cast<size_t>(run.end - run.begin)), run.owner);
    }
    report.learning_rate = config_.optimizer.learning_rate * factor;
    if (config_.optimizer.kind == OptimizerKind::kMuon) report.muon_learning_rate = config_.optimizer.muon_learning_rate * factor;
    report.optimizer_seconds = seconds_since(from);
    report.flops = flops(batches) * communicator_.size();
    lanes_.advance();
  } catch (const Error& error) {
    const std::string good = store_.last_good().empty() ? "there is no checkpoint yet" : fmt::format("the last good checkpoint is {}", store_.last_good().string());
    throw Error(fmt::format("step {}: {}; {}", report.step, error.what(), good));
  }
  state_.step = report.step;
  state_.tokens_seen += report.tokens;
  report.tokens_seen = state_.tokens_seen;
  report.documents_seen = lanes_.position().documents;
  report.epoch = lanes_.position().epoch;
  report.seconds = seconds_since(start);
  return report;
}

// ---- evaluation and checkpoints

bool Trainer::evaluation_due() const { return valid_ && (done() || state_.step % config_.evaluation.every == 0); }

EvaluationReport Trainer::evaluate() {
  const auto start = Clock::now();
  EvaluationReport report;
  report.step = state_.step;
  report.tokens_seen = state_.tokens_seen;
  Lanes::Options options = lane_options(config_, communicator_);
  options.seed = 0;
  Lanes lanes(*valid_, options, model_.layout(), model_.mtp_layout(), backend_);
  const int64_t length = std::min(config_.stage(state_.tokens_seen).sequence_length, static_cast<int64_t>(valid_->token_count()));
  const int64_t tokens = std::min(config_.evaluation.tokens, static_cast<int64_t>(valid_->token_count()));
  // A step is a batch, or less when there is less to read; the same rows for any number of ranks, some of which may have none.
  const int64_t needed = (tokens + length - 1) / length;
  const int64_t count = std::max<int64_t>(1, std::min(config_.data.micro_batch_tokens / length, needed));
  LossSums sums;
  sums.depths.resize(static_cast<size_t>(1 + config_.model.mtp_steps));
  for (int64_t seen = 0; seen < tokens; seen += count * length) {
    std::vector<RoutingStatistics> statistics;
    const auto batches = lanes.next(count, length);
    model_.forward(batches, statistics);
    model_.evaluate(batches, sums);
    lanes.advance();
    report.tokens += count * length;
  }
  reduce(sums);
  StepReport losses;
  report_losses(sums, losses);
  report.targets = sums.depths[0].targets;
  report.loss = losses.loss;
  report.mtp_loss = losses.mtp_loss;
  report.mtp_acceptance = losses.mtp_acceptance;
  report.best = std::isfinite(report.loss) && (state_.best_step == 0 || report.loss < state_.best_loss);
  if (report.best) {
    state_.best_step = state_.step;
    state_.best_loss = report.loss;
    best_now_ = config_.checkpoint.keep_best;
  }
  report.seconds = seconds_since(start);
  return report;
}

void Trainer::save() {
  best_now_ = false;
  if (saved()) return;
  state_.position = lanes_.position();
  store_.save(state_, {trained_.get(), &optimizer_, &lanes_});
  saved_step_ = state_.step;
}

bool run_training(Trainer& trainer, std::span<TrainingObserver* const> observers, const std::function<bool()>& stop) {
  const auto tell = [&](auto&& what) {
    for (TrainingObserver* observer : observers) what(*observer);
  };
  const auto save = [&] {
    if (trainer.saved()) return;
    trainer.save();
    tell([&](TrainingObserver& o) { o.checkpoint(trainer.step_count(), trainer.last_checkpoint()); });
  };
  bool stopped = false;
  while (!trainer.done() && !stopped) {
    const StepReport step = trainer.step();
    tell([&](TrainingObserver& o) { o.step(step); });
    if (trainer.evaluation_due()) {
      const EvaluationReport evaluation = trainer.evaluate();
      tell([&](TrainingObserver& o) { o.evaluation(evaluation); });
    }
    stopped = trainer.anywhere(stop());
    if (stopped || trainer.checkpoint_due()) save();
  }
  tell([&](TrainingObserver& o) { o.end(trainer.done()); });
  return trainer.done();
}

}  // namespace qnext
