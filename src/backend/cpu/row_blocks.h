#pragma once
#include <algorithm>
#include <cstdint>

#include "base/thread_pool.h"

namespace qnext {

/// Rows over which one task sums a parameter's gradient; the blocks' sums are added in order, so that the number of threads
/// changes no bit.
inline constexpr int64_t kRowBlock = 16;

inline int64_t row_blocks(int64_t rows, int64_t size = kRowBlock) { return (rows + size - 1) / size; }

/// Calls body(block, first row, row after the last, thread).
template <typename Body>
void for_row_blocks(ThreadPool& pool, int64_t rows, int64_t size, Body&& body) {
  pool.parallel_for(row_blocks(rows, size), [&](int64_t block, int thread) {
    body(block, block * size, std::min(rows, (block + 1) * size), thread);
  });
}

}  // namespace qnext
