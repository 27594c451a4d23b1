#include "cli/talker.h"

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace qnext::cli {

Talker::Talker(const RunOptions& options)
    : path(find_model(options.model.model)),
      files(path),
      tokenizer(files.tokenizer()),
      generation(files.generation_config()),
      sampling(sampling_options(options.sampling, generation)) {}

void Talker::open(const RunOptions& options, int64_t prompt_tokens) {
  const auto start = std::chrono::steady_clock::now();
  engine = open_engine(path, options.model, {.tokens = prompt_tokens, .quiet = options.quiet});
  if (tokenizer.vocab_size() > engine->config().vocab_size) {
    throw FileError(files.tokenizer_file(), "vocabulary",
                    fmt::format("at most {} ids (vocab_size of {})", engine->config().vocab_size,
                                std::filesystem::path(files.config_file()).filename().string()),
                    std::to_string(tokenizer.vocab_size()));
  }
  model = std::make_unique<SequenceModel>(*engine);
  open_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

GenerateOptions Talker::generate_options(const TypedSampling& typed) const {
  return {.max_tokens = typed.max_tokens,
          .stop_ids = stop_ids(engine->config(), generation, tokenizer),
          .stop_strings = typed.stop};
}

nlohmann::ordered_json result_json(const GenerateResult& result, const Talker& talker) {
  const auto rate = [](int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  };
  const auto answer_tokens = static_cast<int64_t>(result.tokens.size());
  const int64_t prompt_read = result.prompt_tokens - result.reused_tokens;
  nlohmann::ordered_json memory = memory_json(talker.engine->plan());
  const int64_t sequence = talker.model->sequence().bytes(), state = talker.engine->plan().state_per_sequence;
  memory["sequence_bytes"] = sequence;
  memory["state_bytes"] = state;  // recurrent and convolution: the same at any length
  memory["kv_bytes"] = sequence - state;
  return {{"model", talker.path.string()},
          {"text", result.text},
          {"tokens", result.tokens},
          {"finish_reason", finish_reason_name(result.reason)},
          {"stop_string", result.stop_string ? nlohmann::ordered_json(*result.stop_string) : nullptr},
          {"prompt_tokens", result.prompt_tokens},
          {"reused_tokens", result.reused_tokens},
          {"answer_tokens", answer_tokens},
          {"timings",
           {{"open_seconds", talker.open_seconds},
            {"prefill_seconds", result.prefill_seconds},
            {"prefill_tokens_per_second", rate(prompt_read, result.prefill_seconds)},
            {"decode_seconds", result.decode_seconds},
            {"decode_tokens_per_second", rate(answer_tokens, result.decode_seconds)}}},
          {"memory", memory},
          {"sampling", sampling_json(talker.sampling)}};
}

}  // namespace qnext::cli
