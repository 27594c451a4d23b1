#include "train/lanes.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace qnext {

Lanes::Lanes(const TokenDataset& data, const Options& options, const StateLayout& layout, const StateLayout& mtp_layout,
             Backend& backend)
    : data_(data),
      options_(options),
      layout_(layout),
      recurrent_(layout.recurrent_floats * static_cast<int64_t>(sizeof(float)), backend),
      kv_(layout.kv_block_bytes, backend),
      mtp_kv_(mtp_layout.kv_block_bytes, backend) {}

// ---- memory

std::byte* Lanes::Pool::take() {
  if (free_.empty()) {
    constexpr int64_t kSlabBytes = int64_t{4} << 20, kLine = 64;
    const int64_t step = std::max(kLine, (bytes_each_ + kLine - 1) / kLine * kLine);
    const int64_t count = std::max<int64_t>(1, kSlabBytes / step);
    slabs_.push_back(backend_.allocate(count * step));
    total_ += count * step;
    for (int64_t i = count - 1; i >= 0; --i) free_.push_back(slabs_.back().data() + i * step);
  }
  std::byte* piece = free_.back();
  free_.pop_back();
  std::memset(piece, 0, static_cast<size_t>(bytes_each_));
  return piece;
}

Lanes::Piece* Lanes::new_piece() {
  if (idle_pieces_.empty()) {
    idle_pieces_.push_back(&pieces_.emplace_back());
    pieces_.back().mtp.resize(static_cast<size_t>(options_.mtp_steps));
  }
  Piece* piece = idle_pieces_.back();
  idle_pieces_.pop_back();
  return piece;
}

void Lanes::reserve_blocks(Piece& piece, int64_t tokens) {
  const auto blocks = static_cast<size_t>((tokens + kBlockTokens - 1) / kBlockTokens);
  const auto grow = [&](std::vector<std::byte*>& list, Pool& pool) {
    while (list.size() < blocks) list.push_back(pool.take());
  };
  if (kv_.bytes_each() > 0) grow(piece.state.kv_blocks, kv_);
  for (SequenceState& state : piece.mtp) grow(state.kv_blocks, mtp_kv_);
  piece.before.kv_blocks = piece.state.kv_blocks;
}

/// The piece is no longer needed. Its working state belongs to it only when it carries on (before is set).
void Lanes::retire(Piece* piece) {
  for (std::byte* block : piece->state.kv_blocks) kv_.give_back(block);
  for (SequenceState& state : piece->mtp) {
    for (std::byte* block : state.kv_blocks) mtp_kv_.give_back(block);
    state.kv_blocks.clear();
  }
  piece->state.kv_blocks.clear();
  piece->before.kv_blocks.clear();
  if (piece->before.recurrent != nullptr) recurrent_.give_back(reinterpret_cast<std::byte*>(piece->before.recurrent));
  piece->before.recurrent = piece->state.recurrent = nullptr;
  idle_pieces_.push_back(piece);
}

// ---- dealing

void Lanes::deal(LanePosition& lane) {
  if (!position_.waiting.empty()) {
    lane = position_.waiting.front();
    position_.waiting.erase(position_.waiting.begin());
    return;
  }
  const uint64_t count = data_.document_count();
  if (position_.next == static_cast<int64_t>(count)) {
    ++position_.epoch;
    position_.next = 0;
  }
  if (order_epoch_ != position_.epoch) {
    order_ = document_order(static_cast<uint64_t>(position_.epoch), options_.seed, count);
    order_epoch_ = position_.epoch;
  }
  lane = {static_cast<int64_t>((*order_)(static_cast<uint64_t>(position_.next))), 0, 0};
  ++position_.next;
  ++position_.documents;
}

std::span<const TrainingBatch> Lanes::next(int64_t lanes, int64_t sequence_length) {
  const auto count = static_cast<size_t>(lanes);
  if (count != position_.lanes.size()) {
    std::vector<LanePosition> in_hand;
    for (LanePosition& lane : position_.lanes) {
      if (lane.document >= 0) in_hand.push_back({lane.document, lane.offset, lane.offset});
    }
    position_.waiting.insert(position_.waiting.begin(), in_hand.begin(), in_hand.end());
    position_.lanes.assign(count, {});
    for (Piece* piece : carried_) {
      if (piece != nullptr) retire(piece);
    }
    carried_.assign(count, nullptr);
  }
  const int64_t lanes_per_batch = std::max<int64_t>(1, options_.micro_batch_tokens / sequence_length);
  batch_count_ = 0;
  const auto add_batch = [&] {
    if (batch_count_ == batches_.size()) batches_.emplace_back();
    TrainingBatch& batch = batches_[batch_count_++];
    const auto steps = static_cast<size_t>(options_.mtp_steps);
    batch.tokens.clear();
    batch.targets.resize(1 + steps);
    batch.next.resize(steps);
    batch.mtp.resize(steps);
    for (auto& list : batch.targets) list.clear();
    for (auto& list : batch.next) list.clear();
    for (auto& list : batch.mtp) list.clear();
    batch.segments.clear();
    batch.before.clear();
    scratch_used_ = 0;
  };
  int64_t in_batch = lanes_per_batch;
  for (size_t lane = 0; lane < count; ++lane) {
    if (!is_ours(static_cast<int64_t>(lane), lanes)) {
      fill(lane, sequence_length, nullptr);
      continue;
    }
    if (in_batch == lanes_per_batch) {
      add_batch();
      in_batch = 0;
    }
    fill(lane, sequence_length, &batches_[batch_count_ - 1]);
    ++in_batch;
  }
  const int64_t most = (lanes + options_.ranks - 1) / options_.ranks;  // of a rank
  while (static_cast<int64_t>(batch_count_) < (most + lanes_per_batch - 1) / lanes_per_batch) add_batch();
  return std::span(batches_).first(batch_count_);
}

/// The next rows of a lane, into `batch` when it is this rank's.
void Lanes::fill(size_t index, int64_t rows, TrainingBatch* batch) {
  LanePosition& lane = position_.lanes[index];
  while (rows > 0) {
    if (lane.document < 0) deal(lane);
    const auto size = static_cast<int64_t>(data_.document_size(static_cast<uint64_t>(lane.document)));
    const int64_t count = std::min({rows, size - lane.offset, lane.context_begin + options_.max_context - lane.offset});
    const bool document_ends = lane.offset + count == size;
    const bool context_ends = document_ends || lane.offset + count - lane.context_begin == options_.max_context ||
                              (count == rows && !options_.carry_state);
    if (batch != nullptr) {
      Piece* piece = carried_[index] != nullptr ? carried_[index] : new_piece();
      if (context_ends && piece->before.recurrent == nullptr) {
        if (scratch_used_ == scratch_.size()) scratch_.push_back(recurrent_.take());
        piece->state.recurrent = reinterpret_cast<float*>(scratch_[scratch_used_++]);
      } else if (context_ends) {
        // Its own working state goes back with the next line's piece; the state before it stays for the backward pass.
        if (scratch_used_ == scratch_.size()) scratch_.push_back(recurrent_.take());
        if (piece->state.recurrent != nullptr) recurrent_.give_back(reinterpret_cast<std::byte*>(piece->state.recurrent));
        piece->state.recurrent = reinterpret_cast<float*>(scratch_[scratch_used_++]);
      } else if (piece->state.recurrent == nullptr) {
        piece->state.recurrent = reinterpret_cast<float*>(recurrent_.take());
      }
      reserve_blocks(*piece, lane.offset + count - lane.context_begin);
      add_rows(lane, count, *piece, *batch);
      carried_[index] = context_ends ? nullptr : piece;
      if (context_ends) finished_.push_back(piece);
    }
    lane.offset += count;
    rows -= count;
    if (context_ends) lane.context_begin = lane.offset;
    if (document_ends) lane = {};
  }
}

void Lanes::add_rows(const LanePosition& at, int64_t rows, Piece& piece, TrainingBatch& batch) {
  const std::span<const uint32_t> words = data_.document(static_cast<uint64_t>(at.document));
  const auto size = static_cast<int64_t>(words.size());
  const auto first = static_cast<int64_t>(batch.tokens.size());
  const auto word = [&](int64_t i) { return words[static_cast<size_t>(i)]; };
  for (int64_t i = at.offset; i < at.offset + rows; ++i) {
    batch.tokens.push_back(token_id(word(i)));
    for (int64_t d = 0; d <= options_.mtp_steps; ++d) {
      const bool inside = i + 1 + d < size;
      batch.targets[static_cast<size_t>(d)].push_back(inside && is_target(word(i + 1 + d)) ? token_id(word(i + 1 + d)) : -1);
      if (d < options_.mtp_steps) batch.next[static_cast<size_t>(d)].push_back(inside ? token_id(word(i + 1 + d)) : 0);
    }
  }
  const int64_t position = at.offset - at.context_begin;
  batch.segments.push_back({first, rows, position, &piece.state});
  batch.before.push_back({first, rows, position, &piece.before});
  for (size_t d = 0; d < piece.mtp.size(); ++d) batch.mtp[d].push_back({first, rows, position, &piece.mtp[d]});
}

void Lanes::advance() {
  for (Piece* piece : finished_) retire(piece);
  finished_.clear();
  for (Piece* piece : carried_) {
    if (piece != nullptr) std::swap(piece->state.recurrent, piece->before.recurrent);
  }
}

// ---- positions

void Lanes::restore(const DataPosition& position) {
  const auto documents = static_cast<int64_t>(data_.document_count());
  const auto check = [&](bool good) {
    if (!good) throw Error("the position in the data that the checkpoint names is none of this data");
  };
  check(position.epoch >= 0 && position.next >= 0 && position.next <= documents);
  for (const auto* list : {&position.lanes, &position.waiting}) {
    for (const LanePosition& lane : *list) {
      if (lane.document < 0 && list == &position.lanes) continue;
      check(lane.document >= 0 && lane.document < documents && lane.context_begin >= 0 && lane.offset >= lane.context_begin &&
            lane.offset < static_cast<int64_t>(data_.document_size(static_cast<uint64_t>(lane.document))));
    }
  }
  for (Piece* piece : carried_) {
    if (piece != nullptr) retire(piece);
  }
  position_ = position;
  carried_.assign(position.lanes.size(), nullptr);
  for (size_t i = 0; i < position.lanes.size(); ++i) {
    const LanePosition& lane = position.lanes[i];
    if (lane.document < 0 || lane.offset == lane.context_begin || !is_ours(static_cast<int64_t>(i), static_cast<int64_t>(position.lanes.size()))) continue;
    Piece* piece = carried_[i] = new_piece();
    piece->before.recurrent = reinterpret_cast<float*>(recurrent_.take());
    reserve_blocks(*piece, lane.offset - lane.context_begin);
  }
}

std::vector<Lanes::StateTensor> Lanes::states() const {
  std::vector<StateTensor> list;
  const auto count = static_cast<int64_t>(position_.lanes.size());
  for (int64_t i = 0; i < count; ++i) {
    const LanePosition& lane = position_.lanes[static_cast<size_t>(i)];
    const int64_t tokens = lane.offset - lane.context_begin;
    const Piece* piece = carried_[static_cast<size_t>(i)];
    const bool ours = is_ours(i, count);
    QNEXT_CHECK((piece != nullptr) == (ours && lane.document >= 0 && tokens > 0));
    if (lane.document < 0 || tokens == 0) continue;
    const auto owner = static_cast<int>(owner_of(i, count));
    if (layout_.recurrent_floats > 0) {
      StateTensor tensor{fmt::format("lane.{}.recurrent", i), {layout_.recurrent_floats}, owner, {}};
      if (ours) tensor.parts.emplace_back(piece->before.recurrent, static_cast<size_t>(layout_.recurrent_floats));
      list.push_back(std::move(tensor));
    }
    const int64_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
    const auto add_blocks = [&](std::string name, const std::vector<std::byte*>* memory, int64_t bytes) {
      const int64_t floats = bytes / static_cast<int64_t>(sizeof(float));
      if (floats == 0) return;
      StateTensor tensor{std::move(name), {blocks, floats}, owner, {}};
      if (memory != nullptr) {
        QNEXT_CHECK(static_cast<int64_t>(memory->size()) == blocks);
        for (std::byte* block : *memory) tensor.parts.emplace_back(reinterpret_cast<float*>(block), static_cast<size_t>(floats));
      }
      list.push_back(std::move(tensor));
    };
    add_blocks(fmt::format("lane.{}.kv", i), ours ? &piece->state.kv_blocks : nullptr, kv_.bytes_each());
    for (int64_t d = 0; d < options_.mtp_steps; ++d) {
      add_blocks(fmt::format("lane.{}.mtp.{}.kv", i, d), ours ? &piece->mtp[static_cast<size_t>(d)].kv_blocks : nullptr, mtp_kv_.bytes_each());
    }
  }
  return list;
}

}  // namespace qnext
