// The kernels on one thread, per instruction set, at the sizes of the 80B model. Each line ends with `of_bound`: the
// fraction of what this machine's memory (reads of 256 MiB) or arithmetic (independent products in registers) gave in
// the same run. The bound of a slower instruction set is its own.
//   qnext_kernels_benchmark [--benchmark_filter=avx512]
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <random>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kernels.h"

namespace qnext {
namespace {

/// Seconds of this thread on a CPU: a neighbour that takes the CPU away is no slowness of the kernel.
double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

std::vector<float> random_floats(int64_t n, float low = -1.0f, float high = 1.0f) {
  std::mt19937 engine(static_cast<uint32_t>(n));
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = uniform(engine);
  return v;
}

/// The best of several rounds: a bound is what the machine can do when nobody disturbs it.
template <typename Body>
double best_seconds(int rounds, Body&& body) {
  double best = 1e30;
  for (int i = 0; i < rounds; ++i) {
    const double begin = thread_seconds();
    body();
    best = std::min(best, thread_seconds() - begin);
  }
  return best;
}

double read_bytes_per_second() {
  static const double value = [] {
    std::vector<uint64_t> memory((256 << 20) / sizeof(uint64_t), 1);
    const double seconds = best_seconds(5, [&] {
      uint64_t sum[8] = {};
      for (size_t i = 0; i < memory.size(); i += 8) {
        for (size_t j = 0; j < 8; ++j) sum[j] += memory[i + j];
      }
      benchmark::DoNotOptimize(sum);
    });
    return static_cast<double>(memory.size() * sizeof(uint64_t)) / seconds;
  }();
  return value;
}

// Ten independent accumulators hide the latency of the fused multiply-add of every x86-64 so far.
// clang-format off
#define QNEXT_PEAK(name, target_set, vector, set1, fma)                                         \
  __attribute__((target(target_set))) void name(int64_t iterations) {                           \
    vector sum[10], factor = set1(0.999f);                                                      \
    for (vector& s : sum) s = set1(1.0f);                                                       \
    for (int64_t i = 0; i < iterations; ++i) {                                                  \
      _Pragma("GCC unroll 10") for (int n = 0; n < 10; ++n) sum[n] = fma(sum[n], factor, factor); \
      _Pragma("GCC unroll 10") for (int n = 0; n < 10; ++n) __asm__ volatile("" : "+v"(sum[n])); \
    }                                                                                           \
  }
// clang-format on
QNEXT_PEAK(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
QNEXT_PEAK(peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)
__attribute__((always_inline)) inline float multiply_add(float a, float b, float c) { return a * b + c; }
QNEXT_PEAK(peak_scalar, "sse2", float, static_cast<float>, multiply_add)

double flops_per_second(Isa isa) {
  static double values[3] = {};
  double& value = values[static_cast<int>(isa)];
  if (value == 0.0) {
    constexpr int64_t kIterations = 5'000'000;
    const double seconds = best_seconds(5, [&] {
      (isa == Isa::kAvx512 ? peak_avx512 : isa == Isa::kAvx2 ? peak_avx2 : peak_scalar)(kIterations);
    });
    const int64_t lanes = isa == Isa::kAvx512 ? 16 : isa == Isa::kAvx2 ? 8 : 1;
    value = static_cast<double>(2 * 10 * lanes * kIterations) / seconds;
  }
  return value;
}

void report_bytes(benchmark::State& state, double bytes, double seconds) {
  const double rate = bytes * static_cast<double>(state.iterations()) / seconds;
  state.counters["GB/s"] = rate * 1e-9;
  state.counters["of_bound"] = rate / read_bytes_per_second();
}
void report_flops(benchmark::State& state, Isa isa, double flops, double seconds) {
  const double rate = flops * static_cast<double>(state.iterations()) / seconds;
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["of_bound"] = rate / flops_per_second(isa);
}

/// Times the loop itself, because counters want the seconds before the library reports them.
template <typename Body>
double timed(benchmark::State& state, Body&& body) {
  const double begin = thread_seconds();
  for (auto _ : state) body();
  return thread_seconds() - begin;
}

void matmul(benchmark::State& state, Isa isa, DType dtype, int64_t tokens) {
  // Decode walks through 256 MiB of weights, as a model would; prefill uses one matrix again and again.
  const int64_t rows = 2048, cols = 2048, bytes = rows * cols * dtype_size(dtype);
  const int64_t matrices = tokens == 1 ? (256 << 20) / bytes : 1;
  std::vector<uint16_t> data(static_cast<size_t>(matrices * bytes) / sizeof(uint16_t), 0x3C3C);
  const std::vector<float> x = random_floats(tokens * cols);
  std::vector<float> y(static_cast<size_t>(tokens * rows)), scratch(static_cast<size_t>(kPanelRows * cols));
  const Kernels& kernels = kernels_for(isa);
  int64_t next = 0;
  const double seconds = timed(state, [&] {
    const Matrix w{.dtype = dtype,
                   .rows = rows,
                   .cols = cols,
                   .data = reinterpret_cast<const std::byte*>(data.data()) + next++ % matrices * bytes};
    for (int64_t r = 0; r < rows; r += kPanelRows) {
      kernels.matmul(x.data(), cols, nullptr, tokens, w, r, r + kPanelRows, y.data(), rows, nullptr, scratch.data());
    }
  });
  if (tokens == 1) {
    report_bytes(state, static_cast<double>(bytes), seconds);
  } else {
    report_flops(state, isa, static_cast<double>(2 * tokens * rows * cols), seconds);
  }
}

void delta_rule(benchmark::State& state, Isa isa, int64_t rows) {
  constexpr int64_t kDim = 128, kHeads = 32;  // the state of one layer: 2 MiB
  std::vector<float> q = random_floats(rows * kDim, -0.1f, 0.1f), k = q, v = random_floats(rows * kDim), out = v;
  const std::vector<float> beta = random_floats(rows, 0.0f, 1.0f), decay = random_floats(rows, -0.1f, 0.0f);
  std::vector<float> memory = random_floats(kHeads * kDim * kDim);
  std::vector<float> scratch(static_cast<size_t>(delta_scratch_floats(kDim, kDim)));
  const Kernels& kernels = kernels_for(isa);
  const double seconds = timed(state, [&] {
    for (int64_t head = 0; head < kHeads; ++head) {
      const DeltaHead h{q.data(),
                        k.data(),
                        kDim,
                        v.data(),
                        out.data(),
                        kDim,
                        kDim,
                        beta.data(),
                        decay.data(),
                        1,
                        kDim,
                        kDim,
                        memory.data() + head * kDim * kDim};
      if (rows == 1) {
        kernels.gated_delta_step(h);
      } else {
        kernels.gated_delta_chunk(h, rows, scratch.data());
      }
    }
  });
  if (rows == 1) {  // reads and writes the state
    report_bytes(state, static_cast<double>(2 * kHeads * kDim * kDim) * sizeof(float), seconds);
  } else {  // five products with [K, V] or [rows, rows] on one side; triangles count half
    const auto n = static_cast<double>(rows), d = static_cast<double>(kDim);
    report_flops(state, isa, kHeads * (3 * 2 * n * d * d + 4 * n * n * d), seconds);
  }
}

void attention(benchmark::State& state, Isa isa, DType dtype, int64_t rows) {
  constexpr int64_t kKeys = 4096, kDim = 256, kGroup = 8;
  const KvLayout layout{dtype, 2, kDim};
  std::vector<std::vector<std::byte>> memory(kKeys / kBlockTokens,
                                             std::vector<std::byte>(static_cast<size_t>(layout.bytes())));
  std::vector<std::byte*> blocks;
  for (auto& block : memory) blocks.push_back(block.data());
  const std::vector<float> token = random_floats(kDim);
  for (int64_t t = 0; t < kKeys; ++t) {
    kv_store(layout, blocks[static_cast<size_t>(t / kBlockTokens)], t % kBlockTokens, 0, token.data(), token.data());
  }
  const std::vector<float> query = random_floats(rows * kGroup * kDim);
  std::vector<const float*> q;
  std::vector<int64_t> position;
  for (int64_t r = 0; r < rows * kGroup; ++r) q.push_back(query.data() + r * kDim), position.push_back(kKeys - 1);
  std::vector<float> m(q.size()), l(q.size()), o(q.size() * kDim), scratch(q.size() * kBlockTokens);
  const Kernels& kernels = kernels_for(isa);
  const double seconds = timed(state, [&] {
    std::fill(m.begin(), m.end(), -INFINITY);
    kernels.attention_span(q.data(), position.data(), static_cast<int64_t>(q.size()), {blocks.data(), 0}, layout, 0,
                           0, kKeys, 0.0625f, {m.data(), l.data(), o.data()}, scratch.data());
  });
  report_flops(state, isa, static_cast<double>(4 * rows * kGroup * kKeys * kDim), seconds);
}

void register_all() {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > detect_isa()) continue;
    const auto add = [&](const std::string& name, auto body) {
      benchmark::RegisterBenchmark(fmt::format("{}/{}", name, isa_name(isa)).c_str(), body);
    };
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
      const auto name = [&](const char* what) { return fmt::format("{}/{}", what, dtype_name(dtype)); };
      add(name("matmul_decode"), [=](benchmark::State& s) { matmul(s, isa, dtype, 1); });
      add(name("matmul_prefill_64"), [=](benchmark::State& s) { matmul(s, isa, dtype, 64); });
    }
    add("gated_delta_step", [=](benchmark::State& s) { delta_rule(s, isa, 1); });
    add("gated_delta_chunk", [=](benchmark::State& s) { delta_rule(s, isa, kBlockTokens); });
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const auto name = [&](const char* what) { return fmt::format("{}/{}", what, dtype_name(dtype)); };
      add(name("attention_decode"), [=](benchmark::State& s) { attention(s, isa, dtype, 1); });
      add(name("attention_prefill_4"), [=](benchmark::State& s) { attention(s, isa, dtype, 4); });
    }
  }
}

}  // namespace
}  // namespace qnext

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  fmt::print("bounds of one thread: read {:.1f} GB/s", qnext::read_bytes_per_second() * 1e-9);
  for (const qnext::Isa isa : {qnext::Isa::kScalar, qnext::Isa::kAvx2, qnext::Isa::kAvx512}) {
    if (isa <= qnext::detect_isa())
      fmt::print(", {} {:.0f} GFLOP/s", isa_name(isa), qnext::flops_per_second(isa) * 1e-9);
  }
  fmt::print("\n");
  std::fflush(stdout);
  qnext::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
