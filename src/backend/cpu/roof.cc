#include "backend/cpu/roof.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "backend/cpu/roof_loops.h"
#include "base/error.h"

namespace qnext {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_between(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double>(b - a).count(); }

/// f(thread) on `threads` threads, pinned as a ThreadPool pins its own, begun together; the seconds until all are done.
double run_pinned(int threads, const std::function<void(int)>& f) {
  const std::vector<int>& cpus = allowed_cpus();
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<Clock::time_point> ends(static_cast<size_t>(threads));
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&, t] {
      if (threads <= static_cast<int>(cpus.size())) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpus[static_cast<size_t>(t)], &set);
        pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
      }
      ready.fetch_add(1);
      while (!go.load()) std::this_thread::yield();
      f(t);
      ends[static_cast<size_t>(t)] = Clock::now();
    });
  }
  while (ready.load() < threads) std::this_thread::yield();
  const Clock::time_point start = Clock::now();
  go.store(true);
  for (std::thread& worker : workers) worker.join();
  return seconds_between(start, *std::max_element(ends.begin(), ends.end()));
}

double arithmetic(int threads, double (*loop)(int64_t), int64_t ops_of_step, int64_t rounds = 1 << 20) {
  std::atomic<double> sink{0};
  double best = 0;
  for (int attempt = 0; attempt < 20; ++attempt) {
    const double seconds = run_pinned(threads, [&](int) { sink.store(loop(rounds)); });
    best = std::max(best, static_cast<double>(threads) * static_cast<double>(rounds * kRoofChains * ops_of_step) / seconds);
  }
  return best;
}

double read_bandwidth(int threads) {
  constexpr size_t kBytes = size_t{256} << 20, kStreams = 4;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw Error("not enough memory to measure its speed");
  madvise(memory, kBytes, MADV_HUGEPAGE);  // the memory's own speed, not that of translating addresses
  std::memset(memory, 1, kBytes);
  const size_t lines = kBytes / 64 / static_cast<size_t>(threads) / kStreams;  // of one stream
  std::atomic<uint64_t> sink{0};
  double best = 0;
  for (int attempt = 0; attempt < 12; ++attempt) {
    const double seconds = run_pinned(threads, [&](int t) {
      // Streams far apart, one word of every line: what limits is the lines' way from memory.
      const char* base = static_cast<const char*>(memory) + static_cast<size_t>(t) * lines * kStreams * 64;
      std::array<uint64_t, kStreams> sums{};
      for (size_t i = 0; i < lines; ++i) {
        for (size_t s = 0; s < kStreams; ++s) {
          uint64_t word;
          std::memcpy(&word, base + (s * lines + i) * 64, sizeof(word));
          sums[s] += word;
        }
      }
      for (const uint64_t sum : sums) sink += sum;
    });
    best = std::max(best, static_cast<double>(lines * kStreams * 64) * threads / seconds);
  }
  munmap(memory, kBytes);
  return best;
}

}  // namespace

Roof measure_roof(int threads, Isa isa) {
  Roof roof;
  roof.read_bytes_per_second = read_bandwidth(threads);
  __builtin_cpu_init();
  if (isa >= Isa::kAvx512) {
    roof.f32_flops_per_second = arithmetic(threads, roof_f32_avx512, 2 * 16);
    if (__builtin_cpu_supports("avx512vnni")) roof.int8_ops_per_second = arithmetic(threads, roof_int8_avx512, 2 * 64);
  } else if (isa == Isa::kAvx2) {
    roof.f32_flops_per_second = arithmetic(threads, roof_f32_avx2, 2 * 8);
  } else {
    roof.f32_flops_per_second = arithmetic(threads, roof_f32_scalar, 2 * 4);
  }
  if (isa != Isa::kScalar) {  // AVX-512 without VNNI still has AVX2's way
    roof.int8_ops_per_second = std::max(roof.int8_ops_per_second, arithmetic(threads, roof_int8_avx2, 2 * 32));
  }
  return roof;
}

double measure_bf16_flops(int threads, Bf16 unit) {
  if (unit == Bf16::kAvx512) return arithmetic(threads, roof_bf16_avx512, 2 * 32);
  QNEXT_CHECK(unit == Bf16::kAmx, "no instructions for bf16");
  return arithmetic(threads, roof_bf16_amx, 2 * 16 * 16 * 32, 1 << 16);  // a step takes some 16 cycles, not one
}

double delivered_cpu(int threads, double seconds) {
  constexpr double kGap = 20e-6;  // looks at the clock are some tens of nanoseconds apart
  std::vector<double> lost(static_cast<size_t>(threads));
  run_pinned(threads, [&](int t) {
    const Clock::time_point start = Clock::now();
    Clock::time_point last = start;
    while (seconds_between(start, last) < seconds) {
      const Clock::time_point now = Clock::now();
      const double gap = seconds_between(last, now);
      if (gap > kGap) lost[static_cast<size_t>(t)] += gap;
      last = now;
    }
    lost[static_cast<size_t>(t)] /= std::max(seconds, seconds_between(start, last));
  });
  return 1 - *std::max_element(lost.begin(), lost.end());
}

}  // namespace qnext
