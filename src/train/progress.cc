#include "train/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace qnext {

namespace {

constexpr int kPlainWidth = 160;  // of lines in a file
constexpr auto kTerminalPause = std::chrono::milliseconds(100);
constexpr auto kPlainPause = std::chrono::seconds(5);

std::string with_commas(int64_t count) {
  std::string digits = fmt::format("{}", count);
  for (auto i = static_cast<int64_t>(digits.size()) - 3; i > (count < 0 ? 1 : 0); i -= 3) digits.insert(i, ",");
  return digits;
}

/// 1,234,567 as "1.23 M".
std::string with_prefix(double value) {
  static constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P"};
  size_t prefix = 0;
  while (std::abs(value) >= 1000 && prefix + 1 < std::size(kPrefixes)) {
    value /= 1000;
    ++prefix;
  }
  const char* const space = prefix > 0 ? " " : "";
  const double size = std::abs(value);
  if (size >= 100 || (prefix == 0 && value == std::floor(value)))
    return fmt::format("{:.0f}{}{}", value, space, kPrefixes[prefix]);
  return fmt::format("{:.{}f}{}{}", value, size >= 10 ? 1 : 2, space, kPrefixes[prefix]);
}

std::string mtp_text(const std::vector<double>& loss, const std::vector<double>& acceptance) {
  std::string text;
  for (size_t d = 0; d < loss.size(); ++d) {
    text += fmt::format("{}{:.3f}", d > 0 ? "/" : "mtp ", loss[d]);
    if (d < acceptance.size()) text += fmt::format(" ({:.0f}%)", 100 * acceptance[d]);
  }
  return text;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e12) return "-";
  const auto s = static_cast<int64_t>(seconds);
  if (s >= 86400) return fmt::format("{} d {:02} h", s / 86400, s / 3600 % 24);
  if (s >= 3600) return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
  return s >= 60 ? fmt::format("{} min {:02} s", s / 60, s % 60) : fmt::format("{} s", s);
}

std::string progress_line(const StepReport& report, const RunReport& run, double seconds_left, int width) {
  struct Part {
    std::string text;
    int rank;  // the highest goes first when the line is too long
  };
  std::vector<Part> parts;
  const auto add = [&](std::string text, int rank) {
    if (!text.empty()) parts.push_back({std::move(text), rank});
  };
  add(fmt::format("step {}/{}", with_commas(report.step), with_commas(run.steps)), 1);
  add(fmt::format("loss {:.4f}", report.loss), 0);
  add(mtp_text(report.mtp_loss, report.mtp_acceptance), 4);
  add(fmt::format("balance {:.3g}", report.balance_loss), 6);
  add(fmt::format("grad {:.3g}{}", report.gradient_norm, report.clipped ? " clipped" : ""), 5);
  add(fmt::format("lr {:.2g}", report.learning_rate), 7);
  add(fmt::format("{} tok/s", with_prefix(report.tokens_per_second())), 3);
  std::string flops = fmt::format("{}FLOP/s", with_prefix(report.flops_per_second()));
  if (run.peak_flops > 0)
    flops += fmt::format(" ({:.0f}% of peak)", 100 * report.flops_per_second() / run.peak_flops);
  add(std::move(flops), 8);
  add(fmt::format("{} left", format_duration(seconds_left)), 2);
  const auto joined = [&] {
    std::string line;
    for (const Part& part : parts) line += (line.empty() ? "" : "  ") + part.text;
    return line;
  };
  std::string line = joined();
  while (static_cast<int>(line.size()) > width && parts.size() > 1) {
    parts.erase(std::ranges::max_element(parts, {}, &Part::rank));
    line = joined();
  }
  if (static_cast<int>(line.size()) > width) line.resize(static_cast<size_t>(std::max(width, 0)));
  return line;
}

ProgressLines::ProgressLines(std::FILE* out) : out_(out), terminal_(isatty(fileno(out)) == 1) {}

int ProgressLines::width() const {
  if (!terminal_) return kPlainWidth;
  winsize size = {};
  // One column less: a full last column makes some terminals wrap.
  return ioctl(fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
}

void ProgressLines::erase() {
  if (shown_) fmt::print(out_, "\r\x1b[K");
  shown_ = false;
}

void ProgressLines::line(const std::string& text) {
  erase();
  fmt::print(out_, "{}\n", text);
  std::fflush(out_);
}

void ProgressLines::begin(const RunReport& report) {
  run_ = report;
  previous_ = Clock::now();
  steps_ = 0;
  std::string text = fmt::format(
      "{} parameters, {} active; {} steps of {} tokens; {} thread{}",
      with_prefix(static_cast<double>(report.parameters)), with_prefix(static_cast<double>(report.active_parameters)),
      with_commas(report.steps), with_commas(report.batch_tokens), report.threads, report.threads == 1 ? "" : "s");
  if (report.ranks > 1) text += fmt::format(", {} processes", report.ranks);
  if (!report.products.empty()) text += fmt::format(", products in {}", report.products);
  if (report.peak_flops > 0) text += fmt::format(", {}FLOP/s at best", with_prefix(report.peak_flops));
  line(text);
  const TrainingMemory& m = report.memory;
  if (m.parameters > 0) {
    const auto bytes = [](int64_t count) { return with_prefix(static_cast<double>(count)) + (count < 1000 ? " B" : "B"); };
    line(fmt::format("memory{}: {} of parameters, gradients and moments, {} of layers' inputs, {} kept inside the layers, {} of working space",
                     report.ranks > 1 ? " of rank 0" : "", bytes(m.parameters + m.gradients + m.moments), bytes(m.inputs), bytes(m.kept), bytes(m.working)));
  }
  if (report.first_step > 0) line(fmt::format("goes on after step {}", with_commas(report.first_step)));
}

void ProgressLines::step(const StepReport& report) {
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - previous_).count();
  previous_ = now;
  ++steps_;
  const double weight = std::max(0.02, 1.0 / static_cast<double>(steps_));
  seconds_per_step_ += weight * (seconds - seconds_per_step_);
  const bool due = steps_ == 1 || report.step == run_.steps;
  if (!due && now - last_ < (terminal_ ? Clock::duration(kTerminalPause) : Clock::duration(kPlainPause))) return;
  last_ = now;
  const double left = seconds_per_step_ * static_cast<double>(run_.steps - report.step);
  const std::string text = progress_line(report, run_, left, width());
  if (!terminal_) return line(text);
  erase();
  fmt::print(out_, "{}", text);
  std::fflush(out_);
  shown_ = true;
}

void ProgressLines::evaluation(const EvaluationReport& report) {
  std::string text = fmt::format("step {}: validation loss {:.4f}", with_commas(report.step), report.loss);
  if (!report.mtp_loss.empty()) text += ", " + mtp_text(report.mtp_loss, report.mtp_acceptance);
  line(text + (report.best ? ", the best so far" : ""));
}

void ProgressLines::checkpoint(int64_t step, const std::filesystem::path& path) {
  line(fmt::format("step {}: checkpoint {}", with_commas(step), path.string()));
}

void ProgressLines::end(bool finished) {
  if (shown_) fmt::print(out_, "\n");
  shown_ = false;
  fmt::print(out_, "{}\n", finished ? "done" : "stopped; the same command goes on from the last checkpoint");
  std::fflush(out_);
}

}  // namespace qnext
