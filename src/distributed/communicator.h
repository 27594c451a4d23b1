#pragma once
#include <algorithm>
#include <cstdint>
#include <span>

namespace qnext {

/// The processes that train one model together. Every rank makes the same calls in the same order (transfer() may be left out
/// by the ranks that it does not name). When one of them fails, the others do not return from their next call.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Element by element over all ranks, added in the order of ranks: the same bits on each.
  virtual void sum(std::span<double> values) = 0;
  virtual void sum(std::span<int64_t> values) = 0;
  /// Begins to add up `values` of all ranks at rank `owner`; elsewhere they stay. Nobody may touch them before finish(). The
  /// order of the sum depends on the number of ranks and of values alone.
  virtual void begin_reduce(std::span<float> values, int owner) = 0;
  /// All that was begun is done.
  virtual void finish() = 0;
  /// `values` of rank `owner` to all.
  virtual void broadcast(std::span<float> values, int owner) = 0;
  /// `values` of rank `from` to those of rank `to`, another one.
  virtual void transfer(std::span<float> values, int from, int to) = 0;
  /// Every rank to every rank, itself among them: of `send`, which lies rank after rank, the rows for each, send_rows[r] of
  /// `width` values for rank r; into `receive`, in the order of ranks, those from each, receive_rows[r] from rank r. What one
  /// rank sends, the other must expect. Fewer than 2^31 rows on either side.
  virtual void all_to_all(std::span<const float> send, std::span<const int64_t> send_rows, std::span<float> receive,
                          std::span<const int64_t> receive_rows, int64_t width) = 0;
  virtual void all_to_all(std::span<const int32_t> send, std::span<const int64_t> send_rows, std::span<int32_t> receive,
                          std::span<const int64_t> receive_rows, int64_t width) = 0;
  virtual void barrier() = 0;
  /// This rank has failed: all others end. Over MPI it ends this process too.
  virtual void abort() noexcept = 0;

  /// The processes that started with the same CPUs as this one, on the same machine; and which of them it is.
  struct CpuShare {
    int index = 0, count = 1;
  };
  virtual CpuShare cpu_share() const { return {}; }
};

/// One process.
class SingleProcess final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void sum(std::span<double>) override {}
  void sum(std::span<int64_t>) override {}
  void begin_reduce(std::span<float>, int) override {}
  void finish() override {}
  void broadcast(std::span<float>, int) override {}
  void transfer(std::span<float>, int, int) override {}
  void all_to_all(std::span<const float> send, std::span<const int64_t>, std::span<float> receive, std::span<const int64_t>,
                  int64_t) override {
    std::ranges::copy(send, receive.begin());
  }
  void all_to_all(std::span<const int32_t> send, std::span<const int64_t>, std::span<int32_t> receive, std::span<const int64_t>,
                  int64_t) override {
    std::ranges::copy(send, receive.begin());
  }
  void barrier() override {}
  void abort() noexcept override {}
};

}  // namespace qnext
