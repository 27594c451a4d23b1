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

  // From rank s to rank r go (3 s + 2 r) % 5 rows, which say where they are from and where they go; some are none.
  const auto rows_between = [](int from, int to) { return int64_t{(3 * from + 2 * to) % 5}; };
  const auto check_all_to_all = [&]<typename T>(T, int64_t width) {
    std::vector<int64_t> send_rows, receive_rows;
    std::vector<T> send, expected;
    for (int r = 0; r < ranks; ++r) {
      const auto add = [&](int from, int to, std::vector<int64_t>& rows, std::vector<T>& values) {
        rows.push_back(rows_between(from, to));
        for (int64_t i = 0; i < rows.back() * width; ++i) values.push_back(static_cast<T>(1000000 * from + 10000 * to + i));
      };
      add(c.rank(), r, send_rows, send);
      add(r, c.rank(), receive_rows, expected);
    }
    std::vector<T> received(expected.size());
    c.all_to_all(std::span<const T>(send), send_rows, std::span<T>(received), receive_rows, width);
    for (size_t i = 0; i < expected.size(); ++i) {
      expect(static_cast<double>(received[i]), static_cast<double>(expected[i]), "all to all");
    }
  };
  for (const int64_t width : {1, 3, 1000}) {
    check_all_to_all(0.0f, width);
    check_all_to_all(int32_t{}, width);
  }
  // Nobody has anything for anybody.
  const std::vector<int64_t> none(static_cast<size_t>(ranks));
  c.all_to_all(std::span<const float>(), none, std::span<float>(), none, 7);
  c.barrier();
}

}  // namespace qnext::testing
