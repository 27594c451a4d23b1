#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/philox.h"

namespace qnext {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();
/// Up to here top_k keeps a heap beside one pass over the vocabulary, instead of moving the whole vocabulary about.
constexpr size_t kHeapLimit = 1024;

void require(bool ok, const char* option, const char* range, double value) {
  if (!ok) throw Error(fmt::format("{} must be {}, not {}", option, range, value));
}

}  // namespace

void validate(const SamplingOptions& o) {
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", "0 or more", o.temperature);
  require(o.top_k >= 0, "top-k", "0 (all) or more", static_cast<double>(o.top_k));
  require(o.top_p >= 0 && o.top_p <= 1, "top-p", "from 0 to 1", o.top_p);
  require(o.min_p >= 0 && o.min_p <= 1, "min-p", "from 0 to 1", o.min_p);
  require(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "repetition-penalty", "above 0",
          o.repetition_penalty);
  require(std::isfinite(o.presence_penalty), "presence-penalty", "a finite number", o.presence_penalty);
  require(std::isfinite(o.frequency_penalty), "frequency-penalty", "a finite number", o.frequency_penalty);
}

Sampler::Sampler(const SamplingOptions& options, std::vector<bool> allowed)
    : options_(options), allowed_(std::move(allowed)) {
  validate(options_);
}

void Sampler::observe_prompt(std::span<const int32_t> tokens) {
  if (options_.repetition_penalty == 1) return;
  for (const int32_t id : tokens) seen_[id].in_prompt = true;
}

void Sampler::clear() { seen_.clear(); }

int32_t Sampler::sample(std::span<const float> logits) {
  gather(logits);
  penalise();
  const int32_t best = greedy();
  if (logits_[best] == kMasked) throw Error("sampling: every token is masked");
  max_logit_ = logits_[best];
  const int32_t id = options_.temperature == 0 || options_.top_k == 1 ? best : draw();
  ++draws_;
  if (options_.repetition_penalty != 1 || options_.presence_penalty != 0 || options_.frequency_penalty != 0) {
    ++seen_[id].in_answer;
  }
  return id;
}

void Sampler::gather(std::span<const float> logits) {
  const size_t usable = std::min(logits.size(), allowed_.size());
  logits_.assign(std::max<size_t>(logits.size(), 1), kMasked);
  for (size_t id = 0; id < usable; ++id) {
    if (!allowed_[id]) continue;
    const float logit = logits[id];
    // Also catches NaN, which compares false with everything.
    if (!(logit < std::numeric_limits<float>::infinity())) {
      throw Error(
          fmt::format("sampling: the logit of token {} is {}; the model's output cannot be trusted", id, logit));
    }
    logits_[id] = logit;
  }
}

void Sampler::penalise() {
  for (const auto& [id, seen] : seen_) {
    if (id < 0 || static_cast<size_t>(id) >= logits_.size() || logits_[id] == kMasked) continue;
    double logit = logits_[id];
    logit = logit < 0 ? logit * options_.repetition_penalty : logit / options_.repetition_penalty;
    if (seen.in_answer > 0) {
      logit -= options_.presence_penalty + options_.frequency_penalty * static_cast<double>(seen.in_answer);
    }
    // Finite even for absurd penalties, so that a penalised token is never mistaken for a masked one.
    constexpr double kLargest = std::numeric_limits<float>::max();
    logits_[id] = static_cast<float>(std::clamp(logit, -kLargest, kLargest));
  }
}

int32_t Sampler::greedy() const {
  return static_cast<int32_t>(std::max_element(logits_.begin(), logits_.end()) - logits_.begin());
}

namespace {
/// Best first; among equals the lower id, so that no result depends on how a library sorts.
constexpr auto better = [](const auto& a, const auto& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
};
}  // namespace

void Sampler::keep_top_k(size_t k) {
  candidates_.clear();
  if (k > kHeapLimit) {
    for (size_t id = 0; id < logits_.size(); ++id) {
      if (logits_[id] != kMasked) candidates_.push_back({logits_[id], static_cast<int32_t>(id)});
    }
    if (k >= candidates_.size()) return;
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k), candidates_.end(),
                     better);
    candidates_.resize(k);
    // nth_element leaves an order that differs between libraries; neither the draw nor top_p may see it.
    std::sort(candidates_.begin(), candidates_.end(), better);
    sorted_ = true;
    return;
  }
  // A heap of the k best so far with the worst of them on top: almost every logit is dismissed by one comparison.
  float threshold = kMasked;
  for (size_t id = 0; id < logits_.size(); ++id) {
    if (!(logits_[id] > threshold)) continue;
    candidates_.push_back({logits_[id], static_cast<int32_t>(id)});
    std::push_heap(candidates_.begin(), candidates_.end(), better);
    if (candidates_.size() > k) {
      std::pop_heap(candidates_.begin(), candidates_.end(), better);
      candidates_.pop_back();
    }
    if (candidates_.size() == k) threshold = candidates_.front().logit;
  }
  std::sort_heap(candidates_.begin(), candidates_.end(), better);
  sorted_ = true;
}

/// Keeps the shortest prefix (best first) whose probability reaches top_p, and at least one candidate. Sorts only as
/// much as that takes.
void Sampler::keep_top_p(double top_p) {
  double total = 0;
  for (const Candidate& c : candidates_) total += weight(c.logit);
  double sum = 0;
  size_t kept = 0;
  size_t sorted_to = sorted_ ? candidates_.size() : 0;
  while (kept < candidates_.size()) {
    if (kept == sorted_to) {
      const size_t next = std::min(candidates_.size(), std::max<size_t>(64, 8 * sorted_to));
      const auto at = [&](size_t i) { return candidates_.begin() + static_cast<std::ptrdiff_t>(i); };
      if (next < candidates_.size()) std::nth_element(at(sorted_to), at(next), candidates_.end(), better);
      std::sort(at(sorted_to), at(next), better);
      sorted_to = next;
    }
    sum += weight(candidates_[kept++].logit);
    if (sum >= top_p * total) break;
  }
  candidates_.resize(kept);
  sorted_ = true;
}

/// exp((logit - max) / temperature): at most 1, so nothing overflows however large the logits are.
double Sampler::weight(float logit) const {
  return std::exp((static_cast<double>(logit) - static_cast<double>(max_logit_)) / options_.temperature);
}

int32_t Sampler::draw() {
  sorted_ = false;
  const size_t k = options_.top_k == 0 ? logits_.size() : static_cast<size_t>(options_.top_k);
  keep_top_k(std::min(k, logits_.size()));
  if (options_.top_p < 1) keep_top_p(options_.top_p);
  if (options_.min_p > 0) {
    std::erase_if(candidates_, [&](const Candidate& c) { return weight(c.logit) < options_.min_p; });
  }
  double total = 0;
  cumulative_.clear();
  for (const Candidate& c : candidates_) cumulative_.push_back(total += weight(c.logit));
  const double target = philox_uniform(options_.seed, draws_) * total;
  const auto chosen = std::upper_bound(cumulative_.begin(), cumulative_.end(), target);
  // Rounding may leave the target at the very end.
  const size_t index = std::min<size_t>(chosen - cumulative_.begin(), candidates_.size() - 1);
  return candidates_[index].id;
}

}  // namespace qnext
