#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace qnext {

enum class BalanceForm : uint8_t { kNone, kGlobal, kHuggingFace };
enum class OptimizerKind : uint8_t { kAdamW, kMuon };
enum class ScheduleKind : uint8_t { kConstant, kCosine, kWsd };
enum class DtBias : uint8_t { kLogUniform, kOnes };
enum class ProductsChoice : uint8_t { kAuto, kF32, kBf16 };

/// A run.toml. Every key with its range, default and meaning is a row of the table in config.cc, which
/// `qnext train --explain` prints.
struct TrainConfig {
  struct Run {
    std::filesystem::path output;
    int64_t seed = 1, threads = 0;
    ProductsChoice products = ProductsChoice::kF32;
  } run;
  struct Model {
    std::filesystem::path from, tokenizer;
    int64_t mtp_steps = 0;
    double initializer_range = 0.02;
    DtBias dt_bias = DtBias::kLogUniform;
  } model;
  /// Low-rank additions to a frozen model.
  struct Lora {
    int64_t rank = 0;  ///< 0: none, the whole model is trained
    double alpha = 0;
    std::vector<std::string> targets;  ///< each means a module of the model (lora_target_matches)
  } lora;
  struct Data {
    std::vector<std::filesystem::path> train, valid;
    int64_t seed = 0;
    struct Stage {
      int64_t tokens_seen = 0, sequence_length = 0;
    };
    std::vector<Stage> stages;  ///< the first from 0 tokens on
    int64_t batch_tokens = 0, micro_batch_tokens = 0, max_context = 0;
    bool carry_state = true, allow_change = false;
  } data;
  struct Optimizer {
    OptimizerKind kind = OptimizerKind::kAdamW;
    double learning_rate = 0, muon_learning_rate = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, momentum = 0, clip = 0;
    int64_t steps = 0, warmup_steps = 0;
    ScheduleKind schedule = ScheduleKind::kCosine;
    double final_fraction = 0, decay_fraction = 0;
  } optimizer;
  struct Loss {
    BalanceForm balance = BalanceForm::kGlobal;
    double balance_coefficient = 0, z_coefficient = 0, mtp_weight = 0;
  } loss;
  struct Checkpoints {
    int64_t every = 0, keep_last = 0;
    bool keep_best = true, bf16 = false;
  } checkpoint;
  struct Evaluation {
    int64_t every = 0, tokens = 0;
    std::vector<std::string> prompts;
    int64_t sample_tokens = 0;
  } evaluation;
  struct Memory {
    int64_t activation_bytes = 0;
  } memory;

  struct Distributed {
    bool expert_parallel = false;
  } distributed;

  ModelConfig shape;
  std::string config_json;  ///< the config.json of the model, as checkpoints hold it; empty with LoRA, whose hold none
  std::string text;         ///< of the file
  /// Every key with its value as text, defaults too: what a resumed run is compared by. Who chooses the products puts here what
  /// "auto" has become.
  std::map<std::string, std::string> values;

  /// The stage that a step belongs to which begins after this many tokens.
  const Data::Stage& stage(int64_t tokens_seen) const;
};

/// Reads the text of a run.toml; relative paths in it start from `directory`. Throws FileError with "FILE:LINE" for an unknown
/// key, a wrong type, a value out of range and an impossible shape.
TrainConfig parse_train_config(std::string_view text, const std::string& file, const std::filesystem::path& directory);
TrainConfig load_train_config(const std::filesystem::path& path);

/// All keys with type, default and meaning, as a commented TOML file.
std::string explain_train_config();

}  // namespace qnext
