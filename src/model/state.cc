#include "model/state.h"

namespace qnext {

StateLayout::StateLayout(const ModelConfig& config, DType kv_dtype, bool mtp)
    : kv{kv_dtype, config.num_key_value_heads, config.head_dim} {
  for (LayerKind kind : config.layer_types) {
    const bool attention = kind == LayerKind::kFullAttention;
    kv_offset.push_back(attention ? kv_block_bytes : -1);
    delta_offset.push_back(attention ? -1 : recurrent_floats);
    if (attention) {
      kv_block_bytes += kv.bytes();
    } else {
      recurrent_floats += config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim;
    }
    conv_offset.push_back(attention ? -1 : recurrent_floats);
    if (!attention) recurrent_floats += (config.linear_conv_kernel_dim - 1) * config.linear_conv_width();
  }
  if (mtp) {
    mtp_kv_offset = kv_block_bytes;
    kv_block_bytes += kv.bytes();
  }
}

}  // namespace qnext
