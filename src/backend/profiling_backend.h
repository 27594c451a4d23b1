#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "backend/backend.h"

namespace qnext {

/// What the operations of a backend cost, by name. Bytes are those that must come from memory whatever the kernel does:
/// weights (of the experts really chosen), keys and values, recurrent states read and written; activations are taken to stay
/// in caches. FLOPs count a multiply-add as two.
struct OperationProfile {
  int64_t calls = 0;
  double seconds = 0;
  int64_t bytes = 0, flops = 0;
  OperationProfile& operator+=(const OperationProfile& other);
};

struct Profile {
  std::map<std::string, OperationProfile, std::less<>> operations;
  /// Names for matrix products: "linear" where a weight has none.
  std::unordered_map<const Matrix*, std::string> labels;

  OperationProfile total() const;
  void reset() { operations.clear(); }
};

/// Does what `inner` does and adds up the cost of each call in `profile`, which must outlive it.
std::unique_ptr<Backend> make_profiling_backend(std::unique_ptr<Backend> inner, std::shared_ptr<Profile> profile);

}  // namespace qnext
