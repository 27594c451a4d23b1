#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace qnext {

/// A fixed set of pinned threads for short parallel loops (microseconds each). Workers spin briefly for the next loop,
/// then sleep on a futex. Tasks are taken from one shared counter, so a worker whose CPU the host has taken away
/// delays only the task it holds; one that wakes late finds the loop closed and is not waited for.
///
/// The constructing thread takes part in every loop and must be the one that calls parallel_for; it is pinned to the
/// first allowed CPU until the pool is destroyed.
class ThreadPool {
 public:
  /// threads >= 1, the caller included. More threads than allowed CPUs are left unpinned.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls f(task, thread) once for every task in [0, tasks), thread in [0, size()); returns when all are done.
  /// f must not throw and must not call parallel_for.
  template <typename F>
  void parallel_for(int64_t tasks, F&& f) {
    using Function = std::remove_reference_t<F>;
    run(tasks, [](void* context, int64_t task, int thread) noexcept { (*static_cast<Function*>(context))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using TaskFunction = void (*)(void* context, int64_t task, int thread) noexcept;
  void run(int64_t tasks, TaskFunction function, void* context);
  void take_tasks(int thread);
  void worker(int thread);

  // gate_ holds | loop number : 15 | open : 1 | workers inside : 16 |. A worker enters by incrementing it while the
  // loop is open; the caller closes it and waits until nobody is inside.
  std::atomic<uint32_t> gate_{0};
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<int64_t> next_task_{0};
  alignas(64) int64_t tasks_ = 0;
  TaskFunction function_ = nullptr;
  void* context_ = nullptr;
  std::vector<std::thread> workers_;
  struct SavedAffinity;
  std::unique_ptr<SavedAffinity> saved_affinity_;
};

}  // namespace qnext
