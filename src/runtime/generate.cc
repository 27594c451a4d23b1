#include "runtime/generate.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "runtime/stop_strings.h"

namespace qnext {
namespace {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

int64_t Timeline::assign(std::span<const int32_t> prompt) {
  const auto common = static_cast<int64_t>(std::ranges::mismatch(tokens_, prompt).in1 - tokens_.begin());
  // When the whole prompt has been read already, its logits are gone: that too needs a fresh start.
  if (common < read_ || read_ == static_cast<int64_t>(prompt.size())) reset();
  tokens_.assign(prompt.begin(), prompt.end());
  return read_;
}

void Timeline::reset() {
  if (read_ > 0) model_.reset();
  tokens_.clear();
  read_ = 0;
}

std::span<const float> Timeline::read_some() {
  const int64_t count = std::min(unread(), model_.batch_rows());
  const bool last = count == unread();
  std::span<const float> logits;
  try {
    logits = model_.feed(std::span(tokens_).subspan(read_, count), last);
  } catch (...) {
    // A failed step may have left the model anywhere; forget what it knows.
    model_.reset();
    read_ = 0;
    throw;
  }
  read_ += count;
  return logits;
}

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kMaxTokens:
      return "max_tokens";
    case FinishReason::kContextFull:
      return "context_full";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

GenerateResult generate(Timeline& timeline, const Tokenizer& tokenizer, std::span<const int32_t> prompt,
                        Sampler& sampler, const GenerateOptions& options, const GenerateEvents& events) {
  const int64_t context = timeline.model().context();
  if (prompt.empty()) throw Error("the prompt is empty: at least one token is needed to predict the next");
  if (static_cast<int64_t>(prompt.size()) > context) {
    throw Error(fmt::format("the prompt has {} tokens, but the context holds {}", prompt.size(), context));
  }
  const auto cancelled = [&] { return events.cancel && events.cancel->load(std::memory_order_relaxed); };

  GenerateResult result;
  result.prompt_tokens = static_cast<int64_t>(prompt.size());
  result.reused_tokens = timeline.assign(prompt);
  const Stopwatch prefill;
  std::span<const float> logits;
  while (timeline.unread() > 0 && !cancelled()) {
    logits = timeline.read_some();
    if (events.on_prefill) {
      events.on_prefill(timeline.read() - result.reused_tokens, result.prompt_tokens - result.reused_tokens);
    }
  }
  result.prefill_seconds = prefill.seconds();
  if (timeline.unread() > 0) return result;

  const Stopwatch decode;
  StreamDecoder decoder(tokenizer, options.skip_special);
  StopStrings stops(options.stop_strings);
  const auto emit = [&](const std::string& piece) {
    if (piece.empty()) return;
    result.text += piece;
    if (events.on_text) events.on_text(piece);
  };
  const auto step = [&]() -> std::optional<FinishReason> {
    if (cancelled()) return FinishReason::kCancelled;
    if (timeline.unread() > 0) {
      if (timeline.read() == context) return FinishReason::kContextFull;
      logits = timeline.read_some();
    }
    const int32_t token = sampler.sample(logits);
    if (std::ranges::find(options.stop_ids, token) != options.stop_ids.end()) return FinishReason::kStopToken;
    timeline.append(token);
    result.tokens.push_back(token);
    emit(stops.push(decoder.next(token)));
    if (stops.matched()) return FinishReason::kStopString;
    if (static_cast<int64_t>(result.tokens.size()) == options.max_tokens) return FinishReason::kMaxTokens;
    return std::nullopt;
  };
  std::optional<FinishReason> reason;
  while (!(reason = step())) {
  }
  if (*reason != FinishReason::kStopString) {
    // An incomplete character at the very end becomes U+FFFD, and may still complete nothing: pass on what waited.
    emit(stops.push(decoder.finish()));
    if (stops.matched()) reason = FinishReason::kStopString;
    emit(stops.finish());
  }
  result.reason = *reason;
  result.stop_string = stops.matched();
  result.decode_seconds = decode.seconds();
  return result;
}

std::vector<bool> sampleable_ids(const Tokenizer& tokenizer) {
  std::vector<bool> allowed(tokenizer.vocab_size());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) allowed[id] = tokenizer.has_token(id);
  return allowed;
}

}  // namespace qnext
