#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace qnext {

/// XXH3-64 with seed 0: recognises torn and altered files (not forged ones).
uint64_t checksum(std::span<const std::byte> bytes);

/// The same of bytes that come piece by piece.
class RunningChecksum {
 public:
  RunningChecksum();
  RunningChecksum(RunningChecksum&&) noexcept;
  RunningChecksum& operator=(RunningChecksum&&) noexcept;
  ~RunningChecksum();

  void update(std::span<const std::byte> bytes);
  uint64_t value() const;  ///< of everything so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qnext
