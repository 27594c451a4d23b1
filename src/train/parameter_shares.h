#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "model/parameter_list.h"

namespace qnext {

/// Which rank updates which parameters, and so keeps their moments (ZeRO-1). Whole parameters, since Muon needs whole matrices;
/// those of a rank follow one another in a ParameterList, and all ranks have about the same number of values. With expert
/// parallelism each rank updates the routed experts that it alone has, and what is said here holds for the rest.
class ParameterShares {
 public:
  /// Neighbours in a ParameterList that one rank updates.
  struct Run {
    bool shared = true;          ///< false: routed experts, which are others in every rank's array
    int owner = 0;               ///< the rank that updates them; of what is not shared, this rank
    size_t first = 0, last = 0;  ///< parameters [first, last)
    int64_t begin = 0, end = 0;  ///< values [begin, end)
  };

  /// The parameters of this rank's array. experts_per_rank: of every layer, with expert parallelism; else 0. A parameter belongs to
  /// the rank in whose part of the whole its middle lies.
  ParameterShares(std::span<const ParameterInfo> parameters, int rank, int ranks, int64_t experts_per_rank = 0)
      : rank_(rank), experts_per_rank_(experts_per_rank) {
    QNEXT_CHECK(rank >= 0 && rank < ranks && !parameters.empty());
    constexpr int64_t kLine = 16;
    const auto size_of = [](const ParameterInfo& p) { return (p.size() + kLine - 1) / kLine * kLine; };
    const auto is_shared = [&](const ParameterInfo& p) { return experts_per_rank == 0 || p.expert < 0; };
    int64_t total = 0, before = 0;
    for (const ParameterInfo& p : parameters) total += is_shared(p) ? size_of(p) : 0;
    int next = 0;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const ParameterInfo& p = parameters[i];
      const bool shared = is_shared(p);
      if (shared) {
        while ((2 * before + p.size()) * ranks >= 2 * total * (next + 1)) ++next;
        before += size_of(p);
      }
      const int owner = shared ? next : rank;
      QNEXT_CHECK(owner < ranks);
      if (runs_.empty() || runs_.back().shared != shared || runs_.back().owner != owner) runs_.push_back({shared, owner, i, i, p.offset, p.offset});
      runs_.back().last = i + 1;
      runs_.back().end = p.offset + p.size();
      owners_.push_back(owner);
    }
  }

  /// All of them, in order.
  std::span<const Run> runs() const { return runs_; }
  bool is_ours(const Run& run) const { return run.owner == rank_; }
  /// The rank that updates the parameter of this number in this rank's array.
  int owner(size_t parameter) const { return owners_[parameter]; }
  int64_t experts_per_rank() const { return experts_per_rank_; }
  /// The rank that has a routed expert; -1: all have it.
  int expert_owner(int64_t expert) const { return experts_per_rank_ == 0 || expert < 0 ? -1 : static_cast<int>(expert / experts_per_rank_); }

 private:
  int rank_;
  int64_t experts_per_rank_;
  std::vector<Run> runs_;
  std::vector<int> owners_;
};

}  // namespace qnext
