#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace qnext::cli {

std::string format_bytes(int64_t bytes);                 ///< "75.4 MiB"
std::string format_count(int64_t count);                 ///< "262,144"
std::string format_large(int64_t count);                 ///< "79.67 B", "3.2 M"; exact below 10,000
std::string format_rate(int64_t count, double seconds);  ///< "123/s", "4.56/s"

/// Progress of something countable, on stderr: nothing in the first second, then a line that rewrites itself on a
/// terminal, or a plain line every few seconds elsewhere. Erased at the end.
class Progress {
 public:
  Progress(std::string what, std::string unit, bool enabled = true);
  ~Progress() { finish(); }
  void update(int64_t done, int64_t total);
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_, unit_;
  bool enabled_, terminal_, shown_ = false;
  Clock::time_point start_ = Clock::now(), last_{};
};

/// Says on stderr what the program is doing when that takes more than a second.
class Busy {
 public:
  explicit Busy(std::string what, bool enabled = true);
  ~Busy();

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  bool finished_ = false;
  std::thread thread_;
};

/// From now on Ctrl-C sets interrupted() instead of ending the program. Pressed three times without anybody having
/// looked, it ends the program after all.
void catch_interrupts();
std::atomic<bool>& interrupted();
/// While it lives, a Ctrl-C that arrives just before a read begins to wait, and so does not end it, is followed by an
/// alarm every second that does. Look at interrupted() after making one.
class InterruptibleRead {
 public:
  InterruptibleRead();
  ~InterruptibleRead();
  InterruptibleRead(const InterruptibleRead&) = delete;
  InterruptibleRead& operator=(const InterruptibleRead&) = delete;
};
/// Forgets a Ctrl-C that has been acted upon.
void clear_interrupt();

}  // namespace qnext::cli
