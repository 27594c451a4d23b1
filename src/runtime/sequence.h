#pragma once
#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "model/state.h"

namespace qnext {

/// One timeline of tokens and everything the model remembers of it: keys and values of the attention layers, which
/// grow with it block by block, and the fixed-size recurrent and convolution states of the DeltaNet layers.
/// Not thread-safe; used by one Engine at a time. Snapshots and sharing of prefixes will stand here.
class Sequence {
 public:
  Sequence(Backend& backend, const StateLayout& layout);

  int64_t length() const { return state_.length; }  ///< tokens fed so far
  int64_t bytes() const;                            ///< memory it holds now
  /// Forgets everything; keeps the memory.
  void reset();

  /// Makes room for `tokens` more tokens. Called by the engine before each step.
  void reserve(int64_t tokens);
  /// False after a step that failed half-way, until reset().
  bool usable() const { return usable_; }
  void set_usable(bool usable) { usable_ = usable; }
  SequenceState& state() { return state_; }
  const SequenceState& state() const { return state_; }

 private:
  Backend& backend_;
  StateLayout layout_;
  std::vector<Buffer> kv_slabs_;  ///< each some blocks
  Buffer recurrent_;
  SequenceState state_;
  bool usable_ = true;
};

}  // namespace qnext
