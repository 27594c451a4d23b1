#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/sampler.h"
#include "tokenizer/tokenizer.h"

namespace qnext {

/// What generation needs of a model: something that eats tokens, one sequence of them, and gives logits.
/// Implemented by SequenceModel (runtime/sequence_model.h); tests implement it without a model.
class TokenModel {
 public:
  virtual ~TokenModel() = default;
  virtual int64_t context() const = 0;     ///< most tokens the sequence can hold
  virtual int64_t batch_rows() const = 0;  ///< most tokens of one feed
  virtual void reset() = 0;                ///< forgets every token
  /// Appends tokens. With `logits`, returns those of the last one, valid until the next call; otherwise an empty
  /// span.
  virtual std::span<const float> feed(std::span<const int32_t> tokens, bool logits) = 0;
};

/// The tokens of one conversation and how many of them the model has read. A prompt that begins with what the model
/// has read costs only its new part; any other prompt starts afresh, since the recurrent state cannot be cut back.
class Timeline {
 public:
  explicit Timeline(TokenModel& model) : model_(model) {}

  /// Makes `prompt` the content. Returns how many of its tokens are already read.
  int64_t assign(std::span<const int32_t> prompt);
  void append(int32_t token) { tokens_.push_back(token); }
  void reset();

  /// Reads up to batch_rows() of the unread tokens; returns the logits when that was all of them.
  std::span<const float> read_some();
  int64_t unread() const { return static_cast<int64_t>(tokens_.size()) - read_; }
  int64_t read() const { return read_; }
  std::span<const int32_t> tokens() const { return tokens_; }
  const TokenModel& model() const { return model_; }

 private:
  TokenModel& model_;
  std::vector<int32_t> tokens_;
  int64_t read_ = 0;
};

struct GenerateOptions {
  int64_t max_tokens = 0;         ///< most tokens of the answer; 0: until it ends or the context is full
  std::vector<int32_t> stop_ids;  ///< tokens that end the answer; they are no part of it
  std::vector<std::string> stop_strings;
  bool skip_special = true;  ///< special tokens are not shown in the text
};

enum class FinishReason { kStopToken, kStopString, kMaxTokens, kContextFull, kCancelled };
std::string_view finish_reason_name(FinishReason reason);  ///< "stop_token", "stop_string", ...

struct GenerateResult {
  FinishReason reason = FinishReason::kCancelled;
  std::string text;             ///< the answer, stop string excluded
  std::vector<int32_t> tokens;  ///< the answer, stop token excluded
  std::optional<std::string> stop_string;
  int64_t prompt_tokens = 0;  ///< of the whole prompt
  int64_t reused_tokens = 0;  ///< of the prompt, those the model had read before
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

/// What a caller may watch and steer; each may be empty.
struct GenerateEvents {
  std::function<void(std::string_view piece)> on_text;  ///< complete UTF-8; the pieces add up to the result's text
  std::function<void(int64_t done, int64_t total)> on_prefill;
  const std::atomic<bool>* cancel = nullptr;  ///< looked at between steps
};

/// Reads `prompt` and samples the answer to it. Afterwards the timeline holds the prompt and the answer's tokens (the
/// last may be unread; after cancelling during prefill, a part of the prompt may be), ready to be continued.
/// Throws Error for an empty prompt, one longer than the context, or logits that cannot be sampled from.
GenerateResult generate(Timeline& timeline, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                        Sampler& sampler, const GenerateOptions& options, const GenerateEvents& events = {});

/// For Sampler: the ids that have a token. A model has more rows (padding) than its tokenizer has tokens.
std::vector<bool> sampleable_ids(const Tokenizer& tokenizer);

}  // namespace qnext
