#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "model/training_model.h"

namespace qnext {

/// A document that a lane is reading. Its row at `offset` is the next; it stands at position offset - context_begin of its
/// context.
struct LanePosition {
  int64_t document = -1;  ///< -1: none
  int64_t offset = 0, context_begin = 0;
};

/// Where a run is in its data.
struct DataPosition {
  int64_t epoch = 0, next = 0;  ///< document_order(epoch)(next) is the next to be dealt
  int64_t documents = 0;        ///< begun so far
  std::vector<LanePosition> lanes;
  std::vector<LanePosition> waiting;  ///< parts of documents that are dealt before the next one
};

/// Makes the batches of optimiser steps. A step is some lanes of sequence_length rows each. A lane is a row of documents, one
/// after the other; one that does not end in a step continues in the next one from its recurrent state and keys. Which document
/// goes where depends on the position alone. Owns the memory of all states; allocates nothing once it has seen enough.
///
/// With several ranks every one deals all lanes, and holds the states of its own.
class Lanes {
 public:
  struct Options {
    uint64_t seed = 0;
    int64_t mtp_steps = 0;
    int64_t micro_batch_tokens = 0;
    int64_t max_context = 0;  ///< rows of a document after which it begins anew
    bool carry_state = true;
    int64_t rank = 0, ranks = 1;
  };
  Lanes(const TokenDataset& data, const Options& options, const StateLayout& layout, const StateLayout& mtp_layout,
        Backend& backend);

  /// The batches of the next step, this rank's lanes; as many on every rank, the last ones of some without rows. They stand until
  /// advance(). When the number of lanes is another than in
  /// the step before, the documents in hand continue without their states, wherever there is room.
  std::span<const TrainingBatch> next(int64_t lanes, int64_t sequence_length);
  /// The step is over: the states after it are what the next one begins from.
  void advance();

  const DataPosition& position() const { return position_; }
  /// Goes to a position, with room for the states that states() lists then, all zero. Throws Error when it is none of this data.
  void restore(const DataPosition& position);

  /// What the lanes carry on, of all ranks: "lane.3.recurrent", "lane.3.kv", "lane.3.mtp.0.kv". A tensor's values are its parts'
  /// one after the other, shape.back() values each; only its owner has parts.
  struct StateTensor {
    std::string name;
    std::vector<int64_t> shape;
    int owner = 0;
    std::vector<std::span<float>> parts;
  };
  std::vector<StateTensor> states() const;
  int64_t state_bytes() const { return recurrent_.bytes() + kv_.bytes() + mtp_kv_.bytes(); }

 private:
  /// Equal pieces of memory, handed out and taken back.
  class Pool {
   public:
    Pool(int64_t bytes, Backend& backend) : bytes_each_(bytes), backend_(backend) {}
    std::byte* take();  ///< zeroed
    void give_back(std::byte* piece) { free_.push_back(piece); }
    int64_t bytes() const { return total_; }
    int64_t bytes_each() const { return bytes_each_; }

   private:
    int64_t bytes_each_, total_ = 0;
    Backend& backend_;
    std::deque<Buffer> slabs_;
    std::vector<std::byte*> free_;
  };
  /// A part of a document in a step, and what it carries on.
  struct Piece {
    SequenceState state, before;
    std::vector<SequenceState> mtp;
  };

  /// Rank r has the lanes from lanes * r / ranks to lanes * (r + 1) / ranks.
  int64_t owner_of(int64_t lane, int64_t lanes) const { return ((lane + 1) * options_.ranks - 1) / lanes; }
  bool is_ours(int64_t lane, int64_t lanes) const { return owner_of(lane, lanes) == options_.rank; }
  void fill(size_t lane, int64_t rows, TrainingBatch* batch);
  void add_rows(const LanePosition& at, int64_t rows, Piece& piece, TrainingBatch& batch);
  void deal(LanePosition& lane);
  Piece* new_piece();
  void reserve_blocks(Piece& piece, int64_t tokens);
  void retire(Piece* piece);

  const TokenDataset& data_;
  Options options_;
  const StateLayout& layout_;
  Pool recurrent_, kv_, mtp_kv_;
  DataPosition position_;
  std::optional<DocumentOrder> order_;
  int64_t order_epoch_ = -1;
  std::vector<Piece*> carried_;   ///< per lane: what continues; null: nothing
  std::vector<Piece*> finished_;  ///< of the step in hand
  std::vector<std::byte*> scratch_;  ///< recurrent states of pieces that end: one set serves every batch
  size_t scratch_used_ = 0;
  std::deque<Piece> pieces_;
  std::vector<Piece*> idle_pieces_;
  std::vector<TrainingBatch> batches_;
  size_t batch_count_ = 0;
};

}  // namespace qnext
