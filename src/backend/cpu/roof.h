#pragma once
#include <cstdint>

#include "base/cpu.h"

namespace qnext {

/// What `threads` threads, pinned to the CPUs that a pool of that size would use, can do at best. Measured by simple loops:
/// figures of programs are fractions of these, taken in the same run because machines differ from minute to minute.
struct Roof {
  double read_bytes_per_second = 0;  ///< memory, sequential, from a set that no cache holds
  double f32_flops_per_second = 0;   ///< fused multiply-adds in registers
  double int8_ops_per_second = 0;    ///< 8-bit products summed to 32 bits (VNNI, or AVX2's pair of instructions; the
                                     ///< tiles of AMX are not measured yet, their bound is VNNI's); 0: none

  /// The larger of the two arithmetic rates.
  double peak_ops_per_second() const {
    return int8_ops_per_second > f32_flops_per_second ? int8_ops_per_second : f32_flops_per_second;
  }
};

/// Takes about half a second and 256 MiB for a moment. Each figure is the best of many short rounds,
/// of which some meet an undisturbed machine. `isa` must be one that the
/// machine has.
Roof measure_roof(int threads, Isa isa);

/// The best rate, FLOP/s, of products of bf16 summed to f32 by `unit`, which the machine must have and which is not kNone.
double measure_bf16_flops(int threads, Bf16 unit);

/// The share of time that `threads` pinned spinning threads really ran during `seconds`, 0 to 1: the smallest of the
/// threads. Virtual CPUs are taken away for milliseconds without a trace in any counter; what is lost is seen as gaps
/// between successive looks at the clock.
double delivered_cpu(int threads, double seconds);

}  // namespace qnext
