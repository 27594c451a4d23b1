#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace qnext {

/// Working memory, aligned to 64 bytes, that grows to the largest request and is never given back: nothing is
/// allocated per token. A request ends the life of what the previous one returned.
class Scratch {
 public:
  std::byte* bytes(int64_t count) {
    const auto lines = static_cast<size_t>((count + 63) / 64);
    if (lines_.size() < lines) lines_.resize(std::max(lines, 2 * lines_.size()));
    return reinterpret_cast<std::byte*>(lines_.data());
  }
  float* floats(int64_t count) {
    return reinterpret_cast<float*>(bytes(count * static_cast<int64_t>(sizeof(float))));
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
};

}  // namespace qnext
