#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qnext {

/// Finds stop strings in text that arrives in pieces. Text that may still turn out to be the beginning of a stop
/// string is held back, so no part of one is ever passed on. The string that is complete first ends the text (of
/// several complete at the same character, the longest), so the result does not depend on how the text was cut.
class StopStrings {
 public:
  /// Empty strings are ignored.
  explicit StopStrings(std::vector<std::string> stops);

  /// Takes a piece; returns the text that is certainly before any stop string. Empty once matched().
  std::string push(std::string_view piece);
  /// No more text: returns what was held back.
  std::string finish();
  /// The stop string that ended the text.
  const std::optional<std::string>& matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::optional<std::string> matched_;
};

}  // namespace qnext
