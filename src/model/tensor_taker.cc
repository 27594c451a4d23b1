#include "model/tensor_taker.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace qnext {

namespace {

constexpr int64_t kScaleBlock = 128;  // fp8: one scale for each block of 128 x 128 elements

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::string shape_text(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool aligned(const FileTensor& tensor) {
  const int64_t alignment = is_block_type(*tensor.dtype) ? 1 : dtype_size(*tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.bytes.data()) % static_cast<uintptr_t>(alignment) == 0;
}

}  // namespace

TensorTaker::TensorTaker(const Checkpoint& checkpoint, Weights& weights)
    : checkpoint_(checkpoint), weights_(weights) {
  taken_.reserve(checkpoint.tensors().size());
}

bool TensorTaker::has_prefix(std::string_view prefix) const {
  const auto it = checkpoint_.tensors().lower_bound(prefix);
  return it != checkpoint_.tensors().end() && it->first.starts_with(prefix);
}

Matrix TensorTaker::matrix(const std::string& name, int64_t rows, int64_t cols) {
  const int64_t shape[] = {rows, cols};
  return std::move(stack(name, shape).front());
}

Matrix TensorTaker::row_matrix(const std::string& name, int64_t cols) {
  return std::move(stack(name, {&cols, 1}).front());
}

std::vector<Matrix> TensorTaker::stack(const std::string& name, std::span<const int64_t> shape) {
  const FileTensor& tensor = take(name, shape, shape.size() == 1 ? Kind::kVector : Kind::kMatrix);
  Matrix m;
  m.dtype = *tensor.dtype;
  m.rows = shape.size() == 1 ? 1 : shape[shape.size() - 2];
  m.cols = shape.back();
  m.data = mapped_or_copied(tensor);
  int64_t scales_per_matrix = 0;
  if (m.dtype == DType::kF8E4M3) {
    const int64_t scale_rows = ceil_div(m.rows, kScaleBlock);
    m.scale_cols = ceil_div(m.cols, kScaleBlock);
    std::vector<int64_t> scale_shape(shape.begin(), shape.end() - 2);
    scale_shape.insert(scale_shape.end(), {scale_rows, m.scale_cols});
    m.block_scales = floats(name + "_scale_inv", scale_shape, /*map=*/true);
    scales_per_matrix = scale_rows * m.scale_cols;
  }
  const int64_t matrix_bytes = m.bytes(), count = static_cast<int64_t>(tensor.bytes.size()) / matrix_bytes;
  std::vector<Matrix> matrices;
  matrices.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    matrices.push_back(m);
    m.data += matrix_bytes;
    if (m.block_scales != nullptr) m.block_scales += scales_per_matrix;
  }
  return matrices;
}

Vector TensorTaker::vector(const std::string& name, std::initializer_list<int64_t> shape, float (*convert)(float)) {
  int64_t size = 1;
  for (int64_t dim : shape) size *= dim;
  const float* data = floats(name, {shape.begin(), shape.size()}, /*map=*/false);
  if (convert != nullptr)
    std::ranges::transform(weights_.owned_floats.back(), weights_.owned_floats.back().begin(), convert);
  return {data, size};
}

void TensorTaker::check_nothing_left() const {
  std::vector<const FileTensor*> left;
  for (const auto& [name, tensor] : checkpoint_.tensors()) {
    // Old savers stored the rotary frequencies, which the config determines.
    if (!taken_.contains(&tensor) && !name.ends_with("rotary_emb.inv_freq")) left.push_back(&tensor);
  }
  if (left.empty()) return;
  constexpr size_t kListed = 5;
  std::string list;
  for (size_t i = 0; i < std::min(left.size(), kListed); ++i) {
    list += fmt::format("{}{} {}", i == 0 ? "" : ", ", qnext::quoted(left[i]->name, 200), shape_text(left[i]->shape));
  }
  throw FileError(*left[0]->file, "tensors", "only parameters that the configuration has",
                  fmt::format("{} others: {}{}", left.size(), list, left.size() > kListed ? ", ..." : ""));
}

const FileTensor& TensorTaker::take(const std::string& name, std::span<const int64_t> shape, Kind kind) {
  const FileTensor* tensor = checkpoint_.find(name);
  if (tensor == nullptr) {
    const auto& all = checkpoint_.tensors();
    throw FileError(checkpoint_.path().string(), "tensor " + name, shape_text(shape),
                    fmt::format("no such tensor among {}{}", all.size(),
                                all.empty() ? "" : ", from " + qnext::quoted(all.begin()->first, 200)));
  }
  if (!std::ranges::equal(tensor->shape, shape)) {
    throw FileError(*tensor->file, "tensor " + name, shape_text(shape), shape_text(tensor->shape));
  }
  const bool plain = tensor->dtype && *tensor->dtype != DType::kF8E4M3 && !is_block_type(*tensor->dtype);
  if (!tensor->dtype || (kind == Kind::kVector && !plain)) {
    throw FileError(*tensor->file, fmt::format("tensor {} dtype", name),
                    kind == Kind::kVector ? "F32, F16 or BF16" : "F32, F16, BF16, F8_E4M3 or a known block type",
                    tensor->dtype_text);
  }
  taken_.insert(tensor);
  return *tensor;
}

const std::byte* TensorTaker::mapped_or_copied(const FileTensor& tensor) {
  if (aligned(tensor)) return tensor.bytes.data();
  return weights_.owned_bytes.emplace_back(tensor.bytes.begin(), tensor.bytes.end()).data();
}

/// The elements as f32: in the file itself where `map` allows it and they are, else converted into owned_floats.
/// Vectors are read at once, so that a model opened is a model read but for its matrices. The scales of fp8 stay
/// mapped: there are as many as matrices, each on a page of its own, and on a cold disk each page is a seek.
const float* TensorTaker::floats(const std::string& name, std::span<const int64_t> shape, bool map) {
  const FileTensor& tensor = take(name, shape, Kind::kVector);
  if (map && *tensor.dtype == DType::kF32 && aligned(tensor)) {
    return reinterpret_cast<const float*>(tensor.bytes.data());
  }
  const int64_t size = static_cast<int64_t>(tensor.bytes.size()) / dtype_size(*tensor.dtype);
  std::vector<float>& out = weights_.owned_floats.emplace_back(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    out[static_cast<size_t>(i)] = load_as_f32(tensor.bytes.data(), *tensor.dtype, i);
  }
  return out.data();
}

}  // namespace qnext
