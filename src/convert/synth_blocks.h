#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace qnext {

/// How the elements of a random tensor are distributed.
struct RandomTensor {
  enum class Kind : uint8_t {
    kUniform,   ///< deviation `scale` around `mean`
    kALog,      ///< log of U(1, 16): decay rates
    kSsmA,      ///< minus U(1, 16): the same rates as GGUF holds them
    kTimeStep,  ///< inverse softplus of a step log-uniform in [0.001, 0.1]
  };
  DType dtype = DType::kF32;
  int64_t elements = 0;
  Kind kind = Kind::kUniform;
  double scale = 1, mean = 0;
  uint64_t stream = 0;  ///< tensors with different streams are independent
};

/// Units of generation: elements that fill_random makes independently of others, a multiple of every block size.
inline constexpr int64_t kRandomUnit = 16 * 256;

/// Writes elements [begin, begin + count) of the tensor, where begin is a multiple of kRandomUnit, and count too unless it
/// reaches the end. A pure function of (tensor, begin, count). Block types are kUniform with mean 0 (within half a
/// quantisation step for Q8_0).
void fill_random(const RandomTensor& tensor, int64_t begin, int64_t count, std::span<std::byte> out);

}  // namespace qnext
