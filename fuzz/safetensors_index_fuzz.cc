// model.safetensors.index.json: no shard name leaves the directory.
#include "base/error.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    for (const auto& [tensor, shard] : qnext::parse_safetensors_index(text, "fuzz.json")) {
      const std::filesystem::path path(shard);
      QNEXT_CHECK(path.filename() == path && path != "." && path != ".." && !path.empty());
    }
  } catch (const qnext::FileError&) {
  }
  return 0;
}
