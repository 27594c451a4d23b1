#pragma once
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/forwarding_backend.h"
#include "convert/importance.h"
#include "model/weights.h"

namespace qnext {

/// A backend that computes what another one does and adds up, for every matrix, the squares of each input column.
/// MLPs and experts are taken apart into products of their own, so that the inputs of `down` are seen: the results
/// are those of the other backend up to rounding.
class ImportanceRecorder final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  void linear(Rows x, std::span<const Linear> products) override;
  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y) override;
  void mlp(Rows x, const MlpWeights& weights, Rows hidden, Rows y) override;

  /// Counts x as an input of `weight`, for products that are not computed.
  void record(const Matrix& weight, Rows x);
  /// What was recorded so far, by the names of the model's GGUF form.
  Importance importance(const ModelConfig& config, const Weights& weights) const;

 private:
  struct Sums {
    std::vector<float> squares;
    int64_t count = 0;
  };
  using Key = std::pair<const std::byte*, int64_t>;  ///< first byte and first row: views are copied about
  struct Hash {
    size_t operator()(const Key& key) const {
      return std::hash<const std::byte*>()(key.first) * 31 + std::hash<int64_t>()(key.second);
    }
  };
  static Key key(const Matrix& m) { return {m.data, m.row_offset}; }
  Rows scratch(int index, int64_t rows, int64_t cols);

  std::unordered_map<Key, Sums, Hash> sums_;
  std::vector<double> squares_;
  Buffer scratch_[4];
};

}  // namespace qnext
