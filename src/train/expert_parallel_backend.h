#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "backend/forwarding_training_backend.h"
#include "distributed/communicator.h"
#include "model/parameter_array.h"

namespace qnext {

/// Which of a model's experts a rank has: E / ranks of them, in the order of ranks.
inline ExpertRange experts_of_rank(int64_t experts, int rank, int ranks) {
  return {experts * rank / ranks, experts * (rank + 1) / ranks};
}

/// A backend whose experts live on several ranks. experts() and experts_backward() get the experts that this rank has, and
/// rows that have chosen among all experts: rows go to the ranks that have their experts, and what those compute comes back. An
/// output has the bits that one rank with all experts gives it; gradients of experts are complete where the experts are, the
/// rows of all ranks added in the order of ranks. Every other operation is the inner backend's.
///
/// Each of the two is a conversation of all ranks: every rank must make the same calls of them in the same order, those that
/// have no rows too.
class ExpertParallelBackend final : public ForwardingTrainingBackend {
 public:
  /// `experts` in all, a multiple of the number of ranks.
  ExpertParallelBackend(TrainingBackend& inner, Communicator& communicator, int64_t experts);

  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y) override;
  void experts_backward(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
                        Rows d_y, Rows d_x, float* d_weights, std::span<const MlpGradient> d_experts) override;

 private:
  /// What goes where. An entry is a row and one of its experts; a row goes once to each rank that has experts of it.
  struct Plan {
    std::vector<int64_t> send_rows, send_entries;        ///< per rank: ours that go to it
    std::vector<int64_t> receive_rows, receive_entries;  ///< per rank: its that come here
    std::vector<int32_t> rows;   ///< ours in the order of sending
    std::vector<int32_t> place;  ///< [T*k] of each of our entries in the order of sending
    int64_t received_rows = 0;
    std::vector<int32_t> entry_rows, entry_experts;  ///< [n] of the entries that come here: row of those received, expert of ours
  };
  void make_plan(int64_t rows, int64_t k, const int32_t* chosen);

  Communicator& communicator_;
  int64_t experts_per_rank_;
  Plan plan_;
  std::vector<std::vector<int32_t>> rows_to_, entries_to_;  ///< per rank, of the plan
  std::vector<float> sent_, received_, results_, returned_, weights_, d_weights_;
};

}  // namespace qnext
