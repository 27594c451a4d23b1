#include "tokenizer/bpe.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "tokenizer/hash.h"

namespace qnext {

namespace {
constexpr size_t kShortPiece = 32;  // up to here scanning an array beats keeping a heap

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}
}  // namespace

BytePairEncoder::BytePairEncoder(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)),
      slots_(1024),
      seed_(hash_seed()),
      whole_(std::make_unique<std::atomic<uint8_t>[]>(vocabulary_.id_end())) {
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    const std::optional<int32_t> id = vocabulary_.find(std::string_view(&text, 1));
    QNEXT_CHECK(id, "byte {} has no token", byte);
    byte_ids_[byte] = *id;
  }
}

size_t BytePairEncoder::slot_index(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  size_t i = hash_mix(seed_, pair) & mask;
  while (slots_[i].rank != kNoRank && slots_[i].pair != pair) i = (i + 1) & mask;
  return i;
}

const BytePairEncoder::Slot& BytePairEncoder::find_merge(int32_t left, int32_t right) const {
  return slots_[slot_index(pair_key(left, right))];
}

bool BytePairEncoder::add_merge(const Merge& merge) {
  QNEXT_CHECK(vocabulary_.has(merge.left) && vocabulary_.has(merge.right) && vocabulary_.has(merge.result),
              "merge {} of unknown ids", merge_count_);
  if ((merge_count_ + 1) * 2 > slots_.size()) {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.rank != kNoRank) slots_[slot_index(slot.pair)] = slot;
    }
  }
  Slot& slot = slots_[slot_index(pair_key(merge.left, merge.right))];
  if (slot.rank != kNoRank) return false;
  slot = {pair_key(merge.left, merge.right), static_cast<uint32_t>(merge_count_++), merge.result};
  return true;
}

std::vector<BytePairEncoder::Merge> BytePairEncoder::merges() const {
  std::vector<Merge> all(merge_count_);
  for (const Slot& slot : slots_) {
    if (slot.rank == kNoRank) continue;
    all[slot.rank] = {static_cast<int32_t>(slot.pair >> 32), static_cast<int32_t>(slot.pair), slot.result};
  }
  return all;
}

void BytePairEncoder::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.size() == 1) return ids.push_back(byte_ids_[static_cast<unsigned char>(piece[0])]);
  const std::optional<int32_t> token = vocabulary_.find(piece);
  if (!token) return merge(piece, ids);
  std::atomic<uint8_t>& whole = whole_[*token];
  uint8_t known = whole.load(std::memory_order_relaxed);
  if (known == kUnknown) {
    const size_t begin = ids.size();
    merge(piece, ids);
    known = ids.size() == begin + 1 && ids.back() == *token ? kYes : kNo;
    whole.store(known, std::memory_order_relaxed);
  } else if (known == kYes) {
    ids.push_back(*token);
  } else {
    merge(piece, ids);
  }
}

void BytePairEncoder::merge(std::string_view piece, std::vector<int32_t>& ids) const {
  piece.size() <= kShortPiece ? merge_short(piece, ids) : merge_long(piece, ids);
}

void BytePairEncoder::merge_short(std::string_view piece, std::vector<int32_t>& ids) const {
  int32_t symbols[kShortPiece];
  uint32_t ranks[kShortPiece];  // of the pair that begins here; kNoRank at the last symbol
  int32_t results[kShortPiece];
  size_t count = piece.size();
  const auto look_up = [&](size_t i) {
    const Slot& merge = find_merge(symbols[i], symbols[i + 1]);
    ranks[i] = merge.rank;
    results[i] = merge.result;
  };
  for (size_t i = 0; i < count; ++i) symbols[i] = byte_ids_[static_cast<unsigned char>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    const size_t best = std::min_element(ranks, ranks + count - 1) - ranks;
    if (ranks[best] == kNoRank) break;
    symbols[best] = results[best];
    --count;
    const auto close_gap = [&](auto* values) {
      std::memmove(values + best + 1, values + best + 2, (count - best - 1) * sizeof *values);
    };
    close_gap(symbols);
    if (best + 1 < count) {
      close_gap(ranks);
      close_gap(results);
      look_up(best);
    }
    if (best > 0) look_up(best - 1);
  }
  ids.insert(ids.end(), symbols, symbols + count);
}

void BytePairEncoder::merge_long(std::string_view piece, std::vector<int32_t>& ids) const {
  QNEXT_CHECK(piece.size() < UINT32_MAX, "a piece of {} bytes", piece.size());
  constexpr uint32_t kEnd = UINT32_MAX;
  struct Symbol {
    int32_t id;
    int32_t result;           // of merging with the next
    uint32_t rank;            // of that merge
    uint32_t previous, next;  // neighbours, or kEnd
  };
  const uint32_t size = static_cast<uint32_t>(piece.size());
  std::vector<Symbol> symbols(size);
  for (uint32_t i = 0; i < size; ++i) {
    symbols[i] = {byte_ids_[static_cast<unsigned char>(piece[i])], -1, kNoRank, i > 0 ? i - 1 : kEnd,
                  i + 1 < size ? i + 1 : kEnd};
  }
  // Least first: rank in the upper half, position in the lower. An entry whose symbol has another rank by now is
  // stale.
  std::vector<uint64_t> heap;
  const auto look_up = [&](uint32_t i) {
    Symbol& symbol = symbols[i];
    if (symbol.next == kEnd) {
      symbol.rank = kNoRank;
      return false;
    }
    const Slot& merge = find_merge(symbol.id, symbols[symbol.next].id);
    symbol.rank = merge.rank;
    symbol.result = merge.result;
    if (merge.rank == kNoRank) return false;
    heap.push_back(static_cast<uint64_t>(merge.rank) << 32 | i);
    return true;
  };
  const auto push = [&](uint32_t i) {
    if (look_up(i)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (uint32_t i = 0; i < size; ++i) look_up(i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const uint32_t i = static_cast<uint32_t>(top);
    Symbol& symbol = symbols[i];
    if (symbol.rank != top >> 32) continue;
    Symbol& absorbed = symbols[symbol.next];
    symbol.id = symbol.result;
    symbol.next = absorbed.next;
    absorbed.rank = kNoRank;
    if (symbol.next != kEnd) symbols[symbol.next].previous = i;
    push(i);
    if (symbol.previous != kEnd) push(symbol.previous);
  }
  for (uint32_t i = 0; i != kEnd; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace qnext
