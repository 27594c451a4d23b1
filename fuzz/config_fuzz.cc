// config.json and generation_config.json: what is accepted keeps the promises of ModelConfig.
#include "base/error.h"
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const qnext::ModelConfig c = qnext::parse_config(text, "config.json");
    QNEXT_CHECK(c.vocab_size > 0 && c.hidden_size > 0 && c.num_layers() > 0 && c.num_layers() <= 1024);
    QNEXT_CHECK(c.layer_is_moe.size() == c.layer_types.size());
    QNEXT_CHECK(c.num_attention_heads % c.num_key_value_heads == 0 && c.attention_width() > 0);
    QNEXT_CHECK(c.linear_num_value_heads % c.linear_num_key_heads == 0 && c.linear_conv_width() > 0);
    QNEXT_CHECK(c.rope.dims >= 2 && c.rope.dims % 2 == 0 && c.rope.dims <= c.head_dim);
    QNEXT_CHECK(c.num_experts_per_tok <= c.num_experts && (c.num_experts == 0) == (c.num_experts_per_tok == 0));
    QNEXT_CHECK(!c.rope.yarn || (c.rope.factor >= 1 && c.rope.original_max_position_embeddings > 0));
  } catch (const qnext::FileError&) {
  }
  try {
    const qnext::GenerationConfig g = qnext::parse_generation_config(text, "generation_config.json");
    QNEXT_CHECK(!g.temperature.has_value() || *g.temperature >= 0);
  } catch (const qnext::FileError&) {
  }
  return 0;
}
