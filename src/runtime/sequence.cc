#include "runtime/sequence.h"

#include <algorithm>

namespace qnext {

Sequence::Sequence(Backend& backend, const StateLayout& layout)
    : backend_(backend), layout_(layout),
      recurrent_(backend.allocate(layout.recurrent_floats * static_cast<int64_t>(sizeof(float)))) {
  state_.recurrent = recurrent_.floats();
}

int64_t Sequence::bytes() const {
  int64_t bytes = recurrent_.bytes();
  for (const Buffer& slab : kv_slabs_) bytes += slab.bytes();
  return bytes;
}

void Sequence::reset() {
  std::fill_n(state_.recurrent, layout_.recurrent_floats, 0.0f);
  state_.length = 0;
  state_.mtp_length = 0;
  usable_ = true;
}

void Sequence::reserve(int64_t tokens) {
  // Blocks come in slabs of about a megabyte: few mappings, and at most that much is taken before it is needed.
  constexpr int64_t kSlabBytes = 1 << 20;
  const int64_t needed = (state_.length + tokens + kBlockTokens - 1) / kBlockTokens;
  while (layout_.kv_block_bytes > 0 && static_cast<int64_t>(state_.kv_blocks.size()) < needed) {
    const int64_t blocks = std::max<int64_t>(1, kSlabBytes / layout_.kv_block_bytes);
    kv_slabs_.push_back(backend_.allocate(blocks * layout_.kv_block_bytes));
    for (int64_t i = 0; i < blocks; ++i) {
      state_.kv_blocks.push_back(kv_slabs_.back().data() + i * layout_.kv_block_bytes);
    }
  }
}

}  // namespace qnext
