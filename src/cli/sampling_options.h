#pragma once
#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "runtime/generate.h"
#include "runtime/sampler.h"

namespace qnext::cli {

/// Sampling and stopping as typed; what is not typed comes from the model's generation_config.json.
struct TypedSampling {
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  int64_t max_tokens = 16384;
};
void add_sampling_options(CLI::App& app, TypedSampling& typed);

/// Fills in the model's recommendations: do_sample=false means temperature 0; without a generation_config.json the
/// family's own (temperature 0.7, top_p 0.8, top_k 20). The seed is random unless typed.
SamplingOptions sampling_options(const TypedSampling& typed, const GenerationConfig& recommended);

/// Tokens that end an answer: those of generation_config.json and config.json, and <|im_end|> and <|endoftext|>.
std::vector<int32_t> stop_ids(const ModelConfig& config, const GenerationConfig& generation,
                              const Tokenizer& tokenizer);

nlohmann::ordered_json sampling_json(const SamplingOptions& options);

}  // namespace qnext::cli
