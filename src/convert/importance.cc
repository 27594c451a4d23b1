#include "convert/importance.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "formats/gguf.h"

namespace qnext {

namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";

std::vector<float> read_floats(const FileTensor& tensor) {
  if (tensor.dtype != DType::kF32) throw FileError(*tensor.file, tensor.name, "type F32", tensor.dtype_text);
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(float));
  for (const float value : values) {
    if (!std::isfinite(value) || value < 0) {
      throw FileError(*tensor.file, tensor.name, "finite numbers from 0 on", fmt::format("{}", value));
    }
  }
  return values;
}

}  // namespace

Importance Importance::load(const std::filesystem::path& path) {
  const GgufCheckpoint checkpoint(path);
  Importance importance;
  importance.file = path.string();
  const GgufFields fields(checkpoint.metadata(), checkpoint.file());
  const std::string* type = fields.text("general.type");
  if (type == nullptr || *type != "imatrix") fields.fail("general.type", "\"imatrix\"");
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!name.ends_with(kSums)) continue;
    const std::string base = name.substr(0, name.size() - kSums.size());
    const FileTensor* counts = checkpoint.find(base + std::string(kCounts));
    if (counts == nullptr) throw FileError(importance.file, name, "a tensor " + base + std::string(kCounts), "none");
    Entry entry{tensor.shape.back(), read_floats(tensor), read_floats(*counts)};
    if (entry.cols == 0 || entry.counts.size() * static_cast<size_t>(entry.cols) != entry.sums.size()) {
      throw FileError(importance.file, name, fmt::format("{} rows, as many as counts", entry.counts.size()),
                      fmt::format("shape [{}]", fmt::join(tensor.shape, ", ")));
    }
    importance.entries.emplace(base, std::move(entry));
  }
  if (importance.entries.empty()) {
    throw FileError(importance.file, "tensors", fmt::format("some named *{}", kSums), "none");
  }
  return importance;
}

void Importance::save(const std::filesystem::path& path, const std::string& text, int64_t chunks,
                      int64_t chunk_tokens) const {
  GgufMetadata metadata;
  metadata.set("general.type", std::string("imatrix"));
  metadata.set("imatrix.datasets", GgufArray(std::vector<std::string>{text}));
  metadata.set("imatrix.chunk_count", static_cast<uint32_t>(chunks));
  metadata.set("imatrix.chunk_size", static_cast<uint32_t>(chunk_tokens));
  std::vector<TensorSpec> specs;
  for (const auto& [name, entry] : entries) {
    const auto parts = static_cast<int64_t>(entry.counts.size());
    specs.push_back({name + std::string(kSums), DType::kF32, {parts, entry.cols}});
    specs.push_back({name + std::string(kCounts), DType::kF32, {parts, 1}});
  }
  const std::unique_ptr<TensorFileWriter> writer = create_gguf(path, metadata, specs);
  for (const auto& [name, entry] : entries) {
    writer->append(std::as_bytes(std::span(entry.sums)));
    writer->append(std::as_bytes(std::span(entry.counts)));
  }
  writer->finish();
}

const float* Importance::columns(std::string_view tensor, int64_t part, int64_t parts, int64_t cols) const {
  const auto it = entries.find(tensor);
  if (it == entries.end()) return nullptr;
  const Entry& entry = it->second;
  if (entry.cols != cols || static_cast<int64_t>(entry.counts.size()) != parts) {
    throw FileError(file, std::string(tensor), fmt::format("{} x {} values for this model", parts, cols),
                    fmt::format("{} x {}", entry.counts.size(), entry.cols));
  }
  return entry.counts[static_cast<size_t>(part)] > 0 ? entry.sums.data() + part * cols : nullptr;
}

}  // namespace qnext
