#include "formats/gguf.h"

#include <algorithm>

namespace qnext {

namespace {

/// Element types: their numbers in files, with the types of the project.
constexpr std::pair<DType, uint32_t> kTypes[] = {
    {DType::kF32, 0},     {DType::kF16, 1},     {DType::kQ4_0, 2},  {DType::kQ4_1, 3},
    {DType::kQ5_0, 6},    {DType::kQ5_1, 7},    {DType::kQ8_0, 8},  {DType::kQ2_K, 10},
    {DType::kQ3_K, 11},   {DType::kQ4_K, 12},   {DType::kQ5_K, 13}, {DType::kQ6_K, 14},
    {DType::kIQ4_NL, 20}, {DType::kIQ4_XS, 23}, {DType::kBF16, 30}, {DType::kMXFP4, 39}};

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto it = std::ranges::find(entries_, key, &std::pair<std::string, GgufValue>::first);
  return it == entries_.end() ? nullptr : &it->second;
}

void GgufMetadata::set(std::string_view key, GgufValue value) {
  const auto it = std::ranges::find(entries_, key, &std::pair<std::string, GgufValue>::first);
  if (it == entries_.end()) {
    entries_.emplace_back(key, std::move(value));
  } else {
    it->second = std::move(value);
  }
}

std::optional<uint32_t> gguf_type_of(DType dtype) {
  for (const auto& [known, number] : kTypes) {
    if (known == dtype) return number;
  }
  return std::nullopt;
}

std::optional<DType> dtype_of_gguf_type(uint32_t type) {
  for (const auto& [dtype, number] : kTypes) {
    if (number == type) return dtype;
  }
  return std::nullopt;
}

}  // namespace qnext
