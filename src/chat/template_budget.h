#pragma once
#include <cstdint>
#include <string>

#include "base/error.h"
#include "chat/template.h"

namespace qnext::jinja {

/// A rendering failed for a reason of the interpreter's own; the interpreter adds file and line.
class Failure : public Error {
 public:
  using Error::Error;
};

/// What one rendering may still spend. Steps pay for everything whose time or memory grows with the input: a node, an
/// item of a list, 64 bytes of a string. So one number bounds both the time and the memory of a rendering.
class Budget {
 public:
  explicit Budget(const TemplateLimits& limits) : limits_(limits), left_(limits.steps) {}

  void steps(int64_t count) {
    if ((left_ -= count) < 0) {
      left_ = 0;
      throw Failure(fmt::format("rendering takes more than {} steps", limits_.steps));
    }
  }
  /// About to read a string of so many bytes from end to end.
  void scan(size_t bytes) { steps(1 + static_cast<int64_t>(bytes / 64)); }
  /// About to make a string of so many bytes.
  void make(size_t bytes) {
    if (bytes > static_cast<size_t>(limits_.output_bytes)) {
      throw Failure(fmt::format("a text of {} bytes exceeds the limit of {} bytes", bytes, limits_.output_bytes));
    }
    scan(bytes);
  }
  /// A value nested this deep is about to exist.
  void data_depth(int32_t depth) const {
    if (depth > limits_.depth) throw Failure(fmt::format("data nests deeper than {} levels", limits_.depth));
  }
  size_t max_text_bytes() const { return static_cast<size_t>(limits_.output_bytes); }

  /// One level of evaluation, for as long as it lives.
  class Level {
   public:
    explicit Level(Budget& budget) : budget_(budget) {
      // An expression nested as deep as the parser allows must evaluate inside a few macro calls, hence the factor.
      if (++budget_.depth_ > kEvaluationFactor * budget_.limits_.depth) {
        --budget_.depth_;
        throw Failure(
            fmt::format("evaluation nests deeper than {} levels", kEvaluationFactor * budget_.limits_.depth));
      }
    }
    ~Level() { --budget_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Budget& budget_;
  };

 private:
  static constexpr int32_t kEvaluationFactor = 4;
  const TemplateLimits limits_;
  int64_t left_;
  int32_t depth_ = 0;
};

}  // namespace qnext::jinja
