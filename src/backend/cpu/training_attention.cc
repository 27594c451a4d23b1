// Backward of the gated attention layer between its projections.
#include <algorithm>
#include <cmath>

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
// worked on once: on a diagonal (rows' block minus keys' block) no two cells share rows or keys, and the diagonals are taken in
// turn. Each row's and each key's sum is therefore taken in the order of the diagonals, whatever the number of threads.
void CpuTrainingBackend::gated_attention_backward(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q,
                                                  Rows gate, Rows out, Rows log_sum_exp, Rows d_out, Rows d_q, Rows d_gate,
                                                  Rows d_k, Rows d_v) {
  const int64_t dim = layout.head_dim, heads = q.cols / dim, group = heads / layout.heads, total = q.rows;
  QNEXT_CHECK(layout.dtype == DType::kF32, "keys and values in {}", dtype_name(layout.dtype));
  QNEXT_CHECK(group * layout.heads == heads && log_sum_exp.cols == heads && d_k.cols == layout.heads * dim, "{} heads on {}",
              heads, layout.heads);
  struct Tile {
    const AttentionSegment* segment;
    int64_t kv_head, block, row, tokens;
    float* copies;  ///< of the segment and KV head: each block's keys as rows, and values as columns
  };
  struct Copy {
    const AttentionSegment* segment;
    int64_t kv_head, block;
    float* to;
  };
  const int64_t half = kBlockTokens * dim;
  const auto blocks_of = [](const AttentionSegment& s) { return row_blocks(s.position + s.rows, kBlockTokens); };
  int64_t copied = 0;
  for (const AttentionSegment& segment : segments) copied += segment.rows == 0 ? 0 : blocks_of(segment) * layout.heads;
  float* const d_o = shared_scratch_.floats(heads * total * (dim + 1) + copied * 2 * half);
  float* const row_dots = d_o + heads * total * dim;
  float* next = row_dots + heads * total;
  std::vector<Tile> tiles;
  std::vector<Copy> copies;
  for (const AttentionSegment& segment : segments) {
    if (segment.rows == 0) continue;
    for (int64_t head = 0; head < layout.heads; ++head) {
      for (int64_t block = segment.position / kBlockTokens; block < blocks_of(segment); ++block) {
        const int64_t begin = std::max(segment.position, block * kBlockTokens);
        const int64_t end = std::min(segment.position + segment.rows, (block + 1) * kBlockTokens);
        tiles.push_back({&segment, head, block, segment.row + begin - segment.position, end - begin, next});
      }
      for (int64_t block = 0; block < blocks_of(segment); ++block, next += 2 * half) {
        copies.push_back({&segment, head, block, next});
      }
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) { return a.block > b.block; });

  const auto head_memory = [&](const AttentionSegment& segment, int64_t block, int64_t offset) {
    return reinterpret_cast<const float*>(segment.kv.blocks[block] + segment.kv.layer_offset + offset);
  };
  const auto tile_count = static_cast<int64_t>(tiles.size()), copy_count = static_cast<int64_t>(copies.size());
  pool_.parallel_for(tile_count + copy_count, [&](int64_t task, int) {
    if (task >= tile_count) {
      const Copy& copy = copies[static_cast<size_t>(task - tile_count)];
      const AttentionSegment& segment = *copy.segment;
      k_.attention.transpose_block(head_memory(segment, copy.block, layout.key_offset(copy.kv_head)),
                                   head_memory(segment, copy.block, layout.value_offset(copy.kv_head)), dim,
                                   std::min(kBlockTokens, segment.position + segment.rows - copy.block * kBlockTokens), copy.to,
                                   copy.to + half);
      return;
    }
    const Tile& tile = tiles[static_cast<size_t>(task)];
    for (int64_t head = tile.kv_head * group; head < (tile.kv_head + 1) * group; ++head) {
      for (int64_t row = tile.row; row < tile.row + tile.tokens; ++row) {
        const int64_t column = head * dim, at = head * total + row;
        row_dots[at] = k_.attention.output_gate(d_out.row(row) + column, out.row(row) + column, gate.row(row) + column, dim,
                                                d_o + at * dim, d_gate.row(row) + column);
      }
    }
  });

  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  for (int64_t diagonal = 0;; ++diagonal) {
    const auto end = std::partition_point(tiles.begin(), tiles.end(), [&](const Tile& t) { return t.block >= diagonal; });
    if (end == tiles.begin()) break;
    pool_.parallel_for(end - tiles.begin(), [&](int64_t task, int thread) {
      const Tile& tile = tiles[static_cast<size_t>(task)];
      const AttentionSegment& segment = *tile.segment;
      const int64_t block = tile.block - diagonal, first = block * kBlockTokens;
      const float* copy = tile.copies + block * 2 * half;
      // Keys of the block that are rows of the segment.
      const int64_t key_begin = std::max<int64_t>(0, segment.position - first);
      const int64_t key_end = std::min(kBlockTokens, segment.position + segment.rows - first);
      const int64_t key_row = segment.row + first + key_begin - segment.position, key_column = tile.kv_head * dim;
      const bool gradients = key_begin < key_end;
      AttentionGradientCell cell{
          .head_dim = dim,
          .rows = tile.tokens,
          .visible = segment.position + tile.row - segment.row + 1 - first,
          .scale = scale,
          .q_stride = q.stride,
          .lse_stride = log_sum_exp.stride,
          .keys = head_memory(segment, block, layout.key_offset(tile.kv_head)),
          .key_rows = copy,
          .value_columns = copy + half,
          .d_q_stride = d_q.stride,
          .first_keys = diagonal == 0,
          .key_begin = key_begin,
          .key_end = key_end,
          .d_k = gradients ? d_k.row(key_row) + key_column : nullptr,
          .d_v = gradients ? d_v.row(key_row) + key_column : nullptr,
          .d_k_stride = d_k.stride,
          .d_v_stride = d_v.stride,
      };
      float* memory = scratch(thread, kAttentionGradientScratch);
      for (int64_t head = tile.kv_head * group; head < (tile.kv_head + 1) * group; ++head) {
        const int64_t at = head * total + tile.row;
        cell.q = q.row(tile.row) + head * dim;
        cell.d_o = d_o + at * dim;
        cell.log_sum_exp = log_sum_exp.row(tile.row) + head;
        cell.row_dots = row_dots + at;
        cell.d_q = d_q.row(tile.row) + head * dim;
        cell.first_rows = diagonal == 0 && head == tile.kv_head * group;
        k_.attention.cell(cell, memory);
      }
    });
  }
}

}  // namespace qnext
