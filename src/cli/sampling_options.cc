#include "cli/sampling_options.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/model_options.h"

namespace qnext::cli {

void add_sampling_options(CLI::App& app, TypedSampling& typed) {
  const std::string group = "Sampling (defaults: the model's generation_config.json)";
  const auto add = [&](const char* name, auto& value, const char* what, CLI::Validator range, const char* type) {
    app.add_option(name, value, what)->check(quiet(range))->type_name(type)->group(group);
  };
  constexpr double kLarge = 1e6;
  add("--temperature", typed.temperature, "higher is more varied; 0 always takes the most likely token",
      CLI::Range(0.0, kLarge), "X");
  add("--top-k", typed.top_k, "choose among the K most likely tokens; 0: all",
      CLI::Range(int64_t{0}, int64_t{1} << 31), "K");
  add("--top-p", typed.top_p, "choose among the fewest most likely tokens that reach probability P",
      CLI::Range(0.0, 1.0), "P");
  add("--min-p", typed.min_p, "drop tokens less than P times as likely as the most likely one", CLI::Range(0.0, 1.0),
      "P");
  add("--repetition-penalty", typed.repetition_penalty,
      "above 1: tokens already in prompt or answer become less likely", CLI::Range(1e-3, 1e3), "X");
  add("--presence-penalty", typed.presence_penalty, "subtracted from the logits of tokens in the answer",
      CLI::Range(-kLarge, kLarge), "X");
  add("--frequency-penalty", typed.frequency_penalty, "the same, once per occurrence", CLI::Range(-kLarge, kLarge),
      "X");
  app.add_option("--seed", typed.seed,
                 "same seed, prompt and options: same answer; default: random, printed at the end")
      ->type_name("N")
      ->group(group);
  app.add_option("--stop", typed.stop, "end the answer before this text (may be given several times)")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("-n,--max-tokens", typed.max_tokens, "most tokens of one answer; 0: until the context is full")
      ->check(quiet(CLI::NonNegativeNumber))
      ->capture_default_str()
      ->type_name("N")
      ->group(group);
}

SamplingOptions sampling_options(const TypedSampling& typed, const GenerationConfig& recommended) {
  const bool says_nothing =
      !recommended.do_sample && !recommended.temperature && !recommended.top_p && !recommended.top_k;
  const bool greedy = recommended.do_sample && !*recommended.do_sample;
  SamplingOptions options;
  options.temperature = typed.temperature.value_or(greedy         ? 0.0
                                                   : says_nothing ? 0.7
                                                                  : recommended.temperature.value_or(1.0));
  options.top_p = typed.top_p.value_or(recommended.top_p.value_or(says_nothing ? 0.8 : 1.0));
  options.top_k = typed.top_k.value_or(recommended.top_k.value_or(says_nothing ? 20 : 0));
  options.min_p = typed.min_p.value_or(recommended.min_p.value_or(0.0));
  options.repetition_penalty = typed.repetition_penalty.value_or(recommended.repetition_penalty.value_or(1.0));
  options.presence_penalty = typed.presence_penalty.value_or(0.0);
  options.frequency_penalty = typed.frequency_penalty.value_or(0.0);
  // 32 bits are plenty of variety and easy to type again.
  options.seed = typed.seed ? *typed.seed : std::random_device{}();
  return options;
}

std::vector<int32_t> stop_ids(const ModelConfig& config, const GenerationConfig& generation,
                              const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = config.eos_token_ids;
  ids.insert(ids.end(), generation.eos_token_ids.begin(), generation.eos_token_ids.end());
  for (const char* name : {"<|im_end|>", "<|endoftext|>"}) {
    const std::optional<int32_t> id = tokenizer.token_id(name);
    if (id && tokenizer.is_special(*id)) ids.push_back(*id);
  }
  std::ranges::sort(ids);
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

nlohmann::ordered_json sampling_json(const SamplingOptions& o) {
  return {{"temperature", o.temperature},
          {"top_k", o.top_k},
          {"top_p", o.top_p},
          {"min_p", o.min_p},
          {"repetition_penalty", o.repetition_penalty},
          {"presence_penalty", o.presence_penalty},
          {"frequency_penalty", o.frequency_penalty},
          {"seed", o.seed}};
}

}  // namespace qnext::cli
