#include "model/parameter_list.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/error.h"

namespace qnext {

namespace {
constexpr int64_t kLine = 16;
int64_t end_of(const ParameterInfo& p) { return (p.offset + p.size() + kLine - 1) / kLine * kLine; }
}  // namespace

int64_t expert_of(std::string_view name) {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = name.find(kExperts);
  int64_t expert = -1;
  if (at != name.npos) std::from_chars(name.data() + at + kExperts.size(), name.data() + name.size(), expert);
  return expert;
}

void append_parameter(std::vector<ParameterInfo>& list, std::string name, int64_t rows, int64_t cols,
                      bool is_matrix) {
  const int64_t offset = list.empty() ? 0 : end_of(list.back());
  const int64_t expert = expert_of(name);
  list.push_back({std::move(name), offset, rows, cols, is_matrix, expert});
}

ParameterList::ParameterList(std::vector<ParameterInfo> parameters, Backend& backend)
    : parameters_(std::move(parameters)) {
  QNEXT_CHECK(!parameters_.empty());
  size_ = end_of(parameters_.back());
  buffer_ = backend.allocate(size_ * static_cast<int64_t>(sizeof(float)));
}

const ParameterInfo* ParameterList::find(std::string_view name) const {
  const auto it =
      std::find_if(parameters_.begin(), parameters_.end(), [&](const ParameterInfo& p) { return p.name == name; });
  return it == parameters_.end() ? nullptr : &*it;
}

int64_t ParameterList::count() const {
  int64_t count = 0;
  for (const ParameterInfo& p : parameters_) count += p.size();
  return count;
}

}  // namespace qnext
