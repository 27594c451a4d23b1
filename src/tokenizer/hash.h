#pragma once
#include <cstdint>
#include <random>

namespace qnext {

/// Two words to one, every input bit reaching every output bit: the halves of a 128-bit product, folded.
inline uint64_t hash_mix(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a ^ 0x9E3779B97F4A7C15u) * (b ^ 0xD1B54A32D192ED03u);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

/// A seed no file can know, so that hash collisions cannot be prepared. Results never depend on it.
inline uint64_t hash_seed() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

}  // namespace qnext
