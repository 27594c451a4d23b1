#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <type_traits>

#include "base/error.h"

namespace qnext {

namespace {

/// Element types: their numbers in files, with the types of the project.
constexpr std::pair<DType, uint32_t> kTypes[] = {
    {DType::kF32, 0},     {DType::kF16, 1},     {DType::kQ4_0, 2},  {DType::kQ4_1, 3},
    {DType::kQ5_0, 6},    {DType::kQ5_1, 7},    {DType::kQ8_0, 8},  {DType::kQ2_K, 10},
    {DType::kQ3_K, 11},   {DType::kQ4_K, 12},   {DType::kQ5_K, 13}, {DType::kQ6_K, 14},
    {DType::kIQ4_NL, 20}, {DType::kIQ4_XS, 23}, {DType::kBF16, 30}, {DType::kMXFP4, 39}};

constexpr std::array<std::string_view, 13> kTypeNames = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                         "bool", "string", "array", "u64", "i64", "f64"};

template <typename T>
constexpr bool kIsInteger = std::is_integral_v<T> && !std::is_same_v<T, bool>;

template <typename T>
std::optional<int64_t> integer_in(T value, int64_t min, int64_t max) {
  if (!std::in_range<int64_t>(value) || static_cast<int64_t>(value) < min || static_cast<int64_t>(value) > max) {
    return std::nullopt;
  }
  return static_cast<int64_t>(value);
}

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

std::string describe(const GgufValue* value) {
  if (value == nullptr) return "nothing";
  return std::visit(
      []<typename T>(const T& v) -> std::string {
        if constexpr (std::is_same_v<T, std::string>) {
          return qnext::quoted(v);
        } else if constexpr (std::is_same_v<T, GgufArray>) {
          return std::visit(
              [&]<typename Items>(const Items& items) -> std::string {
                if constexpr (std::is_same_v<Items, std::monostate>) {
                  return "an array of arrays";
                } else {
                  return fmt::format("an array of {} {}", items.size(), kTypeNames[v.index()]);
                }
              },
              v);
        } else {
          return fmt::format("{}", v);
        }
      },
      *value);
}

void GgufFields::fail(std::string_view key, const std::string& expected) const {
  throw FileError(*file_, std::string(key), expected, describe(find(key)));
}

std::optional<int64_t> GgufFields::integer(std::string_view key, int64_t min, int64_t max) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto result = std::visit(
      [&]<typename T>(const T& v) -> std::optional<int64_t> {
        if constexpr (kIsInteger<T>) return integer_in(v, min, max);
        return std::nullopt;
      },
      *value);
  if (!result) fail(key, fmt::format("an integer from {} to {}", min, max));
  return result;
}

std::optional<double> GgufFields::number(std::string_view key, double min, double max) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const double result = std::visit(
      []<typename T>(const T& v) -> double {
        if constexpr (std::is_same_v<T, float>) return std::strtod(fmt::format("{}", v).c_str(), nullptr);
        if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) return static_cast<double>(v);
        return std::nan("");
      },
      *value);
  if (!(result >= min && result <= max)) fail(key, fmt::format("a number from {} to {}", min, max));
  return result;
}

std::optional<bool> GgufFields::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const bool* result = std::get_if<bool>(value);
  if (result == nullptr) fail(key, "a bool");
  return *result;
}

const std::string* GgufFields::text(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return nullptr;
  const auto* result = std::get_if<std::string>(value);
  if (result == nullptr) fail(key, "a string");
  return result;
}

const std::vector<std::string>* GgufFields::texts(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return nullptr;
  const auto* array = std::get_if<GgufArray>(value);
  const auto* result = array == nullptr ? nullptr : std::get_if<std::vector<std::string>>(array);
  if (result == nullptr) fail(key, "an array of strings");
  return result;
}

std::optional<std::vector<bool>> GgufFields::booleans(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(value);
  const auto* result = array == nullptr ? nullptr : std::get_if<std::vector<bool>>(array);
  if (result == nullptr) fail(key, "an array of bools");
  return *result;
}

std::optional<std::vector<int64_t>> GgufFields::integers(std::string_view key, int64_t min, int64_t max) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::string expected = fmt::format("an array of integers from {} to {}", min, max);
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr) fail(key, expected);
  std::vector<int64_t> result;
  std::visit(
      [&]<typename Items>(const Items& items) {
        if constexpr (!std::is_same_v<Items, std::monostate>) {
          if constexpr (kIsInteger<typename Items::value_type>) {
            result.reserve(items.size());
            for (size_t i = 0; i < items.size(); ++i) {
              const auto item = integer_in(items[i], min, max);
              if (!item)
                throw FileError(*file_, fmt::format("{}[{}]", key, i), expected, fmt::format("{}", items[i]));
              result.push_back(*item);
            }
            return;
          }
        }
        fail(key, expected);
      },
      *array);
  return result;
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
