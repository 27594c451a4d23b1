#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "train/lanes.h"

namespace qnext {

/// Where a run stands, besides its arrays: training_state.json.
struct TrainingState {
  int64_t step = 0, tokens_seen = 0;
  DataPosition position;
  uint64_t data_fingerprint = 0;
  int64_t best_step = 0;  ///< of the lowest validation loss; 0: none yet
  double best_loss = 0.0;
  std::map<std::string, std::string> config;  ///< TrainConfig::values, without what changes no result
  std::map<std::string, std::string> files;   ///< of the checkpoint: name and checksum
};

std::string checksum_text(std::string_view bytes);  ///< XXH3, 16 hexadecimal digits

/// The file's text, its own checksum in it.
std::string training_state_json(const TrainingState& state);
/// Throws FileError, also when the text is not what its checksum says. `altered`: it need not be, for who has changed it.
TrainingState parse_training_state(const std::string& text, const std::string& file, bool altered = false);

}  // namespace qnext
