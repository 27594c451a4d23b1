#pragma once
#include <memory>

#include "backend/backend.h"
#include "base/cpu.h"
#include "base/thread_pool.h"

namespace qnext {

/// The CPU backend: kernels of one instruction set over a pool of pinned threads. threads >= 1 (the constructing thread
/// is one of them, and the only one that may call it). Throws Error when the machine lacks `isa`.
std::unique_ptr<Backend> make_cpu_backend(int threads, Isa isa, ActivationPrecision activations = ActivationPrecision::kInt8);
/// The same on a pool that others use too, in turn.
std::unique_ptr<Backend> make_cpu_backend(std::shared_ptr<ThreadPool> pool, Isa isa, ActivationPrecision activations);

}  // namespace qnext
