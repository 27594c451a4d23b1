#pragma once
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "model/gguf_config.h"
#include "model/stored_tensors.h"

namespace qnext::testing {

struct GgufTensorData {
  TensorSpec spec;
  std::vector<std::byte> bytes;
};

/// The tensors of a GGUF file of this model, those that need not be F32 as `dtype` (F32, F16 or BF16). To be changed
/// by tests of other forms and bad files.
inline std::vector<GgufTensorData> gguf_tensor_data(const ModelConfig& config, const Weights& weights, DType dtype) {
  const ParameterReader reader(weights);
  std::vector<GgufTensorData> all;
  for (const StoredTensor& tensor : gguf_tensors(config, stored_parts(weights))) {
    std::vector<float> values(static_cast<size_t>(tensor.row_count() * tensor.cols()));
    reader.read(tensor, 0, tensor.row_count(), values);
    GgufTensorData data{{tensor.name, tensor.keep_f32 ? DType::kF32 : dtype, tensor.shape}, {}};
    const auto size = static_cast<size_t>(dtype_size(data.spec.dtype));
    data.bytes.resize(values.size() * size);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = dtype == DType::kF16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      std::memcpy(&data.bytes[i * size], size == 4 ? static_cast<const void*>(&values[i]) : &half, size);
    }
    all.push_back(std::move(data));
  }
  return all;
}

inline void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                       const std::vector<GgufTensorData>& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& tensor : tensors) specs.push_back(tensor.spec);
  const auto writer = create_gguf(path, metadata, specs);
  for (const auto& tensor : tensors) writer->append(tensor.bytes);
  writer->finish();
}

}  // namespace qnext::testing
