#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "distributed/communicator.h"
#include "train/config.h"
#include "train/lanes.h"
#include "train/optimizer.h"
#include "train/trained_model.h"
#include "train/training_state.h"

namespace qnext {

/// The checkpoints of a run: directories step-00000500 in its output directory. Each is a Hugging Face model directory, or one of
/// a PEFT adapter, with two more files, training_state.json and training_state.safetensors. They appear under their name when every file is complete and
/// on the disk; XXH3 checksums of all files are in training_state.json.
///
/// With several ranks all call the same functions; rank 0 alone writes, what it needs of the others comes to it. A checkpoint
/// does not depend on the number of ranks. All must see the same output directory.
class CheckpointStore {
 public:
  /// Removes what a killed run left unfinished. `warn` is told of what is skipped. Throws Error when another process trains into the
  /// same directory.
  CheckpointStore(const TrainConfig& config, Communicator& communicator, std::function<void(const std::string&)> warn);
  ~CheckpointStore();
  CheckpointStore(const CheckpointStore&) = delete;
  CheckpointStore& operator=(const CheckpointStore&) = delete;

  struct Arrays {
    TrainedModel* model;
    Optimizer* optimizer;
    Lanes* lanes;
  };
  /// Then removes those that are neither among the last nor the best. Throws Error when writing fails; what was there stays.
  void save(const TrainingState& state, const Arrays& arrays);

  /// The newest one whose files are what they were when written; those that are not are skipped with a warning. Throws Error when
  /// it is of another shape.
  std::optional<std::filesystem::path> newest();
  /// The lanes go to the position of the checkpoint when the data has the fingerprint that it names; for other data they begin its
  /// next epoch where the configuration allows that, else Error.
  TrainingState load(const std::filesystem::path& directory, const Arrays& arrays, uint64_t data_fingerprint);

  /// Of this run's last save or load, for messages; empty: none.
  const std::filesystem::path& last_good() const { return last_good_; }

 private:
  void send_model(const Arrays& arrays) const;
  /// What training_state.safetensors holds, in its order.
  struct StateTensor;
  std::vector<StateTensor> state_tensors(const Arrays& arrays) const;
  void write_state(const std::filesystem::path& directory, const Arrays& arrays) const;
  void send_state(const Arrays& arrays) const;
  void write(const std::filesystem::path& temporary, const std::filesystem::path& path, TrainingState state, const Arrays& arrays);
  void remove_old(const TrainingState& state);
  std::vector<std::pair<int64_t, std::filesystem::path>> list() const;

  const TrainConfig& config_;
  Communicator& communicator_;
  std::function<void(const std::string&)> warn_;
  std::filesystem::path last_good_;
  int lock_ = -1;
};

/// Throws Error naming what is wrong with the first file that is not as training_state.json says.
void verify_checkpoint(const std::filesystem::path& directory);

}  // namespace qnext
