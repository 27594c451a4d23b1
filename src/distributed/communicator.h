#pragma once
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
  void barrier() override {}
  void abort() noexcept override {}
};

}  // namespace qnext
