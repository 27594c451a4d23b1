#pragma once
#include <vector>

#include "base/error.h"
#include "distributed/communicator.h"

namespace qnext::testing {

/// Every operation, on every rank, against what it must give. Throws Error.
inline void check_communicator(Communicator& c) {
  const int ranks = c.size();
  const auto expect = [&](double found, double expected, const char* what) {
    if (found != expected) throw Error(fmt::format("rank {} of {}: {}: expected {}, found {}", c.rank(), ranks, what, expected, found));
  };
  // A sum that depends on the order: 1e16 swallows what is added to it singly.
  std::vector<double> doubles(1000, c.rank() == 0 ? 1e16 : 1.0);
  double in_order = 1e16;
  for (int r = 1; r < ranks; ++r) in_order += 1.0;
  c.sum(std::span(doubles));
  for (const double x : doubles) expect(x, in_order, "sum of doubles");
  std::vector<int64_t> integers = {c.rank(), int64_t{1} << 60 >> c.rank()};
  c.sum(std::span(integers));
  int64_t high = 0;
  for (int r = 0; r < ranks; ++r) high += int64_t{1} << 60 >> r;
  expect(static_cast<double>(integers[0]), ranks * (ranks - 1) / 2, "sum of integers");
  if (integers[1] != high) throw Error("sum of integers: not exact");

  // Many reductions under way at once, of all sizes and owners; what is not owned stays.
  constexpr size_t kSizes[] = {1, 7, 0, 1000, 70000, 3};
  std::vector<std::vector<float>> arrays;
  for (const size_t size : kSizes) {
    for (int owner = 0; owner < ranks; ++owner) arrays.emplace_back(size, static_cast<float>(c.rank() + owner));
  }
  for (size_t i = 0; i < arrays.size(); ++i) c.begin_reduce(arrays[i], static_cast<int>(i) % ranks);
  c.finish();
  for (size_t i = 0; i < arrays.size(); ++i) {
    const int owner = static_cast<int>(i) % ranks;
    const int total = ranks * (ranks - 1) / 2 + ranks * owner;
    for (const float x : arrays[i]) expect(x, owner == c.rank() ? total : c.rank() + owner, "reduce");
  }

  for (int owner = 0; owner < ranks; ++owner) {
    std::vector<float> values(777, static_cast<float>(c.rank()));
    c.broadcast(values, owner);
    for (const float x : values) expect(x, owner, "broadcast");
  }
  for (int from = 1; from < ranks; ++from) {
    std::vector<float> values(100000, static_cast<float>(c.rank()));
    if (c.rank() == from || c.rank() == 0) c.transfer(values, from, 0);
    for (const float x : values) expect(x, c.rank() == 0 ? from : c.rank(), "transfer");
  }
  c.barrier();
}

}  // namespace qnext::testing
