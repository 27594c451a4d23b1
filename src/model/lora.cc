#include "model/lora.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "base/error.h"

namespace qnext {

namespace {

/// The rows of a stored tensor by parameter. A parameter's pieces are of one length, at equal distances, in order.
std::vector<LoraModule::Part> parts_of(const StoredTensor& tensor) {
  std::vector<LoraModule::Part> parts;
  int64_t row = 0;
  for (const ParameterRows& piece : tensor.rows) {
    const auto it = std::ranges::find(parts, piece.parameter, &LoraModule::Part::parameter);
    if (it == parts.end()) {
      QNEXT_CHECK(piece.first == 0, "{} of {} begins at row {}", piece.parameter, tensor.name, piece.first);
      parts.push_back({piece.parameter, row, piece.count, piece.count, 1});
    } else {
      if (it->count == 1) it->stride = row - it->offset;
      QNEXT_CHECK(piece.count == it->block && piece.first == it->count * it->block &&
                      row == it->offset + it->count * it->stride,
                  "{} of {} is no regular selection of rows", piece.parameter, tensor.name);
      ++it->count;
    }
    row += piece.count;
  }
  return parts;
}

}  // namespace

std::vector<LoraModule> lora_modules(const ModelConfig& config, const StoredParts& parts) {
  constexpr std::string_view kSuffix = ".weight";
  StoredParts main = parts;
  main.mtp = false;
  std::vector<LoraModule> modules;
  for (const StoredTensor& tensor : hugging_face_tensors(config, main)) {
    const bool matrix = tensor.shape.size() == 2 && tensor.name.ends_with(kSuffix);
    if (!matrix || tensor.name == "model.embed_tokens.weight") continue;
    modules.push_back({tensor.name.substr(0, tensor.name.size() - kSuffix.size()), tensor.shape[0], tensor.shape[1],
                       parts_of(tensor)});
  }
  return modules;
}

bool lora_target_matches(std::string_view target, std::string_view module) {
  if (!module.ends_with(target) || target.empty()) return false;
  return module.size() == target.size() || module[module.size() - target.size() - 1] == '.';
}

namespace {
std::vector<ParameterInfo> list_of(std::span<const LoraSpec> specs) {
  std::vector<ParameterInfo> list;
  for (const LoraSpec& spec : specs) {
    append_parameter(list, spec.module.name + ".lora_A.weight", spec.rank, spec.module.cols, true);
    append_parameter(list, spec.module.name + ".lora_B.weight", spec.module.rows, spec.rank, true);
  }
  return list;
}

Matrix view(std::span<float> values, int64_t rows, int64_t cols) {
  return {
      .dtype = DType::kF32, .rows = rows, .cols = cols, .data = reinterpret_cast<const std::byte*>(values.data())};
}
}  // namespace

LoraArray::LoraArray(std::vector<LoraSpec> specs, Backend& backend)
    : ParameterList(list_of(specs), backend), specs_(std::move(specs)) {
  for (size_t i = 0; i < specs_.size(); ++i) {
    const LoraSpec& spec = specs_[i];
    const Matrix whole_a = view(a(i), spec.rank, spec.module.cols), whole_b = view(b(i), spec.module.rows, spec.rank);
    for (const LoraModule::Part& part : spec.module.parts) {
      low_rank_.push_back({whole_a, whole_b.select_rows(part.offset, part.block, part.stride, part.count),
                           static_cast<float>(spec.scale)});
    }
  }
}

void LoraArray::attach(Weights& weights) const {
  std::unordered_map<std::string, Matrix*> matrices;
  // The visitor sees members of weights, which is ours to change.
  for_each_parameter(weights,
                     {[&](const std::string& name, const Matrix& m) { matrices[name] = const_cast<Matrix*>(&m); },
                      [](const std::string&, const Vector&) {}});
  size_t next = 0;
  for (const LoraSpec& spec : specs_) {
    for (const LoraModule::Part& part : spec.module.parts) {
      const auto it = matrices.find(part.parameter);
      const LowRank& low_rank = low_rank_[next++];
      QNEXT_CHECK(it != matrices.end() && it->second->rows == low_rank.b.rows && it->second->cols == low_rank.a.cols,
                  "{} of {}: not a matrix of this model", part.parameter, spec.module.name);
      it->second->low_rank = &low_rank;
    }
  }
}

}  // namespace qnext
