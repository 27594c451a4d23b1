#include "runtime/stop_strings.h"

#include <algorithm>

namespace qnext {

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) { std::erase(stops_, ""); }

std::string StopStrings::push(std::string_view piece) {
  if (matched_) return {};
  held_ += piece;
  size_t end = std::string::npos;
  const std::string* first = nullptr;
  for (const std::string& stop : stops_) {
    const size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t stop_end = begin + stop.size();
    if (!first || stop_end < end || (stop_end == end && stop.size() > first->size())) {
      end = stop_end;
      first = &stop;
    }
  }
  if (first) {
    matched_ = *first;
    std::string before = held_.substr(0, end - first->size());
    held_.clear();
    return before;
  }
  // The longest tail that begins a stop string must wait.
  size_t wait = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > wait; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) wait = n;
    }
  }
  std::string ready = held_.substr(0, held_.size() - wait);
  held_.erase(0, held_.size() - wait);
  return ready;
}

std::string StopStrings::finish() {
  std::string rest;
  rest.swap(held_);
  return rest;
}

}  // namespace qnext
