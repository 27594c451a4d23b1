// A GGUF file: whatever the bytes, the tensors lie inside them and have the size they say, and what the metadata means is
// accepted or refused in words.
#include "base/error.h"
#include "formats/gguf.h"
#include "model/gguf_config.h"
#include "tokenizer/tokenizer.h"

namespace {

class ParsedCheckpoint final : public qnext::Checkpoint {
 public:
  explicit ParsedCheckpoint(const std::vector<qnext::FileTensor>& tensors) : Checkpoint("fuzz.gguf") {
    for (const qnext::FileTensor& tensor : tensors) tensors_.emplace(tensor.name, tensor);
  }
  int64_t file_bytes() const override { return 0; }
};

template <typename Action>
void refused_or_not(const Action& action) {
  try {
    action();
  } catch (const qnext::FileError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string kFile = "fuzz.gguf";
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  refused_or_not([&] {
    const qnext::GgufFile file = qnext::parse_gguf(bytes, kFile);
    for (const qnext::FileTensor& tensor : file.tensors) {
      QNEXT_CHECK(tensor.bytes.data() >= bytes.data() &&
                  tensor.bytes.data() + tensor.bytes.size() <= bytes.data() + bytes.size());
      QNEXT_CHECK(!tensor.shape.empty() && tensor.shape.size() <= 4);
      if (!tensor.dtype) continue;
      int64_t elements = 1;
      for (const int64_t dim : tensor.shape) elements *= dim;
      QNEXT_CHECK(tensor.shape.back() % qnext::block_elements(*tensor.dtype) == 0);
      QNEXT_CHECK(static_cast<int64_t>(tensor.bytes.size()) == qnext::bytes_of(*tensor.dtype, elements));
    }
    for (const auto& [key, value] : file.metadata.entries()) {
      QNEXT_CHECK(file.metadata.find(key) == &value && !qnext::describe(&value).empty());
    }
    const ParsedCheckpoint checkpoint(file.tensors);
    refused_or_not([&] {
      const qnext::ModelConfig c = qnext::config_from_gguf(file.metadata, checkpoint, kFile);
      QNEXT_CHECK(c.vocab_size > 0 && c.hidden_size > 0 && c.num_layers() > 0 && c.num_layers() <= 1024);
      QNEXT_CHECK(c.rope.dims >= 2 && c.rope.dims <= c.head_dim);
    });
    refused_or_not([&] { qnext::generation_config_from_gguf(file.metadata, kFile); });
    refused_or_not([&] {
      const qnext::Tokenizer tokenizer = qnext::Tokenizer::from_gguf(file.metadata, kFile);
      QNEXT_CHECK(tokenizer.decode(tokenizer.encode("An ordinary text, 42.")) == "An ordinary text, 42.");
    });
  });
  return 0;
}
