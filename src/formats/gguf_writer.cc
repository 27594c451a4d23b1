#include <bit>
#include <set>
#include <type_traits>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/streaming_writer.h"

namespace qnext {

namespace {

constexpr uint32_t kVersion = 3;
constexpr size_t kMaxDims = 4, kMaxNameBytes = 63;  // what ggml has room for

/// The bytes before the tensors' data.
class HeaderWriter {
 public:
  template <typename T>
    requires std::is_arithmetic_v<T>
  void put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void put(std::string_view text) {
    put<uint64_t>(text.size());
    text_ += text;
  }
  void put(const std::string& text) { put(std::string_view(text)); }
  void put(const GgufArray& array) {
    put(static_cast<uint32_t>(array.index()));
    std::visit(
        [this](const auto& items) {
          if constexpr (!std::is_same_v<decltype(items), const std::monostate&>) {
            put<uint64_t>(items.size());
            for (const auto& item : items) put(item);
          } else {
            QNEXT_CHECK(false, "an array of arrays");
          }
        },
        array);
  }
  void put(const GgufValue& value) {
    put(static_cast<uint32_t>(value.index()));
    std::visit([this](const auto& plain) { put(plain); }, value);
  }

  void pad(uint32_t alignment) { text_.append((alignment - text_.size() % alignment) % alignment, '\0'); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

std::unique_ptr<TensorFileWriter> create_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                                              std::span<const TensorSpec> specs, uint32_t alignment) {
  QNEXT_CHECK(alignment >= 8 && std::has_single_bit(alignment), "alignment {}", alignment);
  GgufMetadata pairs = metadata;
  if (alignment != kGgufDefaultAlignment || pairs.find("general.alignment") != nullptr) {
    pairs.set("general.alignment", alignment);
  }
  HeaderWriter header;
  for (char c : {'G', 'G', 'U', 'F'}) header.put(c);
  header.put(kVersion);
  header.put<uint64_t>(specs.size());
  header.put<uint64_t>(pairs.entries().size());
  for (const auto& [key, value] : pairs.entries()) {
    header.put(key);
    header.put(value);
  }

  std::vector<TensorExtent> extents;
  std::set<std::string_view> names;
  uint64_t offset = 0;
  for (const TensorSpec& spec : specs) {
    const auto type = gguf_type_of(spec.dtype);
    QNEXT_CHECK(type.has_value(), "{} of type {}, which GGUF files do not have", spec.name, dtype_name(spec.dtype));
    QNEXT_CHECK(spec.name.size() <= kMaxNameBytes && names.insert(spec.name).second, "tensor name {}", spec.name);
    QNEXT_CHECK(!spec.shape.empty() && spec.shape.size() <= kMaxDims, "{} of {} dimensions", spec.name,
                spec.shape.size());
    QNEXT_CHECK(spec.shape.back() % block_elements(spec.dtype) == 0, "{}: a row of {} in blocks of {}", spec.name,
                spec.shape.back(), block_elements(spec.dtype));
    header.put(spec.name);
    header.put(static_cast<uint32_t>(spec.shape.size()));
    int64_t elements = 1;
    for (size_t i = spec.shape.size(); i-- > 0;) {
      header.put(static_cast<uint64_t>(spec.shape[i]));
      elements *= spec.shape[i];
    }
    header.put(*type);
    header.put(offset);
    extents.push_back({spec.name, offset, static_cast<uint64_t>(bytes_of(spec.dtype, elements))});
    offset = (offset + extents.back().size + alignment - 1) / alignment * alignment;
  }
  header.pad(alignment);
  const uint64_t data = header.text().size();
  for (TensorExtent& extent : extents) extent.offset += data;
  return make_streaming_writer(path, header.text(), std::move(extents), data + offset);
}

}  // namespace qnext
