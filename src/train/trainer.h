#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/dataset.h"
#include "distributed/communicator.h"
#include "model/training_model.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/lanes.h"
#include "train/observer.h"
#include "train/optimizer.h"
#include "train/report_types.h"
#include "train/trained_model.h"

namespace qnext {

/// A run of `qnext train`: its model, data and optimiser, from a checkpoint of its output directory or from the beginning. The
/// same configuration gives the same bits, for any number of threads and wherever it was interrupted; with another number of
/// ranks, the same up to rounding (docs/numerics.md).
///
/// All ranks call the same functions and get the same reports. A rank has all trained parameters and gradients, the activations of its
/// lanes, and the moments of its share of the parameters. With expert parallelism it has E / ranks experts of every layer, with
/// their gradients and moments, and the rows of all ranks that chose them come to it.
class Trainer {
 public:
  /// `warn` gets lines for people, on rank 0. Throws Error/FileError for data, checkpoints and shapes that do not fit.
  Trainer(const TrainConfig& config, TrainingBackend& backend, Communicator& communicator,
          std::function<void(const std::string&)> warn);

  const TrainConfig& config() const { return config_; }
  int64_t step_count() const { return state_.step; }
  bool done() const { return state_.step >= config_.optimizer.steps; }
  ParameterCount parameters() const { return count_; }
  const std::filesystem::path& resumed_from() const { return resumed_from_; }
  const std::filesystem::path& last_checkpoint() const { return store_.last_good(); }

  /// Throws Error for a loss or gradient that is not finite, naming the layer and the last good checkpoint; the parameters are then
  /// what they were before.
  StepReport step();
  bool evaluation_due() const;
  EvaluationReport evaluate();
  /// After step() and, when due, evaluate().
  bool checkpoint_due() const { return best_now_ || done() || state_.step % config_.checkpoint.every == 0; }
  void save();
  bool saved() const { return saved_step_ == state_.step; }
  /// Whether it is so on any rank.
  bool anywhere(bool here);
  /// Of this rank.
  int64_t moment_bytes() const { return optimizer_.moment_bytes(); }
  /// Of this rank, at the longest stage of the curriculum.
  TrainingMemory memory() const;

  /// What is trained, all weights or their low-rank additions, as far as this rank has it. Of gradients the sums over all ranks
  /// are where shares() says.
  ParameterList& weights() { return parameters_; }
  ParameterList& gradients() { return gradients_; }
  const ParameterShares& shares() const { return optimizer_.shares(); }

 private:
  LossScales scales_of(std::span<const TrainingBatch> batches, std::vector<RoutingStatistics>& statistics, StepReport& report);
  void reduce(std::vector<RoutingStatistics>& statistics);
  void reduce(LossSums& sums);
  void report_losses(const LossSums& sums, StepReport& report) const;
  void begin_reduce(int64_t layer);
  double gradient_norm(StepReport& report);
  double flops(std::span<const TrainingBatch> batches) const;
  std::string layer_name(int64_t layer) const;
  size_t layer_index(std::string_view name) const;

  TrainConfig config_;
  std::unique_ptr<TrainingBackend> expert_parallel_;  ///< null: all experts are here
  TrainingBackend& backend_;
  Communicator& communicator_;
  std::function<void(const std::string&)> warn_;
  TokenDataset data_;
  std::optional<TokenDataset> valid_;
  std::unique_ptr<TrainedModel> trained_;
  ParameterList &parameters_, &gradients_;  ///< of trained_
  Optimizer optimizer_;
  TrainingModel model_;
  Lanes lanes_;
  CheckpointStore store_;
  TrainingState state_;
  /// Per layer, the MTP module, the rest: the values of its gradients, up to neighbours.
  std::vector<std::vector<std::pair<int64_t, int64_t>>> layer_values_;
  ParameterCount count_;
  double flops_per_row_ = 0.0;
  bool best_now_ = false;
  int64_t saved_step_ = -1;
  std::filesystem::path resumed_from_;
};

/// Steps, evaluations and checkpoints until the run is done (true) or stop() says so, which is asked after every step and
/// answered with a checkpoint (false).
bool run_training(Trainer& trainer, std::span<TrainingObserver* const> observers, const std::function<bool()>& stop);

}  // namespace qnext
