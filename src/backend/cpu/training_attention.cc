// Backward of the gated attention layer between its projections.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "backend/cpu/row_blocks.h"
#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

void CpuTrainingBackend::head_norm_rope_backward(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin,
                                                 Rows d_out, Rows d_x, float* d_gain) {
  QNEXT_CHECK(gain.size == head_dim && x.cols % head_dim == 0 && 2 * cos.cols <= head_dim, "head {} of {}, {} pairs",
              head_dim, x.cols, cos.cols);
  const int64_t blocks = row_blocks(x.rows);
  float* partial = d_gain == nullptr ? nullptr : shared_scratch_.floats(blocks * head_dim);
  for_row_blocks(pool_, x.rows, kRowBlock, [&](int64_t block, int64_t begin, int64_t end, int thread) {
    float* sum = partial == nullptr ? nullptr : partial + block * head_dim;
    if (sum != nullptr) std::fill_n(sum, head_dim, 0.0f);
    float* memory = scratch(thread, head_dim);
    for (int64_t t = begin; t < end; ++t) {
      const NormRope norm{gain.data, static_cast<float>(eps), head_dim, cos.row(t), sin.row(t), cos.cols};
      for (int64_t c = 0; c < x.cols; c += head_dim) {
        k_.pointwise.norm_rope(norm, x.row(t) + c, d_out.row(t) + c, false, d_x.row(t) + c, sum, memory);
      }
    }
  });
  if (d_gain != nullptr) k_.pointwise.add_rows(d_gain, partial, blocks, head_dim);
}

// The scores of a segment and a KV head are a triangle of cells: the query tokens of a block of 64 positions, with all query
// heads of the KV head, by the keys of a block. A cell needs its part of the weights once for all three gradients, so each is
// worked on once: on a diagonal (rows' block minus keys' block) no two cells share rows or keys, and every row's and key's sum is
// taken in the order of the diagonals, whatever the number of threads. Cells are handed out in that order and wait for the two
// before them, of the same rows and of the same keys.
void CpuTrainingBackend::gated_attention_backward(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q,
                                                  Rows gate, Rows out, Rows log_sum_exp, Rows d_out, Rows d_q, Rows d_gate,
                                                  Rows d_k, Rows d_v) {
  const int64_t dim = layout.head_dim, heads = q.cols / dim, group = heads / layout.heads, total = q.rows;
  QNEXT_CHECK(layout.dtype == DType::kF32, "keys and values in {}", dtype_name(layout.dtype));
  QNEXT_CHECK(group * layout.heads == heads && log_sum_exp.cols == heads && d_k.cols == layout.heads * dim, "{} heads on {}",
              heads, layout.heads);
  const AttentionGradientKernels& kernels = k_.attention;
  struct Tile {
    const AttentionSegment* segment;
    int64_t kv_head, block, row, tokens;
    float* key_blocks;  ///< packed, of the segment and KV head
    std::atomic<int64_t>* done;  ///< diagonals; [-1]: of the block before, if it has rows
    bool first;                  ///< of the segment: the block before has no rows
  };
  struct KeyBlock {
    const AttentionSegment* segment;
    int64_t kv_head, block;
    float* to;
  };
  const auto blocks_of = [](const AttentionSegment& s) { return s.rows == 0 ? 0 : row_blocks(s.position + s.rows, kBlockTokens); };
  int64_t block_count = 0;
  for (const AttentionSegment& segment : segments) block_count += blocks_of(segment) * layout.heads;
  const int64_t width = kernels.padded(dim), block_floats = kernels.key_block_floats(dim), operand = heads * total * width;
  float* const packed_q = shared_scratch_.floats(3 * operand + block_count * block_floats + heads * total);
  float *const d_o = packed_q + operand, *const packed_d_q = d_o + operand, *next = packed_d_q + operand;
  float* const row_dots = next + block_count * block_floats;
  std::vector<std::atomic<int64_t>> done(static_cast<size_t>(block_count));
  std::vector<Tile> tiles;
  std::vector<KeyBlock> key_blocks;
  for (const AttentionSegment& segment : segments) {
    const int64_t first = segment.position / kBlockTokens;
    for (int64_t head = 0; segment.rows > 0 && head < layout.heads; ++head) {
      for (int64_t block = first; block < blocks_of(segment); ++block) {
        const int64_t begin = std::max(segment.position, block * kBlockTokens);
        const int64_t end = std::min(segment.position + segment.rows, (block + 1) * kBlockTokens);
        tiles.push_back({&segment, head, block, segment.row + begin - segment.position, end - begin, next,
                         &done[tiles.size()], block == first});
      }
      for (int64_t block = 0; block < blocks_of(segment); ++block, next += block_floats) {
        key_blocks.push_back({&segment, head, block, next});
      }
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) { return a.block > b.block; });

  const auto tile_count = static_cast<int64_t>(tiles.size());
  pool_.parallel_for(tile_count + block_count, [&](int64_t task, int thread) {
    if (task >= tile_count) {
      const KeyBlock& b = key_blocks[static_cast<size_t>(task - tile_count)];
      const std::byte* memory = b.segment->kv.blocks[b.block] + b.segment->kv.layer_offset;
      kernels.pack_keys(reinterpret_cast<const float*>(memory + layout.key_offset(b.kv_head)),
                        reinterpret_cast<const float*>(memory + layout.value_offset(b.kv_head)), dim,
                        std::min(kBlockTokens, b.segment->position + b.segment->rows - b.block * kBlockTokens), b.to);
      return;
    }
    const Tile& tile = tiles[static_cast<size_t>(task)];
    float* rows = scratch(thread, kBlockTokens * dim);
    for (int64_t head = tile.kv_head * group; head < (tile.kv_head + 1) * group; ++head) {
      const int64_t column = head * dim, at = head * total + tile.row;
      for (int64_t r = 0; r < tile.tokens; ++r) {
        const int64_t t = tile.row + r;
        row_dots[at + r] = kernels.output_gate(d_out.row(t) + column, out.row(t) + column, gate.row(t) + column, dim,
                                               rows + r * dim, d_gate.row(t) + column);
      }
      kernels.pack_rows(rows, dim, tile.tokens, dim, d_o + at * width);
      kernels.pack_rows(q.row(tile.row) + column, q.stride, tile.tokens, dim, packed_q + at * width);
    }
  });

  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const auto run_cell = [&](const Tile& tile, int64_t diagonal, int thread) {
    const AttentionSegment& segment = *tile.segment;
    const int64_t block = tile.block - diagonal, first = block * kBlockTokens;
    // Keys of the block that are rows of the segment.
    const int64_t key_begin = std::max<int64_t>(0, segment.position - first);
    const int64_t key_end = std::min(kBlockTokens, segment.position + segment.rows - first);
    const int64_t key_row = segment.row + first + key_begin - segment.position, key_column = tile.kv_head * dim;
    const bool gradients = key_begin < key_end;
    AttentionGradientCell cell{};
    cell.head_dim = dim;
    cell.rows = tile.tokens;
    cell.visible = segment.position + tile.row - segment.row + 1 - first;
    cell.scale = scale;
    cell.lse_stride = log_sum_exp.stride;
    cell.key_block = tile.key_blocks + block * block_floats;
    cell.first_keys = diagonal == 0;
    cell.key_begin = key_begin;
    cell.key_end = key_end;
    cell.d_k = gradients ? d_k.row(key_row) + key_column : nullptr;
    cell.d_v = gradients ? d_v.row(key_row) + key_column : nullptr;
    cell.d_k_stride = d_k.stride;
    cell.d_v_stride = d_v.stride;
    float* memory = scratch(thread, kAttentionGradientScratch);
    for (int64_t head = tile.kv_head * group; head < (tile.kv_head + 1) * group; ++head) {
      const int64_t at = head * total + tile.row;
      cell.q = packed_q + at * width;
      cell.d_o = d_o + at * width;
      cell.log_sum_exp = log_sum_exp.row(tile.row) + head;
      cell.row_dots = row_dots + at;
      cell.d_q = packed_d_q + at * width;
      cell.first_rows = diagonal == 0 && head == tile.kv_head * group;
      kernels.cell(cell, memory);
      if (block == 0) kernels.unpack_rows(cell.d_q, tile.tokens, dim, d_q.row(tile.row) + head * dim, d_q.stride);
    }
  };
  std::vector<int64_t> diagonals;  // the first cell of each
  int64_t cells = 0;
  for (int64_t diagonal = 0; cells == 0 || cells > diagonals.back(); ++diagonal) {
    diagonals.push_back(cells);
    cells += std::partition_point(tiles.begin(), tiles.end(), [&](const Tile& t) { return t.block >= diagonal; }) - tiles.begin();
    if (tiles.empty()) break;
  }
  const auto wait = [](const std::atomic<int64_t>& progress, int64_t diagonals_done) {
    for (int spins = 0; progress.load(std::memory_order_acquire) < diagonals_done; ++spins) {
      if (spins > 1000) std::this_thread::yield();  // its thread has lost its CPU
    }
  };
  pool_.parallel_for(cells, [&](int64_t task, int thread) {
    const int64_t diagonal = std::upper_bound(diagonals.begin(), diagonals.end(), task) - diagonals.begin() - 1;
    const Tile& tile = tiles[static_cast<size_t>(task - diagonals[static_cast<size_t>(diagonal)])];
    wait(*tile.done, diagonal);
    if (!tile.first) wait(tile.done[-1], diagonal);
    run_cell(tile, diagonal, thread);
    tile.done->store(diagonal + 1, std::memory_order_release);
  });
}

}  // namespace qnext
