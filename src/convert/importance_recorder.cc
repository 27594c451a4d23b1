#include "convert/importance_recorder.h"

#include <cmath>
#include <cstring>

#include "model/stored_tensors.h"

namespace qnext {

void ImportanceRecorder::record(const Matrix& weight, Rows x) {
  squares_.assign(static_cast<size_t>(x.cols), 0.0);
  for (int64_t r = 0; r < x.rows; ++r) {
    const float* row = x.row(r);
    for (int64_t c = 0; c < x.cols; ++c) squares_[static_cast<size_t>(c)] += double{row[c]} * row[c];
  }
  Sums& sums = sums_[key(weight)];
  sums.squares.resize(static_cast<size_t>(x.cols));
  for (size_t c = 0; c < sums.squares.size(); ++c) sums.squares[c] += static_cast<float>(squares_[c]);
  sums.count += x.rows;
}

void ImportanceRecorder::linear(Rows x, std::span<const Linear> products) {
  for (const Linear& product : products) record(*product.weight, x);
  inner().linear(x, products);
}

Rows ImportanceRecorder::scratch(int index, int64_t rows, int64_t cols) {
  const int64_t bytes = rows * cols * static_cast<int64_t>(sizeof(float));
  if (scratch_[index].bytes() < bytes) scratch_[index] = allocate(bytes);
  return {scratch_[index].floats(), rows, cols, cols};
}

void ImportanceRecorder::mlp(Rows x, const MlpWeights& weights, Rows, Rows y) {
  const Rows gate = scratch(0, x.rows, weights.gate.rows), up = scratch(1, x.rows, weights.up.rows);
  const Linear products[] = {{&weights.gate, gate}, {&weights.up, up}};
  linear(x, products);
  for (int64_t i = 0; i < gate.rows * gate.cols; ++i) gate.data[i] *= up.data[i] / (1 + std::exp(-gate.data[i]));
  const Linear down{&weights.down, y};
  linear(gate, {&down, 1});
}

void ImportanceRecorder::experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                                 const float* weights, Rows, Rows, Rows y) {
  for (int64_t r = 0; r < y.rows; ++r) std::memset(y.row(r), 0, static_cast<size_t>(y.cols) * sizeof(float));
  std::vector<std::vector<int64_t>> slots(experts.size());  // of each expert: row * k + place
  for (int64_t slot = 0; slot < x.rows * k; ++slot) slots[static_cast<size_t>(chosen[slot])].push_back(slot);
  for (size_t e = 0; e < experts.size(); ++e) {
    const auto count = static_cast<int64_t>(slots[e].size());
    if (count == 0) continue;
    const Rows in = scratch(2, count, x.cols), out = scratch(3, count, y.cols);
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(in.row(i), x.row(slots[e][static_cast<size_t>(i)] / k),
                  static_cast<size_t>(x.cols) * sizeof(float));
    }
    mlp(in, experts[e], {}, out);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t slot = slots[e][static_cast<size_t>(i)];
      float* to = y.row(slot / k);
      for (int64_t c = 0; c < y.cols; ++c) to[c] += weights[slot] * out.row(i)[c];
    }
  }
}

Importance ImportanceRecorder::importance(const ModelConfig& config, const Weights& weights) const {
  const ParameterReader reader(weights);
  Importance result;
  for (const StoredTensor& tensor : gguf_tensors(config, stored_parts(weights))) {
    const int64_t cols = tensor.cols(), parts = tensor.shape.size() == 3 ? tensor.shape[0] : 1;
    if (tensor.keep_f32) continue;
    Importance::Entry entry{cols, std::vector<float>(static_cast<size_t>(parts * cols)),
                            std::vector<float>(static_cast<size_t>(parts))};
    bool any = false;
    for (int64_t part = 0; part < parts; ++part) {
      const Matrix* matrix = reader.matrix(tensor.rows[static_cast<size_t>(part)].parameter);
      const auto it = matrix == nullptr ? sums_.end() : sums_.find(key(*matrix));
      if (it == sums_.end()) continue;
      any = true;
      std::copy(it->second.squares.begin(), it->second.squares.end(), entry.sums.begin() + part * cols);
      entry.counts[static_cast<size_t>(part)] = static_cast<float>(it->second.count);
    }
    if (any) result.entries.emplace(tensor.name, std::move(entry));
  }
  return result;
}

}  // namespace qnext
