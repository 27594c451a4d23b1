// The products of training, in GFLOP/s and as a fraction of the multiply-adds in registers that the same threads gave
// in the same run: dense products, experts of the sizes of small models, the loss, and the optimiser in GB/s. Each
// figure is the best of many rounds; one thread is timed by its own clock.
//   qnext_training_benchmark [threads] [isa] [part of a name]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/roof.h"
#include "backend/cpu/training_backend.h"

namespace qnext {
namespace {

using MlpGradient = TrainingBackend::MlpGradient;

std::vector<float> random_floats(int64_t n, float size = 1.0f) {
  std::mt19937 engine(static_cast<uint32_t>(n));
  std::uniform_real_distribution<float> uniform(-size, size);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = uniform(engine);
  return v;
}

Rows rows_of(std::vector<float>& v, int64_t rows) {
  const int64_t cols = static_cast<int64_t>(v.size()) / rows;
  return {v.data(), rows, cols, cols};
}
Matrix matrix_of(const std::vector<float>& v, int64_t rows) {
  return {.dtype = DType::kF32,
          .rows = rows,
          .cols = static_cast<int64_t>(v.size()) / rows,
          .data = reinterpret_cast<const std::byte*>(v.data())};
}

class Bench {
 public:
  Bench(int threads, Isa isa, std::string filter)
      : threads_(threads),
        filter_(std::move(filter)),
        backend_(make_cpu_training_backend(threads, isa)),
        peak_(measure_roof(threads, isa).f32_flops_per_second) {
    fmt::print("{} thread(s), {}: {:.1f} GFLOP/s in registers\n", threads, isa_name(isa), peak_ * 1e-9);
  }

  bool wants(const std::string& what) const { return what.find(filter_) != std::string::npos; }
  TrainingBackend& backend() { return *backend_; }
  void flops(const std::string& what, double flops, const std::function<void()>& body) {
    if (!wants(what)) return;
    const double rate = flops / best(body);
    fmt::print("{:62} {:7.1f} GFLOP/s {:5.1f} %\n", what, rate * 1e-9, 100 * rate / peak_);
  }
  void bytes(const std::string& what, double bytes, const std::function<void()>& body) {
    if (!wants(what)) return;
    fmt::print("{:62} {:7.1f} GB/s\n", what, bytes / best(body) * 1e-9);
  }

 private:
  double now() const {
    timespec t;
    clock_gettime(threads_ == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  }
  double best(const std::function<void()>& body) {
    double least = 1e30;
    const double start = now();
    for (int i = 0; i < 3 || (i < 2000 && now() - start < 1.0); ++i) {
      const double begin = now();
      body();
      least = std::min(least, now() - begin);
    }
    return least;
  }

  int threads_;
  std::string filter_;
  std::unique_ptr<TrainingBackend> backend_;
  double peak_;
};

void linear(Bench& bench, int64_t rows, int64_t n, int64_t cols) {
  auto x = random_floats(rows * cols), w = random_floats(n * cols), d_y = random_floats(rows * n);
  std::vector<float> y(d_y.size()), d_x(x.size()), d_w(w.size());
  const Matrix matrix = matrix_of(w, n);
  const double flops = 2.0 * static_cast<double>(rows * n * cols);
  const std::string shape = fmt::format("{} rows, [{}, {}]", rows, n, cols);
  bench.flops("linear " + shape, flops, [&] { bench.backend().linear(rows_of(x, rows), matrix, rows_of(y, rows)); });
  const TrainingBackend::LinearGradient gradient{&matrix, rows_of(d_y, rows), {d_w.data(), nullptr}};
  bench.flops("linear_backward " + shape, 2 * flops,
              [&] { bench.backend().linear_backward(rows_of(x, rows), {&gradient, 1}, rows_of(d_x, rows)); });
}

void experts(Bench& bench, int64_t rows, int64_t width, int64_t inner, int64_t experts, int64_t k) {
  const std::string shape = fmt::format("{} rows of {}, {} of {} experts of {}", rows, width, k, experts, inner);
  if (!bench.wants("experts " + shape) && !bench.wants("experts_backward " + shape)) return;
  auto x = random_floats(rows * width), d_y = random_floats(rows * width), factors = random_floats(rows * k);
  std::vector<std::vector<float>> memory, d_memory;
  std::vector<MlpWeights> weights;
  std::vector<MlpGradient> gradients;
  for (int64_t e = 0; e < experts; ++e) {
    for (int i = 0; i < 3; ++i) {
      memory.push_back(random_floats(width * inner, 0.1f));
      d_memory.emplace_back(static_cast<size_t>(width * inner));
    }
    const auto* w = &memory[memory.size() - 3];
    weights.push_back({matrix_of(w[0], inner), matrix_of(w[1], inner), matrix_of(w[2], width)});
    auto* d = &d_memory[memory.size() - 3];
    gradients.push_back({{d[0].data(), nullptr}, {d[1].data(), nullptr}, {d[2].data(), nullptr}});
  }
  std::mt19937 engine(1);
  std::vector<int32_t> chosen, order(static_cast<size_t>(experts));
  for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
  for (int64_t t = 0; t < rows; ++t) {
    std::shuffle(order.begin(), order.end(), engine);
    chosen.insert(chosen.end(), order.begin(), order.begin() + k);
  }
  std::vector<float> y(x.size()), d_x(x.size()), hidden(static_cast<size_t>(rows * k * inner)),
      out(static_cast<size_t>(rows * k * width)), d_factors(factors.size());
  const double flops = 6.0 * static_cast<double>(rows * k * width * inner);
  bench.flops("experts " + shape, flops, [&] {
    bench.backend().experts(rows_of(x, rows), weights, k, chosen.data(), factors.data(), rows_of(hidden, rows * k),
                            rows_of(out, rows * k), rows_of(y, rows));
  });
  // Two recomputed products, three of the gradients of activations, three of the weights'.
  bench.flops("experts_backward " + shape, flops / 3 * 8, [&] {
    bench.backend().experts_backward(rows_of(x, rows), weights, k, chosen.data(), factors.data(), rows_of(d_y, rows),
                                     rows_of(d_x, rows), d_factors.data(), gradients);
  });
}

void cross_entropy(Bench& bench, int64_t rows, int64_t width, int64_t vocabulary) {
  const std::string what = fmt::format("cross_entropy {} rows of {}, {} tokens", rows, width, vocabulary);
  if (!bench.wants(what)) return;
  auto x = random_floats(rows * width), head = random_floats(vocabulary * width, 0.1f);
  std::vector<float> d_x(x.size()), d_head(head.size());
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < rows; ++t) targets.push_back(static_cast<int32_t>(t * 7919 % vocabulary));
  bench.flops(what, 6.0 * static_cast<double>(rows * width * vocabulary), [&] {
    bench.backend().cross_entropy(rows_of(x, rows), matrix_of(head, vocabulary), targets, 1.0f, rows_of(d_x, rows),
                                  d_head.data(), {});
  });
}

void optimiser(Bench& bench) {
  if (!bench.wants("adamw") && !bench.wants("sum_of_squares")) return;
  constexpr int64_t kSize = 8 << 20;
  auto w = random_floats(kSize), g = random_floats(kSize);
  std::vector<float> m(w.size()), v(w.size());
  bench.bytes("adamw", 28.0 * kSize,
              [&] { bench.backend().adamw(w, g, m, v, {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, 0.5f, 1.0f}); });
  bench.bytes("sum_of_squares", 4.0 * kSize, [&] { bench.backend().sum_of_squares(g); });
}

void muon(Bench& bench, int64_t count, int64_t rows, int64_t cols) {
  const std::string what = fmt::format("muon, {} of [{}, {}]", count, rows, cols);
  if (!bench.wants(what)) return;
  auto w = random_floats(count * rows * cols), g = random_floats(count * rows * cols);
  std::vector<float> m(w.size());
  std::vector<TrainingBackend::MuonMatrix> matrices;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = i * rows * cols;
    matrices.push_back({w.data() + at, g.data() + at, m.data() + at, rows, cols});
  }
  // Five steps: x xᵀ, its square, and their sum times x, over the shorter side.
  const double narrow = static_cast<double>(std::min(rows, cols)), wide = static_cast<double>(std::max(rows, cols));
  bench.flops(what, static_cast<double>(5 * count) * (4 * narrow * narrow * wide + 2 * narrow * narrow * narrow),
              [&] { bench.backend().muon(matrices, {}); });
}

}  // namespace
}  // namespace qnext

int main(int argc, char** argv) {
  using namespace qnext;
  const Isa isa = argc > 2 ? isa_from_name(argv[2]).value_or(detect_isa()) : detect_isa();
  Bench bench(argc > 1 ? std::atoi(argv[1]) : 1, isa, argc > 3 ? argv[3] : "");
  for (const int64_t width : {256, 1024}) linear(bench, width, width, width);
  linear(bench, 4096, 256, 256);
  linear(bench, 4096, 1024, 1024);
  linear(bench, 4096, 32, 256);
  experts(bench, 512, 256, 64, 64, 4);
  experts(bench, 2048, 256, 32, 128, 8);
  experts(bench, 4096, 256, 64, 64, 4);
  experts(bench, 4096, 256, 128, 64, 8);
  cross_entropy(bench, 1024, 256, 8192);
  cross_entropy(bench, 256, 256, 151936);
  optimiser(bench);
  muon(bench, 512, 32, 256);
  muon(bench, 8, 256, 256);
}
