// Products for many rows: linear layers, SwiGLU, experts, and their gradients.
#include <algorithm>
#include <array>
#include <vector>

#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

namespace {

GemmOperand rows_of(Rows x) { return {.data = x.data, .stride = x.stride}; }
/// The rows are the inner dimension.
GemmOperand inner_rows_of(Rows x) { return {.data = x.data, .stride = x.stride, .inner_lines = true}; }
GemmOperand rows_of(const Matrix& w) { return {.matrix = &w}; }
GemmOperand inner_rows_of(const Matrix& w) { return {.matrix = &w, .inner_lines = true}; }

GemmJob onto(std::span<const GemmTerm> terms, Rows c, bool accumulate) {
  return {.terms = terms, .c = c.data, .ldc = c.stride, .m = c.rows, .n = c.cols, .accumulate = accumulate};
}
GemmJob onto(std::span<const GemmTerm> terms, float* c, int64_t m, int64_t n) {
  return {.terms = terms, .c = c, .ldc = n, .m = m, .n = n, .accumulate = true};
}

float* floats_of(const Matrix& gradient) {
  return const_cast<float*>(reinterpret_cast<const float*>(gradient.data));
}

void check_low_rank(const Matrix& w) {
  const LowRank& l = *w.low_rank;
  QNEXT_CHECK(l.a.dtype == DType::kF32 && l.b.dtype == DType::kF32 && l.a.cols == w.cols && l.b.rows == w.rows &&
                  l.b.cols == l.a.rows && l.a.low_rank == nullptr && l.b.low_rank == nullptr,
              "W [{}, {}], a [{}, {}], b [{}, {}]", w.rows, w.cols, l.a.rows, l.a.cols, l.b.rows, l.b.cols);
}

void check_mlp(Rows x, const MlpWeights& w, Rows y) {
  QNEXT_CHECK(w.gate.cols == x.cols && w.up.cols == x.cols && w.up.rows == w.gate.rows &&
                  w.down.cols == w.gate.rows && w.down.rows == y.cols && x.rows == y.rows,
              "x [{}, {}], gate [{}, {}], up [{}, {}], down [{}, {}], y [{}, {}]", x.rows, x.cols, w.gate.rows,
              w.gate.cols, w.up.rows, w.up.cols, w.down.rows, w.down.cols, y.rows, y.cols);
}

}  // namespace

void CpuTrainingBackend::gemm(std::span<const GemmJob> jobs, const ProductKernels& k) {
  // Large tasks pack little, but all threads should end together: halved until there are some for each.
  const auto up_to = [](int64_t n, int64_t tile) { return (n + tile - 1) / tile * tile; };
  int64_t rows = up_to(1000, k.tile_rows), cols = 512;
  const auto count = [&] {
    int64_t tasks = 0;
    for (const GemmJob& job : jobs) tasks += (job.m + rows - 1) / rows * ((job.n + cols - 1) / cols);
    return tasks;
  };
  // A few microseconds of work are less than waking the others.
  constexpr int64_t kAlone = 1 << 17;
  int64_t work = 0;
  for (const GemmJob& job : jobs) {
    for (const GemmTerm& term : job.terms) work += job.m * job.n * term.inner;
  }
  if (work <= kAlone) {
    for (const GemmJob& job : jobs) {
      if (job.m > 0) k.multiply(job, 0, job.m, 0, job.n, scratch(0, k.scratch_floats));
    }
    return;
  }
  constexpr int64_t kLeastRows = 96, kLeastCols = 64, kTasksPerThread = 4;
  int64_t tasks = count();
  while (pool_.size() > 1 && tasks < kTasksPerThread * pool_.size() && (rows > kLeastRows || cols > kLeastCols)) {
    if (rows >= cols || cols == kLeastCols) {
      rows = up_to(rows / 2, k.tile_rows);
    } else {
      cols = up_to(cols / 2, k.tile_cols);
    }
    tasks = count();
  }
  pool_.parallel_for(tasks, [&](int64_t task, int thread) {
    for (const GemmJob& job : jobs) {
      const int64_t across = (job.n + cols - 1) / cols, down = (job.m + rows - 1) / rows;
      if (task >= across * down) {
        task -= across * down;
        continue;
      }
      const auto cut = [](int64_t i, int64_t parts, int64_t n, int64_t tile) {  // equal parts of whole tiles
        const int64_t tiles = (n + tile - 1) / tile;
        return std::min(tiles * i / parts * tile, n);
      };
      const int64_t row = task / across, col = task % across;
      return k.multiply(job, cut(row, down, job.m, k.tile_rows), cut(row + 1, down, job.m, k.tile_rows),
                        cut(col, across, job.n, k.tile_cols), cut(col + 1, across, job.n, k.tile_cols),
                        scratch(thread, k.scratch_floats));
    }
  });
}

void CpuTrainingBackend::elementwise(int64_t n, const std::function<void(int64_t, int64_t)>& body) {
  constexpr int64_t kTask = 16 << 10;
  pool_.parallel_for((n + kTask - 1) / kTask,
                     [&](int64_t task, int) { body(task * kTask, std::min(kTask, n - task * kTask)); });
}

// ---- linear layers, with low-rank additions

namespace {

/// The entry of a list by the addition's a.
template <typename Entries>
auto* find_low_rank(Entries& entries, const LowRank* low_rank) {
  const auto it = std::find_if(entries.begin(), entries.end(),
                               [&](const auto& entry) { return entry.of->a.data == low_rank->a.data; });
  return it == entries.end() ? nullptr : &*it;
}

}  // namespace

std::vector<CpuTrainingBackend::LowRankInput> CpuTrainingBackend::low_rank_inputs(
    Rows x, std::span<const Matrix* const> weights) {
  std::vector<LowRankInput> inputs;
  int64_t size = 0;
  for (const Matrix* w : weights) {
    if (w->low_rank == nullptr) continue;
    check_low_rank(*w);
    const LowRank& l = *w->low_rank;
    if (const LowRankInput* found = find_low_rank(inputs, &l)) {
      QNEXT_CHECK(found->of->scale == l.scale, "one a with scales {} and {}", found->of->scale, l.scale);
      continue;
    }
    inputs.push_back({&l, {nullptr, x.rows, l.rank(), l.rank()}});
    size += x.rows * l.rank();
  }
  if (inputs.empty()) return inputs;
  float* next = low_rank_scratch_.floats(size);
  std::vector<GemmTerm> terms;
  std::vector<GemmJob> jobs;
  terms.reserve(inputs.size());
  for (LowRankInput& input : inputs) {
    input.rows.data = next;
    next += x.rows * input.rows.cols;
    terms.push_back({rows_of(x), rows_of(input.of->a), x.cols});
    jobs.push_back(onto({&terms.back(), 1}, input.rows, false));
  }
  gemm(jobs, k_.gemm.f32);
  for (const LowRankInput& input : inputs) {
    k_.gemm.scale(input.rows.data, input.of->scale, x.rows * input.rows.cols);
  }
  return inputs;
}

std::vector<CpuTrainingBackend::LowRankInput> CpuTrainingBackend::low_rank_gradients(
    std::span<const LinearGradient> products) {
  std::vector<LowRankInput> gradients;
  int64_t size = 0;
  for (const LinearGradient& p : products) {
    const LowRank* l = p.weight->low_rank;
    if (l == nullptr || find_low_rank(gradients, l) != nullptr) continue;
    gradients.push_back({l, {nullptr, p.d_y.rows, l->rank(), l->rank()}});
    size += p.d_y.rows * l->rank();
  }
  if (gradients.empty()) return gradients;
  float* next = low_rank_gradient_scratch_.floats(size);
  std::vector<GemmTerm> terms;
  std::vector<GemmJob> jobs;
  terms.reserve(products.size());
  for (LowRankInput& gradient : gradients) {
    gradient.rows.data = next;
    next += gradient.rows.rows * gradient.rows.cols;
    const size_t first = terms.size();
    for (const LinearGradient& p : products) {
      const LowRank* l = p.weight->low_rank;
      if (l == nullptr || l->a.data != gradient.of->a.data) continue;
      terms.push_back({rows_of(p.d_y), inner_rows_of(l->b), l->b.rows});
    }
    jobs.push_back(onto({terms.data() + first, terms.size() - first}, gradient.rows, false));
  }
  gemm(jobs, k_.gemm.f32);
  for (const LowRankInput& gradient : gradients) {
    k_.gemm.scale(gradient.rows.data, gradient.of->scale, gradient.rows.rows * gradient.rows.cols);
  }
  return gradients;
}

void CpuTrainingBackend::linear(Rows x, std::span<const Linear> products) {
  std::vector<const Matrix*> weights;
  for (const Linear& p : products) weights.push_back(p.weight);
  const std::vector<LowRankInput> low_rank = low_rank_inputs(x, weights);
  std::vector<GemmTerm> terms;
  std::vector<GemmJob> jobs, exact;
  terms.reserve(2 * products.size());
  for (const Linear& p : products) {
    QNEXT_CHECK(p.weight->cols == x.cols && p.weight->rows == p.y.cols && p.y.rows >= x.rows,
                "[{}, {}] . [{}, {}] -> [{}, {}]", x.rows, x.cols, p.weight->rows, p.weight->cols, p.y.rows,
                p.y.cols);
    const size_t first = terms.size();
    terms.push_back({rows_of(x), rows_of(*p.weight), x.cols});
    if (const LowRank* l = p.weight->low_rank) {
      terms.push_back({rows_of(find_low_rank(low_rank, l)->rows), rows_of(l->b), l->rank()});
    }
    (p.exact ? exact : jobs).push_back(onto({terms.data() + first, terms.size() - first}, p.y.first(x.rows), false));
  }
  gemm(jobs);
  if (!exact.empty()) gemm(exact, k_.gemm.f32);
}

void CpuTrainingBackend::linear_backward(Rows x, std::span<const LinearGradient> products, Rows d_x) {
  std::vector<const Matrix*> with_gradient;  // of b, which wants scale * x aᵀ
  for (const LinearGradient& p : products) {
    QNEXT_CHECK(p.d_weight.low_rank == nullptr || p.weight->low_rank != nullptr, "the gradient of no addition");
    if (p.weight->low_rank != nullptr) check_low_rank(*p.weight);
    if (p.d_weight.low_rank != nullptr) with_gradient.push_back(p.weight);
  }
  const std::vector<LowRankInput> inputs = low_rank_inputs(x, with_gradient), d_inputs = low_rank_gradients(products);
  std::vector<GemmTerm> through, of_weights;
  std::vector<GemmJob> jobs;
  std::vector<std::vector<int32_t>> rows_of_b;
  std::vector<const LowRank*> a_done;
  through.reserve(products.size() + d_inputs.size());
  of_weights.reserve(3 * products.size());
  rows_of_b.reserve(products.size());
  const auto add_gradients_of_low_rank = [&](const LinearGradient& p) {
    const LowRank &l = *p.weight->low_rank, &d = *p.d_weight.low_rank;
    QNEXT_CHECK(d.a.rows == l.a.rows && d.a.cols == l.a.cols && d.b.rows == l.b.rows && d.b.cols == l.b.cols,
                "a [{}, {}], b [{}, {}], their gradients [{}, {}], [{}, {}]", l.a.rows, l.a.cols, l.b.rows, l.b.cols,
                d.a.rows, d.a.cols, d.b.rows, d.b.cols);
    std::vector<int32_t>& rows = rows_of_b.emplace_back();
    for (int64_t r = 0; r < d.b.rows; ++r) rows.push_back(static_cast<int32_t>(d.b.physical_row(r)));
    of_weights.push_back({inner_rows_of(p.d_y), inner_rows_of(find_low_rank(inputs, &l)->rows), x.rows});
    jobs.push_back(onto({&of_weights.back(), 1}, floats_of(d.b), d.b.rows, d.b.cols));
    jobs.back().c_index = rows.data();
    // What several selections share gets its gradient once: d_inputs has the sum over all of them.
    if (std::ranges::any_of(a_done, [&](const LowRank* other) { return other->a.data == d.a.data; })) return;
    a_done.push_back(&d);
    of_weights.push_back({inner_rows_of(find_low_rank(d_inputs, &l)->rows), inner_rows_of(x), x.rows});
    jobs.push_back(onto({&of_weights.back(), 1}, floats_of(d.a), d.a.rows, d.a.cols));
  };
  for (const LinearGradient& p : products) {
    const Matrix& w = *p.weight;
    QNEXT_CHECK(w.cols == x.cols && w.rows == p.d_y.cols && p.d_y.rows == x.rows &&
                    (d_x.data == nullptr || d_x.cols == x.cols),
                "x [{}, {}], W [{}, {}], d_y [{}, {}], d_x [{}, {}]", x.rows, x.cols, w.rows, w.cols, p.d_y.rows,
                p.d_y.cols, d_x.rows, d_x.cols);
    through.push_back({rows_of(p.d_y), inner_rows_of(w), w.rows});
    if (p.d_weight.low_rank != nullptr) add_gradients_of_low_rank(p);
    if (p.d_weight.weight == nullptr) continue;
    of_weights.push_back({inner_rows_of(p.d_y), inner_rows_of(x), x.rows});
    jobs.push_back(onto({&of_weights.back(), 1}, p.d_weight.weight, w.rows, w.cols));
  }
  for (const LowRankInput& d : d_inputs) through.push_back({rows_of(d.rows), inner_rows_of(d.of->a), d.rows.cols});
  if (d_x.data != nullptr) jobs.push_back(onto(through, d_x, true));
  gemm(jobs);
}

void CpuTrainingBackend::mlp(Rows x, const MlpWeights& w, Rows hidden, Rows y) {
  check_mlp(x, w, y);
  const int64_t inner = w.gate.rows;
  const Rows up{shared_scratch_.floats(x.rows * inner), x.rows, inner, inner};
  const Linear first[] = {{&w.gate, hidden.first(x.rows)}, {&w.up, up}};
  linear(x, first);
  pool_.parallel_for((x.rows + 15) / 16, [&](int64_t task, int) {
    for (int64_t t = task * 16; t < std::min(task * 16 + 16, x.rows); ++t) {
      k_.gemm.silu_multiply(hidden.row(t), up.row(t), inner);
    }
  });
  linear(hidden.first(x.rows), w.down, y);
}

void CpuTrainingBackend::mlp_backward(Rows x, const MlpWeights& w, Rows d_y, Rows d_x, const MlpGradient& d_w) {
  check_mlp(x, w, d_y);
  const int64_t inner = w.gate.rows, size = x.rows * inner;
  float* const memory = shared_scratch_.floats(3 * size);
  const Rows gate{memory, x.rows, inner, inner}, up{memory + size, x.rows, inner, inner},
      hidden{memory + 2 * size, x.rows, inner, inner};
  if (w.has_low_rank()) {
    const Linear first[] = {{&w.gate, gate}, {&w.up, up}};
    linear(x, first);
    clear(hidden);
    const LinearGradient into_hidden{&w.down, d_y, {}}, of_down{&w.down, d_y, d_w.down};
    linear_backward(hidden, {&into_hidden, 1}, hidden);  // as nothing of w has a gradient here, only d_x is looked at
    elementwise(size, [&](int64_t i, int64_t n) {
      k_.gemm.silu_multiply_backward(gate.data + i, up.data + i, hidden.data + i, n);
    });
    linear_backward(hidden, {&of_down, 1}, {});
    const LinearGradient of_inner[] = {{&w.gate, gate, d_w.gate}, {&w.up, up, d_w.up}};
    return linear_backward(x, of_inner, d_x);
  }
  {
    const GemmTerm terms[] = {{rows_of(x), rows_of(w.gate), x.cols},
                              {rows_of(x), rows_of(w.up), x.cols},
                              {rows_of(d_y), inner_rows_of(w.down), d_y.cols}};
    const GemmJob jobs[] = {onto({terms, 1}, gate, false), onto({terms + 1, 1}, up, false),
                            onto({terms + 2, 1}, hidden, false)};
    gemm(jobs);
  }
  elementwise(size, [&](int64_t i, int64_t n) {
    k_.gemm.silu_multiply_backward(gate.data + i, up.data + i, hidden.data + i, n);
  });
  const GemmTerm of_weights[] = {{inner_rows_of(gate), inner_rows_of(x), x.rows},
                                 {inner_rows_of(up), inner_rows_of(x), x.rows},
                                 {inner_rows_of(d_y), inner_rows_of(hidden), x.rows}};
  const GemmTerm through[] = {{rows_of(gate), inner_rows_of(w.gate), inner},
                              {rows_of(up), inner_rows_of(w.up), inner}};
  std::vector<GemmJob> jobs;
  if (d_w.gate.weight != nullptr) jobs.push_back(onto({of_weights, 1}, d_w.gate.weight, inner, x.cols));
  if (d_w.up.weight != nullptr) jobs.push_back(onto({of_weights + 1, 1}, d_w.up.weight, inner, x.cols));
  if (d_w.down.weight != nullptr) jobs.push_back(onto({of_weights + 2, 1}, d_w.down.weight, d_y.cols, inner));
  if (d_x.data != nullptr) jobs.push_back(onto(through, d_x, true));
  gemm(jobs);
}

// ---- experts
// -------------------------------------------------------------------------------------------------------

namespace {

/// The entries by expert, those of an expert in their order.
struct Grouping {
  std::vector<int64_t> first;  // [experts + 1]
  std::vector<int32_t> entry, row;

  Grouping(std::span<const int32_t> rows, std::span<const int32_t> chosen, size_t experts)
      : first(experts + 1), entry(chosen.size()), row(entry.size()) {
    QNEXT_CHECK(rows.size() == chosen.size(), "{} rows, {} experts", rows.size(), chosen.size());
    for (const int32_t e : chosen) {
      QNEXT_CHECK(e >= 0 && static_cast<size_t>(e) < experts, "expert {} of {}", e, experts);
      ++first[static_cast<size_t>(e) + 1];
    }
    for (size_t e = 0; e < experts; ++e) first[e + 1] += first[e];
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (size_t i = 0; i < entry.size(); ++i) {
      const auto at = static_cast<size_t>(next[static_cast<size_t>(chosen[i])]++);
      entry[at] = static_cast<int32_t>(i);
      row[at] = rows[i];
    }
  }
  int64_t count(size_t e) const { return first[e + 1] - first[e]; }
  ExpertEntries part(int64_t begin, int64_t end) const {
    return {row.data() + begin, entry.data() + begin, end - begin};
  }
};

bool plain(const Matrix& w) {
  return w.low_rank == nullptr && w.dtype == DType::kF32 && (w.row_block == w.row_block_stride || w.rows <= w.row_block);
}
int64_t expanded_floats(const Matrix& w) { return plain(w) ? 0 : (w.rows * w.cols + 15) / 16 * 16; }
int64_t expanded_floats(const MlpWeights& w) {
  return expanded_floats(w.gate) + expanded_floats(w.up) + expanded_floats(w.down);
}

/// The weights as they are, or expanded into `memory`, with their low-rank additions: an expert's few rows would gain
/// little from thin products, which would need kernels of their own.
ExpertWeights in_f32(const GemmKernels& k, const MlpWeights& w, float* memory) {
  const auto floats = [&](const Matrix& matrix) -> const float* {
    if (plain(matrix)) return reinterpret_cast<const float*>(matrix.row(0));
    float* to = memory;
    for (int64_t r = 0; r < matrix.rows; ++r) {
      float* const row = to + r * matrix.cols;
      k.expand_row(matrix, r, row);
      if (matrix.low_rank == nullptr) continue;
      const LowRank& l = *matrix.low_rank;
      const auto* b = reinterpret_cast<const float*>(l.b.row(r));
      for (int64_t i = 0; i < l.rank(); ++i) {  // of a zero b nothing is left, not even the sign of a zero
        if (b[i] != 0.0f) {
          k.scale_add(row, reinterpret_cast<const float*>(l.a.row(i)), l.scale * b[i], matrix.cols);
        }
      }
    }
    memory += expanded_floats(matrix);
    return to;
  };
  return {floats(w.gate), floats(w.up), floats(w.down), w.gate.rows, w.gate.cols};
}

/// Gradients of an expert's whole matrices in `memory`, of those whose low-rank additions have gradients: these are made of
/// them, once all rows have been added. The others' are where they belong.
class ExpertGradients {
 public:
  ExpertGradients(const MlpWeights& w, const TrainingBackend::MlpGradient& gradient)
      : parts_{{{&w.gate, &gradient.gate}, {&w.up, &gradient.up}, {&w.down, &gradient.down}}} {}

  int64_t floats() const {
    int64_t count = 0;
    for (const Part& part : parts_) count += part.floats();
    return count;
  }
  ExpertGradient in(float* memory) {
    for (Part& part : parts_) {
      part.to = part.gradient->weight;
      if (part.gradient->low_rank == nullptr) continue;
      QNEXT_CHECK(part.to == nullptr && part.weight->low_rank != nullptr,
                  "gradients of a matrix or of its low-rank addition, not of both");
      part.to = memory;
      std::fill_n(memory, part.weight->rows * part.weight->cols, 0.0f);
      memory += part.floats();
    }
    return {parts_[0].to, parts_[1].to, parts_[2].to};
  }
  /// d_a += scale * bᵀ d_W, d_b += scale * d_W aᵀ.
  void finish(const GemmKernels& k, float* scratch) const {
    for (const Part& part : parts_) {
      const LowRank* d = part.gradient->low_rank;
      if (d == nullptr) continue;
      const LowRank& l = *part.weight->low_rank;
      const int64_t rows = part.weight->rows, cols = part.weight->cols, rank = l.rank();
      k.scale(part.to, l.scale, rows * cols);
      const GemmTerm of_a{inner_rows_of(l.b), {.data = part.to, .stride = cols, .inner_lines = true}, rows};
      const GemmTerm of_b{{.data = part.to, .stride = cols}, rows_of(l.a), cols};
      QNEXT_CHECK(d->b.physical_row(rows - 1) == d->b.row_offset + rows - 1, "an expert's matrix of selected rows");
      k.f32.multiply(onto({&of_a, 1}, floats_of(d->a), rank, cols), 0, rank, 0, cols, scratch);
      k.f32.multiply(onto({&of_b, 1}, floats_of(d->b) + d->b.row_offset * rank, rows, rank), 0, rows, 0, rank, scratch);
    }
  }

 private:
  struct Part {
    const Matrix* weight;
    const TrainingBackend::MatrixGradient* gradient;
    float* to = nullptr;
    int64_t floats() const {
      return gradient->low_rank == nullptr ? 0 : (weight->rows * weight->cols + 15) / 16 * 16;
    }
  };
  std::array<Part, 3> parts_;
};

}  // namespace

/// Entry t * k + i is row t with its i-th expert.
static std::vector<int32_t> rows_of_slots(int64_t rows, int64_t k) {
  std::vector<int32_t> list(static_cast<size_t>(rows * k));
  for (size_t i = 0; i < list.size(); ++i) list[i] = static_cast<int32_t>(static_cast<int64_t>(i) / k);
  return list;
}

void CpuTrainingBackend::expert_entries(Rows x, std::span<const MlpWeights> experts, std::span<const int32_t> rows,
                                        std::span<const int32_t> chosen, Rows out) {
  const Grouping groups(rows, chosen, experts.size());
  struct Task {
    size_t expert;
    int64_t begin, end;
  };
  std::vector<Task> tasks;
  for (size_t e = 0; e < experts.size(); ++e) {
    if (groups.count(e) == 0) continue;
    check_mlp(x, experts[e], {nullptr, x.rows, out.cols, 0});
    const int64_t most = products_.expert_entries, parts = (groups.count(e) + most - 1) / most;
    for (int64_t p = 0; p < parts; ++p) {
      const auto at = [&](int64_t i) { return groups.first[e] + std::min(i * most, groups.count(e)); };
      tasks.push_back({e, at(p), at(p + 1)});
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& a, const Task& b) { return a.end - a.begin > b.end - b.begin; });
  pool_.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
    const Task& task = tasks[static_cast<size_t>(i)];
    const MlpWeights& w = experts[task.expert];
    const int64_t floats = products_.expert_scratch(w.gate.rows, w.gate.cols);
    float* const memory = scratch(thread, floats + expanded_floats(w));
    products_.expert(in_f32(k_.gemm, w, memory + floats), groups.part(task.begin, task.end), x, out, memory);
  });
}

void CpuTrainingBackend::combine_experts(Rows out, int64_t k, const float* weights, Rows y) {
  const int64_t step = std::max<int64_t>(1, (32 << 10) / (k * y.cols));
  pool_.parallel_for((y.rows + step - 1) / step, [&](int64_t task, int) {
    for (int64_t t = task * step; t < std::min(y.rows, (task + 1) * step); ++t) {
      std::fill_n(y.row(t), y.cols, 0.0f);
      for (int64_t i = t * k; i < (t + 1) * k; ++i) k_.gemm.scale_add(y.row(t), out.row(i), weights[i], y.cols);
    }
  });
}

void CpuTrainingBackend::experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                                 const float* weights, Rows, Rows expert_out, Rows y) {
  const std::vector<int32_t> rows = rows_of_slots(x.rows, k);
  expert_entries(x, experts, rows, {chosen, rows.size()}, expert_out);
  combine_experts(expert_out, k, weights, y.first(x.rows));
}

void CpuTrainingBackend::expert_entries_backward(Rows x, std::span<const MlpWeights> experts,
                                                 std::span<const int32_t> rows, std::span<const int32_t> chosen,
                                                 const float* weights, Rows d_y, Rows d_x, float* d_weights,
                                                 std::span<const MlpGradient> d_experts) {
  QNEXT_CHECK(d_experts.empty() || d_experts.size() == experts.size(), "{} gradients of {} experts", d_experts.size(),
              experts.size());
  const Grouping groups(rows, chosen, experts.size());
  std::vector<size_t> order;
  for (size_t e = 0; e < experts.size(); ++e) {
    if (groups.count(e) == 0) continue;
    check_mlp(x, experts[e], d_y);
    order.push_back(e);
  }
  // An expert is one task, because its gradients are summed in the order of its entries; the longest first.
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return groups.count(a) > groups.count(b); });
  pool_.parallel_for(static_cast<int64_t>(order.size()), [&](int64_t i, int thread) {
    const size_t e = order[static_cast<size_t>(i)];
    const MlpWeights& w = experts[e];
    const MlpGradient none;
    ExpertGradients gradients(w, d_experts.empty() ? none : d_experts[e]);
    int64_t floats = products_.expert_scratch(w.gate.rows, w.gate.cols);
    if (gradients.floats() > 0) floats = (std::max(floats, k_.gemm.f32.scratch_floats) + 15) / 16 * 16;
    const int64_t expanded = expanded_floats(w);
    float* const memory = scratch(thread, floats + expanded + gradients.floats());
    const ExpertWeights f32 = in_f32(k_.gemm, w, memory + floats);
    const ExpertGradient d_expert = gradients.in(memory + floats + expanded);
    for (int64_t begin = groups.first[e]; begin < groups.first[e + 1]; begin += products_.expert_entries) {
      const int64_t end = std::min(begin + products_.expert_entries, groups.first[e + 1]);
      products_.expert_backward(f32, groups.part(begin, end), x, weights, d_y, d_x, d_weights, d_expert, memory);
    }
    gradients.finish(k_.gemm, memory);
  });
}

void CpuTrainingBackend::experts_backward(Rows x, std::span<const MlpWeights> experts, int64_t k,
                                          const int32_t* chosen, const float* weights, Rows d_y, Rows d_x,
                                          float* d_weights, std::span<const MlpGradient> d_experts) {
  const bool with_d_x = d_x.data != nullptr;
  const Rows parts{with_d_x ? shared_scratch_.floats(x.rows * k * x.cols) : nullptr, with_d_x ? x.rows * k : 0,
                   x.cols, x.cols};
  const std::vector<int32_t> rows = rows_of_slots(x.rows, k);
  expert_entries_backward(x, experts, rows, {chosen, rows.size()}, weights, d_y, parts, d_weights, d_experts);
  if (!with_d_x) return;
  const int64_t step = std::max<int64_t>(1, (32 << 10) / (k * x.cols));
  pool_.parallel_for((x.rows + step - 1) / step, [&](int64_t task, int) {
    for (int64_t t = task * step; t < std::min(x.rows, (task + 1) * step); ++t) {
      for (int64_t i = t * k; i < (t + 1) * k; ++i) k_.gemm.add(d_x.row(t), parts.row(i), x.cols);
    }
  });
}

}  // namespace qnext
