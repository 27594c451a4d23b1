// adapter_config.json of PEFT: what is accepted gives every module a rank and a scale.
#include <cmath>

#include "base/error.h"
#include "model/peft.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const qnext::PeftConfig c = qnext::parse_peft_config(text, "adapter_config.json");
    for (const char* module : {"model.layers.0.self_attn.q_proj", "lm_head", ""}) {
      QNEXT_CHECK(c.rank_of(module) >= 1 && std::isfinite(c.scale_of(module)));
    }
  } catch (const qnext::FileError&) {
  }
  return 0;
}
