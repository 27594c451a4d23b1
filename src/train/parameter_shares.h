#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "model/parameter_list.h"

namespace qnext {

/// Which rank updates which parameters, and so keeps their moments (ZeRO-1). Whole parameters, since Muon needs whole matrices;
/// those of a rank follow one another in a ParameterList, and all ranks have about the same number of values.
class ParameterShares {
 public:
  struct Share {
    size_t first = 0, last = 0;  ///< parameters [first, last)
    int64_t begin = 0, end = 0;  ///< values [begin, end) of a ParameterList
    int64_t size() const { return end - begin; }
  };

  /// A parameter belongs to the rank in whose part of the whole its middle lies.
  ParameterShares(std::span<const ParameterInfo> parameters, int ranks) : shares_(static_cast<size_t>(ranks)) {
    QNEXT_CHECK(ranks >= 1 && !parameters.empty());
    const int64_t total = parameters.back().offset + parameters.back().size();
    size_t next = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      Share& share = shares_[static_cast<size_t>(rank)];
      share.first = next;
      while (next < parameters.size() && (2 * parameters[next].offset + parameters[next].size()) * ranks < 2 * total * (rank + 1)) ++next;
      share.last = next;
      share.begin = rank == 0 ? 0 : shares_[static_cast<size_t>(rank) - 1].end;
      share.end = share.first == share.last ? share.begin : parameters[next - 1].offset + parameters[next - 1].size();
    }
    QNEXT_CHECK(next == parameters.size());
  }

  int ranks() const { return static_cast<int>(shares_.size()); }
  const Share& of(int rank) const { return shares_[static_cast<size_t>(rank)]; }
  int owner(size_t parameter) const {
    int rank = 0;
    while (parameter >= of(rank).last) ++rank;
    return rank;
  }

 private:
  std::vector<Share> shares_;
};

}  // namespace qnext
