#pragma once
#include <memory>

#include "runtime/engine.h"
#include "runtime/generate.h"

namespace qnext {

/// One sequence of an engine as generate() sees it. The engine must outlive it.
class SequenceModel final : public TokenModel {
 public:
  explicit SequenceModel(Engine& engine) : engine_(engine), sequence_(engine.create_sequence()) {}

  int64_t context() const override { return engine_.options().context; }
  int64_t batch_rows() const override { return engine_.options().batch_rows; }
  void reset() override { sequence_->reset(); }
  std::span<const float> feed(std::span<const int32_t> tokens, bool logits) override {
    const Feed feed{sequence_.get(), tokens, logits ? LogitRows::kLast : LogitRows::kNone};
    return engine_.step({&feed, 1});
  }

  const Sequence& sequence() const { return *sequence_; }

 private:
  Engine& engine_;
  std::unique_ptr<Sequence> sequence_;
};

}  // namespace qnext
