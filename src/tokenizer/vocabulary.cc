#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "tokenizer/hash.h"

namespace qnext {

Vocabulary::Vocabulary(size_t expected)
    : slots_(std::bit_ceil(2 * std::clamp<size_t>(expected, 512, kMaxIds))), seed_(hash_seed()) {}

uint64_t Vocabulary::hash(std::string_view bytes) const {
  uint64_t state = seed_ ^ bytes.size();
  const char* p = bytes.data();
  size_t left = bytes.size();
  uint64_t word;
  for (; left > 8; p += 8, left -= 8) {
    std::memcpy(&word, p, 8);
    state = hash_mix(state, word);
  }
  if (bytes.size() >= 8) {  // the last word may overlap the one before
    std::memcpy(&word, bytes.data() + bytes.size() - 8, 8);
  } else if (left >= 4) {
    uint32_t head, tail;
    std::memcpy(&head, p, 4);
    std::memcpy(&tail, p + left - 4, 4);
    word = static_cast<uint64_t>(head) << 32 | tail;
  } else if (left > 0) {
    const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(p[i])); };
    word = byte(0) << 16 | byte(left / 2) << 8 | byte(left - 1);
  } else {
    word = 0;
  }
  return hash_mix(state, word);
}

size_t Vocabulary::slot_of(std::string_view bytes, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  const uint32_t tag = static_cast<uint32_t>(hash >> 32);
  size_t i = hash & mask;
  while (slots_[i].id >= 0 && (slots_[i].tag != tag || this->bytes(slots_[i].id) != bytes)) i = (i + 1) & mask;
  return i;
}

Vocabulary::Added Vocabulary::add(std::string_view bytes, int32_t id) {
  QNEXT_CHECK(id >= 0 && id < kMaxIds && !bytes.empty(), "id {}", id);
  if (pool_.size() + bytes.size() > UINT32_MAX) throw Error("a vocabulary of more than 4 GiB");
  if (has(id)) return Added::kIdTaken;
  const uint64_t key = hash(bytes);
  size_t slot = slot_of(bytes, key);
  if (slots_[slot].id >= 0) return Added::kBytesTaken;
  if (static_cast<size_t>(id) >= entries_.size()) entries_.resize(id + 1);
  entries_[id] = {static_cast<uint32_t>(pool_.size()), static_cast<uint32_t>(bytes.size())};
  pool_.append(bytes);
  slots_[slot] = {static_cast<uint32_t>(key >> 32), id};
  if (++count_ * 2 > slots_.size()) grow();
  return Added::kYes;
}

void Vocabulary::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  const size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.id < 0) continue;
    size_t i = hash(bytes(slot.id)) & mask;
    while (slots_[i].id >= 0) i = (i + 1) & mask;
    slots_[i] = slot;
  }
}

std::optional<int32_t> Vocabulary::find(std::string_view bytes) const {
  const int32_t id = slots_[slot_of(bytes, hash(bytes))].id;
  return id >= 0 ? std::optional(id) : std::nullopt;
}

}  // namespace qnext
