#pragma once
#include <cstdint>
#include <span>

#include "backend/training_backend.h"

namespace qnext {

/// One side of a product over an inner dimension, as lines of floats that lie anywhere: row index[j] (null: j) of
/// `data`, or row j of a matrix of any type.
struct GemmOperand {
  const float* data = nullptr;
  int64_t stride = 0;
  const int32_t* index = nullptr;
  const Matrix* matrix = nullptr;  ///< instead of data
  /// Line j holds inner index j of all rows (or columns) of the product; else it holds all of row (or column) j.
  bool inner_lines = false;
};

/// a bᵀ over `inner`: of the rows of a and the columns of b.
struct GemmTerm {
  GemmOperand a, b;
  int64_t inner = 0;
};

/// c [m, n] = (or +=) the sum of the terms. Every element is one chain of additions, in the order of the terms and
/// ascending inner index, that starts from 0 or from c: its bits do not depend on how the work is cut. What is added
/// is said at ProductKernels.
struct GemmJob {
  std::span<const GemmTerm> terms;
  float* c = nullptr;
  int64_t ldc = 0;
  const int32_t* c_index = nullptr;  ///< row i of the product is row c_index[i] of c
  int64_t m = 0, n = 0;
  bool accumulate = false;
};

/// Some of the (row, slot) entries that chose an expert. Lines of x and d_y are named by row, all else by entry.
struct ExpertEntries {
  const int32_t *row, *entry;
  int64_t count;  ///< at most ProductKernels::expert_entries
};

/// Weights of an expert in f32, row-major without gaps.
struct ExpertWeights {
  const float *gate, *up;  ///< [F, D]
  const float* down;       ///< [D, F]
  int64_t inner, width;    ///< F, D
};

/// Gradients of the same, in the same order; null: frozen.
struct ExpertGradient {
  float *gate = nullptr, *up = nullptr, *down = nullptr;
};

/// Products for many rows, in one way of meeting the operands. An element's chain adds, with rounded(x) the nearest
/// bf16, ties to even:
///   f32                a b, one fused multiply-add per inner index
///   bf16, portable     rounded(a) rounded(b), likewise
///   bf16, vdpbf16ps    rounded(a) rounded(b), likewise, but of each pair of indices 2 p, 2 p + 1 the odd one first
///   bf16, tdpbf16ps    one number per 32 indices: the sum of the even ones' rounded(a) rounded(b) plus the sum of
///                      the odd ones', each a chain of fused multiply-adds from 0
/// Pairs and 32s count from a term's inner index 0; after its end it has zeros, up to a multiple of 32. To the last two
/// numbers below 2^-126 are zeros. (The scalar set adds in double, and rounds to f32 every 256 indices.)
struct ProductKernels {
  int64_t tile_rows, tile_cols;  ///< of a register tile; tasks had better be multiples
  int64_t scratch_floats;        ///< of multiply
  /// Rows [row_begin, row_end), columns [col_begin, col_end) of a job.
  void (*multiply)(const GemmJob& job, int64_t row_begin, int64_t row_end, int64_t col_begin, int64_t col_end,
                   float* scratch);

  int64_t expert_entries;  ///< most that one call of the two below takes
  int64_t (*expert_scratch)(int64_t inner, int64_t width);  ///< floats of their scratch
  /// out[entry] = expert(x[row]).
  void (*expert)(const ExpertWeights& weights, const ExpertEntries& entries, Rows x, Rows out, float* scratch);
  /// weights[entry] scales the expert's output. d_weights[entry] and d_x[entry] (unless empty) are overwritten,
  /// d_expert += .
  void (*expert_backward)(const ExpertWeights& weights, const ExpertEntries& entries, Rows x, const float* factors,
                          Rows d_y, Rows d_x, float* d_factors, const ExpertGradient& d_expert, float* scratch);
};

/// The inner loops of products for many rows, of the loss and of the optimiser.
struct GemmKernels {
  ProductKernels f32;
  /// Operands rounded, arithmetic of the set: every machine trains to about the same numbers.
  ProductKernels bf16;
  /// The instructions for bf16 in plain C++, bit for bit: what is around them is tested on every machine.
  ProductKernels bf16_emulated_avx512, bf16_emulated_amx;

  void (*expand_row)(const Matrix& w, int64_t row, float* out);
  void (*add)(float* x, const float* y, int64_t n);                     ///< x += y
  void (*scale_add)(float* y, const float* x, float scale, int64_t n);  ///< y += scale * x
  void (*scale)(float* x, float scale, int64_t n);                      ///< x *= scale
  void (*silu_multiply)(float* gate, const float* up, int64_t n);       ///< gate = silu(gate) * up
  /// With h = silu(gate) * up: gate becomes its gradient, up its gradient, d_h becomes h.
  void (*silu_multiply_backward)(float* gate, float* up, float* d_h, int64_t n);
  float (*maximum)(const float* x, int64_t n);
  double (*exp_sum)(float* x, float maximum, int64_t n);  ///< x = e^(x - maximum); their sum
  double (*sum_of_squares)(const float* x, int64_t n);
  void (*adamw)(float* w, const float* gradient, float* m, float* v, const TrainingBackend::AdamW& step, int64_t n);
};

/// By vdpbf16ps and by the tiles of AMX. To be called only where the machine has the instructions (base/cpu.h).
const ProductKernels& product_kernels_bf16_avx512();
const ProductKernels& product_kernels_bf16_amx();

}  // namespace qnext
