#pragma once
#include <cstdint>
#include <span>

namespace qnext {

/// The processes that train one model together. Every rank makes the same calls in the same order.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Element by element over all ranks, the same bits on each.
  virtual void sum(std::span<double> values) = 0;
  virtual void sum(std::span<int64_t> values) = 0;
  virtual void sum(std::span<float> values) = 0;
  virtual void barrier() = 0;
};

/// One process.
class SingleProcess final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void sum(std::span<double>) override {}
  void sum(std::span<int64_t>) override {}
  void sum(std::span<float>) override {}
  void barrier() override {}
};

}  // namespace qnext
