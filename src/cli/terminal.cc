#include "cli/terminal.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>

namespace qnext::cli {

std::string format_bytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 6) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string format_count(int64_t count) {
  std::string digits = fmt::format("{}", count);
  for (auto i = static_cast<int64_t>(digits.size()) - 3; i > (count < 0 ? 1 : 0); i -= 3) digits.insert(i, ",");
  return digits;
}

std::string format_large(int64_t count) {
  const auto value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{:.2f} B", value / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.2f} M", value / 1e6);
  if (count >= 10'000) return fmt::format("{:.1f} K", value / 1e3);
  return fmt::format("{}", count);
}

std::string format_rate(int64_t count, double seconds) {
  if (seconds <= 0) return "-/s";
  const double rate = static_cast<double>(count) / seconds;
  return rate >= 100 ? fmt::format("{:.0f}/s", rate) : fmt::format("{:.3g}/s", rate);
}

Progress::Progress(std::string what, std::string unit, bool enabled)
    : what_(std::move(what)), unit_(std::move(unit)), enabled_(enabled), terminal_(isatty(STDERR_FILENO) == 1) {}

void Progress::update(int64_t done, int64_t total) {
  if (!enabled_) return;
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double pause = std::chrono::duration<double>(now - last_).count();
  if (seconds < 1 || pause < (terminal_ ? 0.1 : 5.0)) return;
  last_ = now;
  shown_ = true;
  const double fraction = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  const std::string left =
      fraction > 0 ? fmt::format(", {:.0f} s left", seconds / fraction - seconds) : std::string();
  fmt::print(stderr, "{}{}: {} of {} {} ({:.0f} %), {}{}{}", terminal_ ? "\r\x1b[K" : "", what_, format_count(done),
             format_count(total), unit_, 100 * fraction, format_rate(done, seconds), left, terminal_ ? "" : "\n");
  std::fflush(stderr);
}

void Progress::finish() {
  if (shown_ && terminal_) {
    fmt::print(stderr, "\r\x1b[K");
    std::fflush(stderr);
  }
  shown_ = false;
}

Busy::Busy(std::string what, bool enabled) {
  if (!enabled) return;
  thread_ = std::thread([this, what = std::move(what)] {
    const bool terminal = isatty(STDERR_FILENO) == 1;
    std::unique_lock lock(mutex_);
    if (done_.wait_for(lock, std::chrono::seconds(1), [this] { return finished_; })) return;
    fmt::print(stderr, "{} ...{}", what, terminal ? "" : "\n");
    std::fflush(stderr);
    done_.wait(lock, [this] { return finished_; });
    if (terminal) fmt::print(stderr, "\r\x1b[K");
  });
}

Busy::~Busy() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    finished_ = true;
  }
  done_.notify_one();
  thread_.join();
}

namespace {

constexpr int kPressesToEnd = 3;
std::atomic<bool> interrupt_flag = false;
std::atomic<int> presses = 0;
std::atomic<bool> waiting_for_a_line = false;
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void on_interrupt(int signal_number) {
  interrupt_flag.store(true);
  if (waiting_for_a_line.load()) alarm(1);
  if (presses.fetch_add(1) + 1 < kPressesToEnd) return;
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void on_alarm(int) {
  if (waiting_for_a_line.load()) alarm(1);
}

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read from the terminal returns, so the prompt notices
  sigaction(SIGINT, &action, nullptr);
  action.sa_handler = on_alarm;
  sigaction(SIGALRM, &action, nullptr);
}

InterruptibleRead::InterruptibleRead() { waiting_for_a_line.store(true); }

InterruptibleRead::~InterruptibleRead() {
  waiting_for_a_line.store(false);
  alarm(0);
}

std::atomic<bool>& interrupted() { return interrupt_flag; }

void clear_interrupt() {
  presses.store(0);
  interrupt_flag.store(false);
}

}  // namespace qnext::cli
