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
    const double seconds = best_seconds(20, [&] {
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
    _Pragma("GCC unroll 10") for (int n = 0; n < 10; ++n) sum[n] = set1(1.0f);                  \
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
    constexpr int64_t kIterations = 100'000;  // a fraction of a millisecond: some rounds are undisturbed
    const double seconds = best_seconds(300, [&] {
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

/// Seconds of all iterations, each taken to be as fast as the fastest: bounds are measured at their best as well, and the host
/// takes the CPU away for milliseconds without telling the clock.
template <typename Body>
double timed(benchmark::State& state, Body&& body) {
  double best = 1e30;
  for (auto _ : state) {
    const double begin = thread_seconds();
    body();
    best = std::min(best, thread_seconds() - begin);
  }
  return best * static_cast<double>(state.iterations());
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

// Attention, delta rule, convolution and routing through the backend's operations on one thread, with the 80B's widths:
// q, k and v of a DeltaNet layer are columns of rows of 8,192 floats.
constexpr int64_t kKeyHeads = 16, kValueHeads = 32, kDim = 128, kChannels = (2 * kKeyHeads + kValueHeads) * kDim;

struct Table {
  Table(int64_t rows, int64_t cols, float low = -1.0f, float high = 1.0f)  // apart as in an Arena
      : data(random_floats(rows * (cols + 16), low, high)), view{data.data(), rows, cols, cols + 16} {}
  std::vector<float> data;
  Rows view;
};

/// Every kernel of a DeltaNet layer between its matrix products, `rows` tokens of one sequence at a time; single tokens walk
/// through 32 layers' states, as a model would.
void delta_rule(benchmark::State& state, Isa isa, int64_t rows) {
  constexpr DeltaShape kShape{kKeyHeads, kValueHeads, kDim, kDim};
  constexpr int64_t kState = kValueHeads * kDim * kDim;
  const int64_t layers = rows == 1 ? 32 : 1;
  Table qkv(rows, kChannels, -0.1f, 0.1f), out(rows, kValueHeads * kDim);
  Table beta(rows, kValueHeads, 0.0f, 1.0f), decay(rows, kValueHeads, -0.1f, 0.0f);
  std::vector<float> memory = random_floats(layers * kState);
  const auto backend = make_cpu_backend(1, isa);
  int64_t layer = 0;
  const double seconds = timed(state, [&] {
    const DeltaSegment segment{0, rows, 0, memory.data() + layer++ % layers * kState};
    backend->gated_delta_rule({&segment, 1}, kShape, qkv.view.columns(0, kKeyHeads * kDim),
                              qkv.view.columns(kKeyHeads * kDim, kKeyHeads * kDim),
                              qkv.view.columns(2 * kKeyHeads * kDim, kValueHeads * kDim), beta.view, decay.view, out.view);
  });
  if (rows == 1) {  // reads and writes the state
    report_bytes(state, static_cast<double>(2 * kState) * sizeof(float), seconds);
  } else {  // per chunk and head three products with [K, V], and four triangles of [64, 64] with K or V
    const double c = kBlockTokens, d = kDim;
    report_flops(state, isa, static_cast<double>(rows / kBlockTokens) * kValueHeads * (3 * 2 * c * d * d + 4 * c * c * d),
                 seconds);
  }
}

void attention(benchmark::State& state, Isa isa, DType dtype, int64_t rows, int64_t keys) {
  constexpr int64_t kHeads = 16, kKvHeads = 2, kHeadDim = 256;
  const KvLayout layout{dtype, kKvHeads, kHeadDim};
  const auto backend = make_cpu_backend(1, isa);
  const Buffer memory = backend->allocate(keys / kBlockTokens * layout.bytes());
  std::vector<std::byte*> blocks;
  for (int64_t t = 0; t < keys; t += kBlockTokens) blocks.push_back(memory.data() + t / kBlockTokens * layout.bytes());
  Table block(kBlockTokens, kKvHeads * kHeadDim), q(rows, kHeads * kHeadDim), gate = q, out = q;
  gate.view.data = gate.data.data();
  out.view.data = out.data.data();
  for (int64_t t = 0; t < keys; t += kBlockTokens) {
    const AttentionSegment piece{0, kBlockTokens, t, {blocks.data(), 0}};
    backend->kv_append({&piece, 1}, layout, block.view, block.view);
  }
  const AttentionSegment segment{0, rows, keys - rows, {blocks.data(), 0}};
  const double seconds =
      timed(state, [&] { backend->gated_attention({&segment, 1}, layout, q.view, gate.view, out.view, {}); });
  if (rows == 1) {
    report_bytes(state, static_cast<double>(keys / kBlockTokens * layout.bytes()), seconds);
  } else {
    const double visible = static_cast<double>(keys - rows) + static_cast<double>(rows + 1) / 2;
    report_flops(state, isa, static_cast<double>(4 * rows * kHeads * kHeadDim) * visible, seconds);
  }
}

void report_per_token(benchmark::State& state, int64_t rows, double seconds) {
  state.counters["us/token"] = seconds * 1e6 / static_cast<double>(state.iterations() * rows);
}

void convolution(benchmark::State& state, Isa isa, int64_t rows) {
  Table x(rows, kChannels), taps(4, kChannels);
  std::vector<float> memory = random_floats(3 * kChannels);
  const auto backend = make_cpu_backend(1, isa);
  const double seconds = timed(state, [&] {
    const ConvSegment segment{0, rows, memory.data()};
    const UnitNorm norms[] = {{0, kKeyHeads * kDim, kDim, 0.088f}, {kKeyHeads * kDim, 2 * kKeyHeads * kDim, kDim, 1.0f}};
    backend->causal_conv1d_silu({&segment, 1}, x.view, {taps.data.data(), 4 * kChannels}, 4, norms, x.view);
  });
  report_per_token(state, rows, seconds);
}

void route(benchmark::State& state, Isa isa, int64_t rows) {
  Table logits(rows, 512);
  std::vector<int32_t> experts(static_cast<size_t>(rows * 10));
  std::vector<float> weights(static_cast<size_t>(rows * 10));
  const auto backend = make_cpu_backend(1, isa);
  const double seconds = timed(state, [&] { backend->route(logits.view, 10, true, experts.data(), weights.data()); });
  report_per_token(state, rows, seconds);
}

void register_all() {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
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
    add("gated_delta_chunk", [=](benchmark::State& s) { delta_rule(s, isa, 2 * kBlockTokens); });
    for (const int64_t rows : {1, 512}) {
      add(fmt::format("conv_silu_l2_norm/{}", rows), [=](benchmark::State& s) { convolution(s, isa, rows); });
      add(fmt::format("route_10_of_512/{}", rows), [=](benchmark::State& s) { route(s, isa, rows); });
    }
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
      for (const int64_t keys : {4096, 32768, 262144}) {
        const auto name = [&](const char* what) { return fmt::format("{}/{}/{}K", what, dtype_name(dtype), keys >> 10); };
        add(name("attention_decode"), [=](benchmark::State& s) { attention(s, isa, dtype, 1, keys); });
        if (keys <= 32768) add(name("attention_prefill"), [=](benchmark::State& s) { attention(s, isa, dtype, 32, keys); });
      }
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
