#pragma once
#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace qnext {

struct LowRank;

/// A weight matrix [rows, cols], row-major, wherever it lies: usually inside a mapped file. A linear layer computes
/// y = x Wᵀ. Copying a Matrix copies the view, never the elements.
///
/// The rows may be a regular selection of the physical rows of a larger tensor, so that q, k, v, z that a checkpoint
/// interleaves head by head (in_proj_qkvz), or query and gate (q_proj), are plain matrices without a copy:
///   logical row r  ->  physical row  row_offset + (r / row_block) * row_block_stride + r % row_block
struct Matrix {
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  const std::byte* data = nullptr;  ///< physical row 0, aligned to the dtype (block types: to nothing)
  int64_t row_offset = 0;
  int64_t row_block = 1;
  int64_t row_block_stride = 1;
  /// F8_E4M3 only: element (physical row p, column c) is multiplied by block_scales[p / 128 * scale_cols + c / 128].
  const float* block_scales = nullptr;
  int64_t scale_cols = 0;
  /// What LoRA adds; null: nothing. The members here are those of the matrix alone. What counts it in: the products of
  /// TrainingBackend, LoraBackend (for inference), and ParameterReader (to merge).
  const LowRank* low_rank = nullptr;

  int64_t physical_row(int64_t r) const { return row_offset + r / row_block * row_block_stride + r % row_block; }
  int64_t row_bytes() const { return bytes_of(dtype, cols); }
  const std::byte* row(int64_t r) const { return data + physical_row(r) * row_bytes(); }
  /// One element as float, scales applied. For tests, the reference and other slow paths.
  float at(int64_t r, int64_t c) const {
    const float value = load_as_f32(row(r), dtype, c);
    return block_scales == nullptr ? value : value * block_scales[physical_row(r) / 128 * scale_cols + c / 128];
  }
  bool empty() const { return data == nullptr; }
  int64_t bytes() const { return rows * row_bytes(); }

  /// The rows [offset + i * stride, offset + i * stride + block) for i = 0 .. count-1 of this (un-selected) matrix.
  Matrix select_rows(int64_t offset, int64_t block, int64_t stride, int64_t count) const {
    Matrix m = *this;
    m.rows = block * count;
    m.row_offset = row_offset + offset;
    m.row_block = block;
    m.row_block_stride = stride;
    return m;
  }
};

/// W stands for W + scale * b a (LoRA, arXiv 2106.09685). Matrices that select rows of one matrix of a checkpoint have the
/// same a, and their b are the same selections of one [all rows, rank].
struct LowRank {
  Matrix a;  ///< [rank, cols] f32, without gaps
  Matrix b;  ///< [rows, rank] f32
  float scale = 1.0f;
  int64_t rank() const { return a.rows; }
};

/// A small float32 parameter vector (norm gains, gates, conv taps), converted once when the model is opened.
struct Vector {
  const float* data = nullptr;
  int64_t size = 0;
  const float& operator[](int64_t i) const { return data[i]; }
};

}  // namespace qnext
