// Optimisers, and the gradient norm that clipping asks for.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

void CpuTrainingBackend::adamw(std::span<float> w, std::span<const float> gradient, std::span<float> m,
                               std::span<float> v, const AdamW& step) {
  QNEXT_CHECK(gradient.size() == w.size() && m.size() == w.size() && v.size() == w.size(), "{}, {}, {}, {} elements",
              w.size(), gradient.size(), m.size(), v.size());
  elementwise(static_cast<int64_t>(w.size()), [&](int64_t i, int64_t n) {
    k_.gemm.adamw(w.data() + i, gradient.data() + i, m.data() + i, v.data() + i, step, n);
  });
}

double CpuTrainingBackend::sum_of_squares(std::span<const float> x) {
  constexpr int64_t kBlock = 64 << 10;  // fixes the order
  const auto size = static_cast<int64_t>(x.size());
  std::vector<double> sums(static_cast<size_t>((size + kBlock - 1) / kBlock));
  pool_.parallel_for(static_cast<int64_t>(sums.size()), [&](int64_t i, int) {
    sums[static_cast<size_t>(i)] = k_.gemm.sum_of_squares(x.data() + i * kBlock, std::min(kBlock, size - i * kBlock));
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

namespace {

/// One matrix X [rows, cols] on its way to the nearest orthogonal one.
struct Orthogonalised {
  const TrainingBackend::MuonMatrix* matrix;
  float *x, *next;           ///< [rows, cols]
  float *gram, *polynomial;  ///< [side, side], of the shorter side
  int64_t side() const { return std::min(matrix->rows, matrix->cols); }
  bool wide() const { return matrix->rows <= matrix->cols; }
};

GemmOperand lines(const float* data, int64_t stride) { return {.data = data, .stride = stride}; }
GemmOperand inner_lines(const float* data, int64_t stride) { return {.data = data, .stride = stride, .inner_lines = true}; }

}  // namespace

void CpuTrainingBackend::muon(std::span<const MuonMatrix> matrices, const Muon& step) {
  constexpr int64_t kGroup = 1 << 20;  // floats that are worked on together: small matrices by the dozen, large ones alone
  for (size_t first = 0; first < matrices.size();) {
    std::vector<Orthogonalised> group;
    int64_t floats = 0;
    for (; first < matrices.size() && (group.empty() || floats < kGroup); ++first) {
      group.push_back({.matrix = &matrices[first]});
      const int64_t side = group.back().side();
      floats += 2 * (matrices[first].rows * matrices[first].cols + side * side);
    }
    float* memory = shared_scratch_.floats(floats);
    const auto take = [&](int64_t n) { return std::exchange(memory, memory + n); };
    for (Orthogonalised& o : group) {
      const int64_t size = o.matrix->rows * o.matrix->cols, square = o.side() * o.side();
      o.x = take(size), o.next = take(size), o.gram = take(square), o.polynomial = take(square);
    }
    const auto each = [&](auto&& body) {
      pool_.parallel_for(static_cast<int64_t>(group.size()), [&](int64_t i, int) { body(group[static_cast<size_t>(i)]); });
    };
    each([&](const Orthogonalised& o) {
      const MuonMatrix& p = *o.matrix;
      const int64_t size = p.rows * p.cols;
      for (int64_t i = 0; i < size; ++i) {
        const float g = step.gradient_scale * p.gradient[i];
        p.m[i] = step.momentum * p.m[i] + g;
        o.x[i] = step.momentum * p.m[i] + g;
      }
      const double norm = std::sqrt(k_.gemm.sum_of_squares(o.x, size));
      k_.gemm.scale(o.x, norm == 0.0 ? 0.0f : static_cast<float>(1.0 / norm), size);  // 0: an expert that nobody chose
    });
    std::vector<GemmTerm> terms(group.size());
    std::vector<GemmJob> jobs(group.size());
    const auto products = [&](auto&& of) {
      for (size_t i = 0; i < group.size(); ++i) {
        jobs[i] = of(group[i], terms[i]);
        jobs[i].terms = {&terms[i], 1};
      }
      gemm(jobs, k_.gemm.f32);
    };
    // X' = (a + b G + c G²) X with G = X Xᵀ, or the same from the other side where there are more rows than columns.
    constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;
    for (int iteration = 0; iteration < 5; ++iteration) {
      products([](const Orthogonalised& o, GemmTerm& term) {
        const int64_t cols = o.matrix->cols, n = o.side();
        term = o.wide() ? GemmTerm{lines(o.x, cols), lines(o.x, cols), cols}
                        : GemmTerm{inner_lines(o.x, cols), inner_lines(o.x, cols), o.matrix->rows};
        return GemmJob{.c = o.gram, .ldc = n, .m = n, .n = n};
      });
      products([](const Orthogonalised& o, GemmTerm& term) {  // G is symmetric
        const int64_t n = o.side();
        term = {lines(o.gram, n), lines(o.gram, n), n};
        return GemmJob{.c = o.polynomial, .ldc = n, .m = n, .n = n};
      });
      each([](const Orthogonalised& o) {
        const int64_t n = o.side();
        for (int64_t i = 0; i < n * n; ++i) o.polynomial[i] = kB * o.gram[i] + kC * o.polynomial[i];
        for (int64_t i = 0; i < n; ++i) o.polynomial[i * n + i] += kA;
      });
      products([](const Orthogonalised& o, GemmTerm& term) {
        const int64_t rows = o.matrix->rows, cols = o.matrix->cols, n = o.side();
        term = o.wide() ? GemmTerm{lines(o.polynomial, n), inner_lines(o.x, cols), n}
                        : GemmTerm{lines(o.x, cols), lines(o.polynomial, n), n};
        return GemmJob{.c = o.next, .ldc = cols, .m = rows, .n = cols};
      });
      for (Orthogonalised& o : group) std::swap(o.x, o.next);
    }
    each([&](const Orthogonalised& o) {
      const MuonMatrix& p = *o.matrix;
      const float rate = step.learning_rate * 0.2f * std::sqrt(static_cast<float>(std::max(p.rows, p.cols)));
      const float keep = 1.0f - step.learning_rate * step.weight_decay;
      for (int64_t i = 0; i < p.rows * p.cols; ++i) p.w[i] = keep * p.w[i] - rate * o.x[i];
    });
  }
}

}  // namespace qnext
