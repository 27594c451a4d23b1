#pragma once
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/quant_kernels.h"
#include "backend/cpu/scratch.h"
#include "base/thread_pool.h"

namespace qnext {

/// The matrix products of the CPU backend: how rows, tokens and experts are shared out to the threads. Weights of
/// block types meet activations rounded to int8 once per call (or, on request, are expanded and meet them in f32).
class Products {
 public:
  Products(ThreadPool& pool, const Kernels& kernels, const QuantKernels& quant, ActivationPrecision activations)
      : pool_(pool),
        k_(kernels),
        quant_(quant),
        activations_(activations),
        threads_(static_cast<size_t>(pool.size())) {}

  void linear(Rows x, std::span<const Backend::Linear> products);
  void mlp(Rows x, const MlpWeights& weights, Rows hidden, Rows y);
  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y);

 private:
  /// Up to here memory is what a product waits for, mostly.
  static constexpr int64_t kFewTokens = 8;
  /// The input of products, in the forms that their weights need.
  struct Input {
    Rows x;
    QuantRows per_256, per_32;  ///< without units where not needed
  };
  struct InputMemory {
    Scratch per_256, per_32;
  };
  struct Needs {
    bool per_256 = false, per_32 = false;
  };
  struct PerThread {
    Scratch panel, up;
  };
  /// Which rows of the input and of the output: those an index names, or (null) consecutive ones from a first.
  struct Tokens {
    int64_t count;
    int64_t from_first = 0;
    const int32_t* from = nullptr;
    int64_t to_first = 0;
    const int32_t* to = nullptr;
    Tokens slice(int64_t begin, int64_t n) const {
      return {n, from_first + begin, from == nullptr ? nullptr : from + begin, to_first + begin,
              to == nullptr ? nullptr : to + begin};
    }
    int64_t to_row(int64_t i) const { return to == nullptr ? to_first + i : to[i]; }
  };
  /// Rows [begin, end) of one of the matrices of a call.
  struct Task {
    int32_t index;
    int64_t begin, end;
    size_t matrix() const { return static_cast<size_t>(index); }
  };

  bool rounded(const Matrix& w) const { return activations_ == ActivationPrecision::kInt8 && is_block_type(w.dtype); }
  void need(const Matrix& w, Needs& needs) const;
  Input prepare(Rows x, Needs needs, InputMemory& memory);
  /// Rows of `w` that one task takes, where `bytes` of weights of this type meet that many tokens each.
  int64_t rows_per_task(const Matrix& w, int64_t bytes, int64_t tokens) const;
  /// Lets a product that will soon run on this thread find the beginnings of its streams in cache.
  void prefetch(const Matrix& w, int64_t begin, int64_t end, int64_t tokens) const {
    if (rounded(w) && tokens <= kFewTokens) prefetch_few(w, begin, end);
  }
  void add_tasks(int32_t index, const Matrix& w, int64_t step);
  /// y[to][begin..end) = x[from] . w[begin..end), whatever the type.
  void product(const Input& x, Tokens tokens, const Matrix& w, int64_t begin, int64_t end, Rows y, int thread);
  /// hidden[to][begin..end) = silu(gate x[from]) * up x[from].
  void swiglu(const Input& x, Tokens tokens, const MlpWeights& w, int64_t begin, int64_t end, Rows hidden,
              int thread);

  ThreadPool& pool_;
  const Kernels& k_;
  const QuantKernels& quant_;
  ActivationPrecision activations_;
  std::vector<PerThread> threads_;
  InputMemory input_memory_, hidden_memory_;
  std::vector<Task> tasks_;                         // kept to reuse their memory, as
  std::vector<int32_t> first_, entry_, entry_row_;  // experts(): the (row, slot) pairs sorted by expert
};

}  // namespace qnext
