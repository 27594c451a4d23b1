#pragma once
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace qnext {

/// How the next token is chosen. Filters run in transformers' order: penalties, temperature, top_k, top_p, min_p.
struct SamplingOptions {
  double temperature = 1.0;         ///< 0: the most likely token, ties to the lowest id
  int64_t top_k = 0;                ///< keep the k most likely; 0: all
  double top_p = 1.0;               ///< keep the fewest most likely tokens whose probabilities reach p; 1: all
  double min_p = 0.0;               ///< keep tokens at least min_p times as likely as the most likely one
  double repetition_penalty = 1.0;  ///< tokens of prompt and answer: positive logits / penalty, negative * penalty
  double presence_penalty = 0.0;    ///< subtracted from the logits of tokens in the answer
  double frequency_penalty = 0.0;   ///< subtracted once per occurrence in the answer
  uint64_t seed = 0;
};

/// Throws Error naming the option that is out of range.
void validate(const SamplingOptions& options);

/// Chooses tokens from logits. The choice depends on the logits, the options, the tokens observed and how many were
/// sampled before, and on nothing else: same seed, same tokens. The random numbers are integer arithmetic, equal on
/// every machine; the probabilities are float64. Not thread-safe.
class Sampler {
 public:
  /// `allowed[id]` says whether id may be sampled; ids from allowed.size() on never are. Throws as validate does.
  Sampler(const SamplingOptions& options, std::vector<bool> allowed);

  /// Tokens of the prompt: they count for the repetition penalty.
  void observe_prompt(std::span<const int32_t> tokens);
  /// Starts a new answer: presence and frequency penalties forget, and so do observed prompts.
  void clear();

  /// The next token; it is counted as part of the answer. Throws Error when a logit is NaN or +infinity, or no token
  /// is allowed.
  int32_t sample(std::span<const float> logits);

  const SamplingOptions& options() const { return options_; }

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  struct Seen {
    bool in_prompt = false;
    int64_t in_answer = 0;
  };

  void gather(std::span<const float> logits);
  void penalise();
  int32_t greedy() const;
  void keep_top_k(size_t k);
  void keep_top_p(double top_p);
  int32_t draw();
  double weight(float logit) const;

  SamplingOptions options_;
  std::vector<bool> allowed_;
  std::unordered_map<int32_t, Seen> seen_;
  std::vector<float> logits_;          ///< working copy: -infinity where not allowed
  std::vector<Candidate> candidates_;  ///< what is left: by id, or best first once a filter has sorted it
  std::vector<double> cumulative_;
  bool sorted_ = false;
  float max_logit_ = 0;
  uint64_t draws_ = 0;
};

}  // namespace qnext
