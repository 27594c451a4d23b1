// training_state.json: what is accepted, whatever its checksum, is written and read again to the same.
#include <string>

#include "base/error.h"
#include "train/training_state.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const std::string again = qnext::training_state_json(qnext::parse_training_state(text, "training_state.json", true));
    QNEXT_CHECK(qnext::training_state_json(qnext::parse_training_state(again, "training_state.json")) == again);
  } catch (const qnext::FileError&) {
  }
  return 0;
}
