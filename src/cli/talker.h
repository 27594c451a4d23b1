#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/model_options.h"
#include "cli/sampling_options.h"
#include "runtime/model_files.h"
#include "runtime/sequence_model.h"

namespace qnext::cli {

/// qnext run, as typed.
struct RunOptions {
  ModelOptions model;
  TypedSampling sampling;
  std::string prompt;
  bool has_prompt = false;
  bool chat = false, single_turn = false, plain = false, json = false, quiet = false;
  std::string system;
};

/// A model ready to talk, and everything that was read to make it so.
struct Talker {
  explicit Talker(const RunOptions& options);

  /// Opens the engine with room for `prompt_tokens` and, where it is bounded, the answer.
  void open(const RunOptions& options, int64_t prompt_tokens);
  Sampler sampler() const { return Sampler(sampling, sampleable_ids(tokenizer)); }
  GenerateOptions generate_options(const TypedSampling& typed) const;

  std::filesystem::path path;
  ModelFiles files;
  Tokenizer tokenizer;
  GenerationConfig generation;
  SamplingOptions sampling;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<SequenceModel> model;
  double open_seconds = 0;
};

/// What `run --json` prints of one answer.
nlohmann::ordered_json result_json(const GenerateResult& result, const Talker& talker);

}  // namespace qnext::cli
