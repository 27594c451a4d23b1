#include "base/thread_pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <chrono>

#include "base/cpu.h"
#include "base/error.h"

namespace qnext {

namespace {
constexpr uint32_t kOpen = 1u << 16;
constexpr uint32_t kInside = 0xFFFF;
constexpr uint32_t kLoopStep = 1u << 17;
/// How long a worker spins for the next loop before it sleeps; between two layers it is a few microseconds.
constexpr auto kSpin = std::chrono::microseconds(60);

void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // best effort: an unpinned thread is only slower
}
}  // namespace

struct ThreadPool::SavedAffinity {
  cpu_set_t set;
};

ThreadPool::ThreadPool(int threads) {
  QNEXT_CHECK(threads >= 1 && threads < static_cast<int>(kInside), "{} threads", threads);
  const std::vector<int>& cpus = allowed_cpus();
  const bool pin = threads > 1 && threads <= static_cast<int>(cpus.size());
  if (pin) {
    saved_affinity_ = std::make_unique<SavedAffinity>();
    pthread_getaffinity_np(pthread_self(), sizeof saved_affinity_->set, &saved_affinity_->set);
    pin_to(cpus[0]);
  }
  for (int i = 1; i < threads; ++i) {
    workers_.emplace_back([this, i, cpu = pin ? cpus[static_cast<size_t>(i)] : -1] {
      if (cpu >= 0) pin_to(cpu);
      worker(i);
    });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  gate_.fetch_add(kLoopStep);
  gate_.notify_all();
  for (std::thread& thread : workers_) thread.join();
  if (saved_affinity_) pthread_setaffinity_np(pthread_self(), sizeof saved_affinity_->set, &saved_affinity_->set);
}

void ThreadPool::run(int64_t tasks, TaskFunction function, void* context) {
  if (workers_.empty() || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) function(context, task, 0);
    return;
  }
  // Nobody is inside (the previous loop waited for that), so the fields are this thread's alone until the gate opens.
  tasks_ = tasks;
  function_ = function;
  context_ = context;
  next_task_.store(0, std::memory_order_relaxed);
  gate_.store((gate_.load(std::memory_order_relaxed) & ~(kOpen | kInside)) + kLoopStep + kOpen, std::memory_order_release);
  gate_.notify_all();
  take_tasks(0);
  uint32_t gate = gate_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  while ((gate & kInside) != 0) {
    _mm_pause();
    gate = gate_.load(std::memory_order_acquire);
  }
}

void ThreadPool::take_tasks(int thread) {
  for (;;) {
    const int64_t task = next_task_.fetch_add(1, std::memory_order_relaxed);
    if (task >= tasks_) return;
    function_(context_, task, thread);
  }
}

void ThreadPool::worker(int thread) {
  uint32_t done_loop = 0;
  for (;;) {
    const auto spin_until = std::chrono::steady_clock::now() + kSpin;
    uint32_t gate = gate_.load(std::memory_order_acquire);
    for (int i = 1; (gate & kOpen) == 0 || (gate & ~(kOpen | kInside)) == done_loop; ++i) {
      if (stop_.load(std::memory_order_relaxed)) return;
      if (i % 64 == 0 && std::chrono::steady_clock::now() > spin_until) {
        gate_.wait(gate, std::memory_order_acquire);
      } else {
        _mm_pause();
      }
      gate = gate_.load(std::memory_order_acquire);
    }
    // Enter, unless the loop was closed meanwhile.
    if (!gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) continue;
    done_loop = gate & ~(kOpen | kInside);
    take_tasks(thread);
    gate_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace qnext
