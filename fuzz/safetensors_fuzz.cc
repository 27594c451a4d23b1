// The header of a safetensors file: whatever the bytes, the tensors lie inside them and have the size they say.
#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "formats/safetensors.h"

namespace {

void parse(std::span<const std::byte> bytes) {
  static const std::string kFile = "fuzz.safetensors";
  try {
    for (const qnext::FileTensor& tensor : qnext::parse_safetensors(bytes, kFile)) {
      int64_t bits = qnext::safetensors_element_bits(tensor.dtype_text);
      for (const int64_t dim : tensor.shape) bits *= dim;
      QNEXT_CHECK(static_cast<int64_t>(tensor.bytes.size()) * 8 == bits);
      QNEXT_CHECK(tensor.bytes.empty() || (tensor.bytes.data() >= bytes.data() &&
                                           tensor.bytes.data() + tensor.bytes.size() <= bytes.data() + bytes.size()));
    }
  } catch (const qnext::FileError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  parse({bytes, size});
  // Mutations rarely keep the header size right. So once more with it made right: the header ends at the last '}'.
  if (size < 8) return 0;
  std::vector<std::byte> fixed(bytes, bytes + size);
  const auto last_brace = std::find(fixed.rbegin(), fixed.rend() - 8, std::byte{'}'});
  const uint64_t header_size = static_cast<uint64_t>(fixed.rend() - last_brace) - 8;
  std::memcpy(fixed.data(), &header_size, sizeof(header_size));
  parse(fixed);
  return 0;
}
