// Products with weights of block types, per type and instruction set, on one thread, at the sizes of the 80B model.
// Few tokens: GB/s of weights, beside reads of 512 MiB; many: 10^9 operations per second (2 per weight and token),
// beside the byte products that registers alone give. Figures and bounds are the best of rounds that alternate, in
// CPU time of the thread: what the machine can do when nobody disturbs it.
//   qnext_quant_benchmark [ISA [TYPE]]
#if !defined(__clang__)
// g++ 12 warns of the deliberately undefined vectors inside its own intrinsics.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <fmt/format.h>
#include <immintrin.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <random>
#include <string_view>
#include <vector>

#include "backend/cpu/quant_kernels.h"

namespace qnext {
namespace {

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}
template <typename Body>
double seconds_of(Body&& body) {
  const double begin = thread_seconds();
  body();
  return thread_seconds() - begin;
}

constexpr int64_t kMemory = 512 << 20;
volatile int64_t sink;  // NOLINT: keeps results alive

double read_seconds(const std::vector<std::byte>& memory) {
  return seconds_of([&] {
    const auto* words = reinterpret_cast<const uint64_t*>(memory.data());
    uint64_t sum[8] = {};
    for (int64_t i = 0; i < kMemory / 8; i += 8) {
      for (int64_t j = 0; j < 8; ++j) sum[j] += words[i + j];
    }
    for (const uint64_t s : sum) sink = sink + static_cast<int64_t>(s);
  });
}

/// 2^18 times 12 independent byte products of 64 (VNNI) or 32 bytes.
constexpr int64_t kPeakRounds = 1 << 18;
__attribute__((target("avx512f,avx512bw,avx512vnni"))) void peak_avx512() {
  __m512i sum[12];
  QNEXT_UNROLL
  for (int i = 0; i < 12; ++i) sum[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int64_t r = 0; r < kPeakRounds; ++r) {
    QNEXT_UNROLL
    for (int i = 0; i < 12; ++i) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
      __asm__ volatile("" : "+v"(sum[i]));
    }
  }
  QNEXT_UNROLL
  for (int i = 0; i < 12; ++i) sink = sink + _mm512_reduce_add_epi32(sum[i]);
}
__attribute__((target("avx2"))) void peak_avx2() {
  __m256i sum[12];
  QNEXT_UNROLL
  for (int i = 0; i < 12; ++i) sum[i] = _mm256_set1_epi32(i);
  const __m256i b = _mm256_set1_epi8(5);
  for (int64_t r = 0; r < kPeakRounds; ++r) {
    QNEXT_UNROLL
    for (int i = 0; i < 12; ++i) {
      sum[i] = _mm256_maddubs_epi16(sum[i], b);
      __asm__ volatile("" : "+x"(sum[i]));
    }
  }
  QNEXT_UNROLL
  for (int i = 0; i < 12; ++i) sink = sink + _mm256_extract_epi32(sum[i], 0);
}

std::vector<std::byte> random_blocks(DType dtype, int64_t bytes) {
  std::vector<std::byte> data(static_cast<size_t>(bytes));
  std::mt19937_64 engine(1);
  for (size_t i = 0; i + 8 <= data.size(); i += 8) {
    const uint64_t bits = engine();
    std::memcpy(&data[i], &bits, 8);
  }
  for (int64_t at = 0; at + block_bytes(dtype) <= bytes; at += block_bytes(dtype)) {
    const uint16_t half = 0x2400;
    if (dtype == DType::kMXFP4) {
      data[static_cast<size_t>(at)] = std::byte{124};
      continue;
    }
    const int64_t d = dtype == DType::kQ2_K ? 80 : dtype == DType::kQ3_K ? 108 : dtype == DType::kQ6_K ? 208 : 0;
    std::memcpy(&data[static_cast<size_t>(at + d)], &half, 2);
    if (has_minima(dtype)) std::memcpy(&data[static_cast<size_t>(at + d + 2)], &half, 2);
  }
  return data;
}

struct Case {
  const char* name;
  int64_t tokens, rows, cols, panel;
  double best = 1e30;
};

void run(Isa isa, std::string_view only) {
  const QuantKernels& kernels = quant_kernels_for(isa);
  if (kernels.isa != isa) return;
  for (const DType dtype : kAllDTypes) {
    if (!is_block_type(dtype) || (!only.empty() && only != dtype_name(dtype))) continue;
    const std::vector<std::byte> memory = random_blocks(dtype, kMemory);
    Case cases[] = {{"1", 1, 12288, 2048, 128},     {"2", 2, 12288, 2048, 128},       {"4", 4, 12288, 2048, 128},
                    {"8", 8, 12288, 2048, 32},      {"64", 64, 2048, 2048, 32},       {"256", 256, 512, 2048, 32},
                    {"up 10", 10, 512, 2048, 32},   {"up 40", 40, 512, 2048, 32},     {"down 10", 10, 2048, 512, 32},
                    {"down 40", 40, 2048, 512, 32}, {"1 in cache", 1, 128, 2048, 128}};
    double read = 1e30, peak = 1e30;
    size_t next = 0;
    for (int round = 0; round < 7; ++round) {
      read = std::min(read, read_seconds(memory));
      peak = std::min(peak, seconds_of(isa == Isa::kAvx512 ? peak_avx512 : peak_avx2));
      for (Case& c : cases) {
        const int64_t bytes = c.rows * bytes_of(dtype, c.cols), matrices = std::max<int64_t>(1, kMemory / bytes - 1);
        const bool cached = c.rows == 128;
        const int64_t repeats = cached ? 200 : std::max<int64_t>(1, (200 << 20) / (bytes * c.tokens));
        std::vector<float> x(static_cast<size_t>(c.tokens * c.cols)), y(static_cast<size_t>(c.tokens * c.rows));
        std::mt19937 engine(2);
        for (float& v : x) v = static_cast<float>(engine()) * 0x1p-31f - 1.0f;
        const int64_t units = (c.cols + 255) / 256;
        std::vector<QuantUnit> rounded(static_cast<size_t>(units * c.tokens));
        for (int64_t t = 0; t < c.tokens; ++t) {
          kernels.round_row(x.data() + t * c.cols, c.cols, scale_group(dtype), rounded.data() + t, c.tokens);
        }
        std::vector<QuantUnit> scratch(static_cast<size_t>(quant_scratch_bytes(c.tokens, c.panel)) / sizeof(QuantUnit) + 1);
        const double seconds = seconds_of([&] {
          for (int64_t i = 0; i < repeats; ++i) {
            const std::byte* data = memory.data() + (cached ? 0 : static_cast<int64_t>(next++) % matrices * bytes);
            const Matrix w{.dtype = dtype, .rows = c.rows, .cols = c.cols, .data = data};
            for (int64_t r = 0; r < c.rows; r += c.panel) {
              kernels.matmul({rounded.data(), c.tokens, c.cols}, nullptr, c.tokens, w, r,
                             std::min(c.rows, r + c.panel), y.data(), c.rows, nullptr,
                             reinterpret_cast<std::byte*>(scratch.data()));
            }
          }
        });
        c.best = std::min(c.best, seconds / static_cast<double>(repeats));
      }
    }
    const double read_rate = static_cast<double>(kMemory) / read * 1e-9;
    const double peak_rate = 2.0 * 12 * (isa == Isa::kAvx512 ? 64 : 32) * kPeakRounds / peak * 1e-9;
    fmt::print("{:7} {:7} read {:5.1f} GB/s, peak {:5.0f} GOP/s |", isa_name(isa), dtype_name(dtype), read_rate,
               peak_rate);
    for (const Case& c : cases) {
      const double rate = static_cast<double>(c.rows * bytes_of(dtype, c.cols)) / c.best * 1e-9;
      const double operations = 2.0 * static_cast<double>(c.tokens * c.rows * c.cols) / c.best * 1e-9;
      if (c.tokens <= 8) fmt::print(" {}: {:.1f} GB/s ({:.0f} %)", c.name, rate, 100 * rate / read_rate);
      if (c.tokens >= 8) fmt::print(" {}: {:.0f} ({:.0f} %)", c.name, operations, 100 * operations / peak_rate);
    }
    fmt::print("\n");
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace qnext

int main(int argc, char** argv) {
  const std::string_view isa = argc > 1 ? argv[1] : "", type = argc > 2 ? argv[2] : "";
  for (const qnext::Isa i : {qnext::Isa::kAvx512, qnext::Isa::kAvx2}) {
    if (i <= qnext::detect_isa() && (isa.empty() || isa == qnext::isa_name(i))) qnext::run(i, type);
  }
}
