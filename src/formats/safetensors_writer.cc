#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <utility>

#include "base/error.h"
#include "formats/safetensors.h"
#include "formats/streaming_writer.h"

namespace qnext {

namespace {

struct Entry {
  std::string name;
  std::string_view dtype_text;
  std::vector<int64_t> shape;
};

uint64_t byte_size(const Entry& entry) {
  const int64_t bits = safetensors_element_bits(entry.dtype_text);
  QNEXT_CHECK(bits > 0, "{} of type {}, which safetensors files do not have", entry.name, entry.dtype_text);
  const int64_t total = std::accumulate(entry.shape.begin(), entry.shape.end(), bits, std::multiplies<>());
  QNEXT_CHECK(total % 8 == 0, "{} has a broken byte", entry.name);
  return static_cast<uint64_t>(total / 8);
}

std::unique_ptr<TensorFileWriter> create(const std::filesystem::path& path, const std::vector<Entry>& entries,
                                         const std::map<std::string, std::string>& metadata) {
  // The data lies by falling element size, so that every tensor is aligned in a mapping.
  std::vector<size_t> order(entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return safetensors_element_bits(entries[a].dtype_text) > safetensors_element_bits(entries[b].dtype_text);
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string text = header.dump();
  text.pop_back();  // the closing brace: tensors are appended as text, since ordered_json searches linearly
  std::vector<TensorExtent> extents(entries.size());
  std::set<std::string_view> names;
  uint64_t offset = 0;
  for (size_t i : order) {
    const Entry& entry = entries[i];
    QNEXT_CHECK(names.insert(entry.name).second && entry.name != "__metadata__", "tensor {} twice", entry.name);
    extents[i] = {entry.name, offset, byte_size(entry)};
    if (text.size() > 1) text += ',';
    text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        nlohmann::json(entry.name).dump(), entry.dtype_text, fmt::join(entry.shape, ","), offset,
                        offset + extents[i].size);
    offset += extents[i].size;
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');

  const uint64_t header_size = text.size();
  text.insert(0, reinterpret_cast<const char*>(&header_size), sizeof(header_size));
  for (TensorExtent& extent : extents) extent.offset += text.size();
  return make_streaming_writer(path, text, std::move(extents), text.size() + offset);
}

}  // namespace

std::unique_ptr<TensorFileWriter> create_safetensors(const std::filesystem::path& path,
                                                     std::span<const TensorSpec> specs,
                                                     const std::map<std::string, std::string>& metadata) {
  std::vector<Entry> entries;
  for (const TensorSpec& spec : specs) entries.push_back({spec.name, dtype_name(spec.dtype), spec.shape});
  return create(path, entries, metadata);
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<Entry> entries;
  for (const TensorToWrite& tensor : tensors) {
    entries.push_back({tensor.name, tensor.dtype_text, tensor.shape});
    QNEXT_CHECK(byte_size(entries.back()) == tensor.bytes.size(), "size of {}", tensor.name);
  }
  const auto writer = create(path, entries, metadata);
  for (const TensorToWrite& tensor : tensors) writer->append(tensor.bytes);
  writer->finish();
}

}  // namespace qnext
