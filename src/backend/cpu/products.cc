#include "backend/cpu/products.h"

#include <algorithm>

#include "base/error.h"

namespace qnext {

namespace {
/// Tokens that a panel of weights meets at once; f32 tiles keep their inputs in cache up to here.
constexpr int64_t kTokenTile = 256;
static_assert(kTokenTile <= kQuantTokens);
}  // namespace

const QuantKernels& quant_kernels_for(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return quant_kernels_scalar();
    case Isa::kAvx2: return quant_kernels_avx2();
    case Isa::kAvx512: return has_avx512_vnni() ? quant_kernels_avx512() : quant_kernels_avx2();
    case Isa::kAmx: return quant_kernels_amx();
  }
  QNEXT_CHECK(false, "unknown isa {}", static_cast<int>(isa));
}

void Products::need(const Matrix& w, Needs& needs) const {
  if (!rounded(w)) return;
  (scale_group(w.dtype) == 32 ? needs.per_32 : needs.per_256) = true;
}

Products::Input Products::prepare(Rows x, Needs needs, InputMemory& memory) {
  Input input{x, {nullptr, x.rows, x.cols}, {nullptr, x.rows, x.cols}};
  const auto round = [&](QuantRows& form, Scratch& units, int64_t group) {
    form.units = reinterpret_cast<QuantUnit*>(
        units.bytes(form.rows * form.unit_count() * static_cast<int64_t>(sizeof(QuantUnit))));
    const auto round_rows = [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) quant_.round_row(x.row(t), x.cols, group, form.units + t, form.rows);
    };
    constexpr int64_t kTaskFloats = 32 << 10;
    const int64_t step = std::max<int64_t>(1, kTaskFloats / x.cols);
    if (x.rows <= step) return round_rows(0, x.rows);  // less than a fork and join
    pool_.parallel_for((x.rows + step - 1) / step,
                       [&](int64_t task, int) { round_rows(task * step, std::min(x.rows, (task + 1) * step)); });
  };
  if (needs.per_256) round(input.per_256, memory.per_256, 256);
  if (needs.per_32) round(input.per_32, memory.per_32, 32);
  return input;
}

int64_t Products::rows_per_task(const Matrix& w, int64_t bytes, int64_t tokens) const {
  if (activations_ == ActivationPrecision::kF32) return kPanelRows;
  if (tokens > kFewTokens) return quant_.task_rows;
  // Few tokens: long tasks keep the memory busy, but the last ones should end together, and what one takes should
  // stay in the second-level cache.
  constexpr int64_t kTaskBytes = 192 << 10, kTasksPerThread = 16;
  const int64_t wanted = std::min(bytes / (kTasksPerThread * pool_.size()), kTaskBytes) / w.row_bytes();
  const int64_t parts = std::max<int64_t>(1, w.rows / std::max(wanted, kPanelRows));
  const int64_t unit = tokens == kFewTokens ? kExpandRows : 4;  // some kernels expand weights for eight
  return std::max((w.rows + parts * unit - 1) / (parts * unit), int64_t{1}) * unit;
}

void Products::add_tasks(int32_t index, const Matrix& w, int64_t step) {
  for (int64_t r = 0; r < w.rows; r += step) tasks_.push_back({index, r, std::min(r + step, w.rows)});
}

void Products::product(const Input& x, Tokens tokens, const Matrix& w, int64_t begin, int64_t end, Rows y,
                       int thread) {
  Scratch& scratch = threads_[static_cast<size_t>(thread)].panel;
  for (int64_t t = 0; t < tokens.count; t += kTokenTile) {
    const Tokens tile = tokens.slice(t, std::min(kTokenTile, tokens.count - t));
    float* out = tile.to == nullptr ? y.row(tile.to_first) : y.data;
    if (rounded(w)) {
      QuantRows rows = scale_group(w.dtype) == 32 ? x.per_32 : x.per_256;
      if (tile.from == nullptr) rows.units += tile.from_first;
      quant_.matmul(rows, tile.from, tile.count, w, begin, end, out, y.stride, tile.to,
                    scratch.bytes(quant_scratch_bytes(tile.count, end - begin)));
    } else {
      const float* in = tile.from == nullptr ? x.x.row(tile.from_first) : x.x.data;
      for (int64_t r = begin; r < end; r += kPanelRows) {
        k_.matmul(in, x.x.stride, tile.from, tile.count, w, r, std::min(r + kPanelRows, end), out, y.stride, tile.to,
                  scratch.floats(kPanelRows * w.cols));
      }
    }
  }
}

void Products::swiglu(const Input& x, Tokens tokens, const MlpWeights& w, int64_t begin, int64_t end, Rows hidden,
                      int thread) {
  const int64_t width = end - begin;
  float* up = threads_[static_cast<size_t>(thread)].up.floats(std::min(kTokenTile, tokens.count) * width);
  for (int64_t t = 0; t < tokens.count; t += kTokenTile) {
    const Tokens tile = tokens.slice(t, std::min(kTokenTile, tokens.count - t));
    prefetch(w.up, begin, end, tile.count);
    product(x, tile, w.gate, begin, end, hidden, thread);
    product(x, {tile.count, tile.from_first, tile.from}, w.up, begin, end, {up - begin, tile.count, width, width},
            thread);
    for (int64_t i = 0; i < tile.count; ++i) {
      k_.silu_multiply(hidden.row(tile.to_row(i)) + begin, up + i * width, width);
    }
  }
}

void Products::linear(Rows x, std::span<const Backend::Linear> products) {
  int64_t bytes = 0;
  Needs needs;
  for (const Backend::Linear& p : products) {
    QNEXT_CHECK(p.weight->cols == x.cols && p.weight->rows == p.y.cols, "[{}, {}] . [{}, {}] -> {}", x.rows, x.cols,
                p.weight->rows, p.weight->cols, p.y.cols);
    bytes += p.weight->bytes();
    need(*p.weight, needs);
  }
  if (x.rows == 0) return;
  const Input input = prepare(x, needs, input_memory_);
  tasks_.clear();
  for (size_t p = 0; p < products.size(); ++p) {
    add_tasks(static_cast<int32_t>(p), *products[p].weight, rows_per_task(*products[p].weight, bytes, x.rows));
  }
  pool_.parallel_for(std::ssize(tasks_), [&](int64_t i, int thread) {
    const Task& task = tasks_[static_cast<size_t>(i)];
    const Backend::Linear& p = products[task.matrix()];
    product(input, {x.rows}, *p.weight, task.begin, task.end, p.y, thread);
  });
}

void Products::mlp(Rows x, const MlpWeights& w, Rows hidden, Rows y) {
  QNEXT_CHECK(w.gate.rows == hidden.cols && w.gate.cols == x.cols && w.down.rows == y.cols,
              "gate [{}, {}], down [{}, {}]", w.gate.rows, w.gate.cols, w.down.rows, w.down.cols);
  if (x.rows == 0) return;
  Needs needs;
  need(w.gate, needs);
  need(w.up, needs);
  const Input input = prepare(x, needs, input_memory_);
  // Gate and up of the same hidden features in one task, so that SwiGLU is applied while they are in cache.
  const int64_t step = rows_per_task(w.gate, w.gate.bytes(), x.rows);
  pool_.parallel_for((w.gate.rows + step - 1) / step, [&](int64_t task, int thread) {
    swiglu(input, {x.rows}, w, task * step, std::min((task + 1) * step, w.gate.rows), hidden, thread);
  });
  const Backend::Linear down{&w.down, y};
  linear(hidden, {&down, 1});
}

void Products::experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                       const float* weights, Rows hidden, Rows expert_out, Rows y) {
  const size_t entries = static_cast<size_t>(x.rows * k);
  if (entries == 0) return;
  // Counting sort of the (row, slot) entries by expert; entries of an expert stay in row order.
  first_.assign(experts.size() + 1, 0);
  entry_.resize(entries);
  entry_row_.resize(entries);
  for (size_t i = 0; i < entries; ++i) ++first_[static_cast<size_t>(chosen[i]) + 1];
  for (size_t e = 0; e < experts.size(); ++e) first_[e + 1] += first_[e];
  for (size_t i = 0; i < entries; ++i) {
    const auto at = static_cast<size_t>(first_[static_cast<size_t>(chosen[i])]++);
    entry_[at] = static_cast<int32_t>(i);
    entry_row_[at] = static_cast<int32_t>(static_cast<int64_t>(i) / k);
  }
  for (size_t e = experts.size(); e > 0; --e) first_[e] = first_[e - 1];
  first_[0] = 0;

  const auto tokens_of = [&](int32_t e) {
    return first_[static_cast<size_t>(e) + 1] - first_[static_cast<size_t>(e)];
  };
  int64_t used = 0;
  Needs needs_x, needs_hidden;
  for (size_t e = 0; e < experts.size(); ++e) {
    if (tokens_of(static_cast<int32_t>(e)) == 0) continue;
    ++used;
    need(experts[e].gate, needs_x);
    need(experts[e].up, needs_x);
    need(experts[e].down, needs_hidden);
  }
  const auto make_tasks = [&](const Matrix MlpWeights::* matrix) {
    tasks_.clear();
    for (size_t e = 0; e < experts.size(); ++e) {
      const int64_t tokens = tokens_of(static_cast<int32_t>(e));
      const Matrix& w = experts[e].*matrix;
      if (tokens > 0) add_tasks(static_cast<int32_t>(e), w, rows_per_task(w, used * w.bytes(), tokens));
    }
  };
  /// Calls body(task, thread) for all tasks, having asked for what this thread is likely to get next: another
  /// expert's weights lie anywhere, and wait for nothing.
  const auto for_tasks = [&](const Matrix MlpWeights::* matrix, auto&& body) {
    const int64_t count = std::ssize(tasks_), ahead = pool_.size();
    pool_.parallel_for(count, [&](int64_t i, int thread) {
      if (i + ahead < count) {
        const Task& next = tasks_[static_cast<size_t>(i + ahead)];
        prefetch(experts[next.matrix()].*matrix, next.begin, next.end, tokens_of(next.index));
      }
      body(tasks_[static_cast<size_t>(i)], thread);
    });
  };
  const Input input = prepare(x, needs_x, input_memory_);
  make_tasks(&MlpWeights::gate);
  for_tasks(&MlpWeights::gate, [&](const Task& task, int thread) {
    const auto first = static_cast<size_t>(first_[task.matrix()]);
    swiglu(input, {tokens_of(task.index), 0, entry_row_.data() + first, 0, entry_.data() + first},
           experts[task.matrix()], task.begin, task.end, hidden, thread);
  });
  const Input hidden_input = prepare(hidden.first(x.rows * k), needs_hidden, hidden_memory_);
  make_tasks(&MlpWeights::down);
  for_tasks(&MlpWeights::down, [&](const Task& task, int thread) {
    const int32_t* entry = entry_.data() + first_[task.matrix()];
    product(hidden_input, {tokens_of(task.index), 0, entry, 0, entry}, experts[task.matrix()].down, task.begin,
            task.end, expert_out, thread);
  });
  const auto combine = [&](int64_t t) {
    std::fill_n(y.row(t), y.cols, 0.0f);
    for (int64_t slot = 0; slot < k; ++slot) {
      k_.scale_add(y.row(t), expert_out.row(t * k + slot), weights[t * k + slot], y.cols);
    }
  };
  const int64_t step = std::max<int64_t>(1, (32 << 10) / (k * y.cols));
  pool_.parallel_for((y.rows + step - 1) / step, [&](int64_t task, int) {
    for (int64_t t = task * step; t < std::min(y.rows, (task + 1) * step); ++t) combine(t);
  });
}

}  // namespace qnext
