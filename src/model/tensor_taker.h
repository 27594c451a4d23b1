#pragma once
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "model/weights.h"

namespace qnext {

/// The rows [begin, begin + count) of m.
inline Matrix row_range(const Matrix& m, int64_t begin, int64_t count) { return m.select_rows(begin, 1, 1, count); }

/// Takes tensors out of a checkpoint by name. Each is checked when taken; what was never taken is left over. Shared
/// by the binders, which know the names. Every function throws FileError (tensor, file, expected, found).
class TensorTaker {
 public:
  /// Keeps what it must copy or convert in `weights`.
  TensorTaker(const Checkpoint& checkpoint, Weights& weights);

  bool has(const std::string& name) const { return checkpoint_.find(name) != nullptr; }
  bool has_prefix(std::string_view prefix) const;

  /// The file of a tensor that was taken.
  const std::string& file_of(const std::string& name) const { return *checkpoint_.find(name)->file; }

  /// A matrix [rows, cols], mapped, of any type.
  Matrix matrix(const std::string& name, int64_t rows, int64_t cols);
  /// A tensor [cols] of a plain type as a matrix of one row.
  Matrix row_matrix(const std::string& name, int64_t cols);
  /// A tensor [..., rows, cols] as its matrices, in order.
  std::vector<Matrix> stack(const std::string& name, std::span<const int64_t> shape);

  /// A parameter of few elements, as f32. `convert`, if given, is applied to each.
  Vector vector(const std::string& name, std::initializer_list<int64_t> shape, float (*convert)(float) = nullptr);

  /// Throws unless everything was taken.
  void check_nothing_left() const;

 private:
  enum class Kind { kMatrix, kVector };
  const FileTensor& take(const std::string& name, std::span<const int64_t> shape, Kind kind);
  const std::byte* mapped_or_copied(const FileTensor& tensor);
  const float* floats(const std::string& name, std::span<const int64_t> shape, bool map);

  const Checkpoint& checkpoint_;
  Weights& weights_;
  std::unordered_set<const FileTensor*> taken_;
};

}  // namespace qnext
