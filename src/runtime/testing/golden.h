#pragma once
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/safetensors.h"

namespace qnext::testing {

/// What an independent implementation computed for a checkpoint under tests/golden (its README.md says what is in it).
class Golden {
 public:
  explicit Golden(const std::filesystem::path& directory)
      : file_(directory / "expected.safetensors"), tensors_(parse_safetensors(file_.bytes(), file_.path().string())) {}

  bool has(std::string_view name) const { return find(name) != nullptr; }
  std::vector<float> floats(std::string_view name) const { return copy<float>(name, "F32"); }
  std::vector<int32_t> ids(std::string_view name) const { return copy<int32_t>(name, "I32"); }
  std::vector<int64_t> shape(std::string_view name) const {
    QNEXT_CHECK(has(name), "{}", name);
    return find(name)->shape;
  }

 private:
  const FileTensor* find(std::string_view name) const {
    for (const FileTensor& tensor : tensors_) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  template <typename T>
  std::vector<T> copy(std::string_view name, std::string_view dtype) const {
    const FileTensor* tensor = find(name);
    QNEXT_CHECK(tensor != nullptr && tensor->dtype_text == dtype, "{}", name);
    std::vector<T> out(tensor->bytes.size() / sizeof(T));
    std::memcpy(out.data(), tensor->bytes.data(), tensor->bytes.size());
    return out;
  }
  MappedFile file_;
  std::vector<FileTensor> tensors_;
};

/// sqrt(sum (a - b)² / sum b²); infinity when the sizes differ.
inline double relative_rms(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  return std::sqrt(difference / std::max(size, 1e-300));
}

inline int64_t argmax(std::span<const float> row) {
  int64_t best = 0;
  for (size_t i = 1; i < row.size(); ++i) {
    if (row[i] > row[static_cast<size_t>(best)]) best = static_cast<int64_t>(i);
  }
  return best;
}

}  // namespace qnext::testing
