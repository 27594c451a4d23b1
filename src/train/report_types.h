#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace qnext {

/// How the routers of one MoE layer chose over the rows of an optimiser step (all ranks together).
struct LayerLoad {
  std::string name;             ///< "layer 3", "mtp"
  std::vector<int64_t> tokens;  ///< [E] rows that chose the expert
  int64_t rows = 0;
  double balance = 0.0;  ///< E/(k N) sum of counts times mean probability: 1 when all experts are equally loaded
};

/// One of the groups whose gradients are measured by themselves.
struct GroupNorm {
  std::string name;  ///< "embedding", "layer 0", ..., "mtp", "head" (final norm and head)
  double gradient_norm = 0.0;
};

/// What an optimiser step did. Losses are means over all targets of the step, in nats.
struct StepReport {
  int64_t step = 0;           ///< 1 for the first
  int64_t tokens = 0;         ///< rows of this step
  int64_t tokens_seen = 0;    ///< rows of all steps so far, this one among them
  int64_t targets = 0;        ///< rows with a target for the main model
  int64_t documents_seen = 0; ///< documents begun so far
  int64_t epoch = 0;
  int64_t sequence_length = 0;
  double loss = 0.0;                  ///< of the main model
  std::vector<double> mtp_loss;       ///< [D] of each MTP step
  std::vector<double> mtp_acceptance; ///< [D] share of drafts that greedy decoding would accept
  double balance_loss = 0.0;          ///< as it enters the loss, with its coefficient
  double z_loss = 0.0;                ///< as it enters the loss, with its coefficient
  double total_loss = 0.0;            ///< loss + MTP + balance + z, what is minimised
  double gradient_norm = 0.0;         ///< before clipping
  bool clipped = false;
  std::vector<GroupNorm> group_norms;
  double learning_rate = 0.0;       ///< AdamW's
  double muon_learning_rate = 0.0;  ///< 0 without Muon
  double seconds = 0.0;             ///< wall time of the step
  double forward_seconds = 0.0, backward_seconds = 0.0, optimizer_seconds = 0.0, data_seconds = 0.0;
  double flops = 0.0;  ///< arithmetic of the step as docs/training.md counts it, without recomputation
  std::vector<LayerLoad> loads;  ///< per MoE layer, the MTP module's last

  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0; }
  double flops_per_second() const { return seconds > 0 ? flops / seconds : 0.0; }
};

/// Losses on the validation set, in nats per target.
struct EvaluationReport {
  int64_t step = 0, tokens_seen = 0;  ///< of the training run
  int64_t tokens = 0, targets = 0;    ///< that were evaluated
  double loss = 0.0;
  std::vector<double> mtp_loss, mtp_acceptance;  ///< [D]
  double seconds = 0.0;
  bool best = false;           ///< lower than every evaluation before
};

/// Bytes that a rank takes, without the states and keys of the documents that its lanes are in.
struct TrainingMemory {
  int64_t parameters = 0, gradients = 0, moments = 0;
  int64_t inputs = 0;   ///< of every layer, of all rows of a step
  int64_t kept = 0;     ///< of what is inside the layers, at most memory.activations_mib
  int64_t working = 0;  ///< one layer of one batch
};

/// What a run is, known before its first step.
struct RunReport {
  std::string config_text;  ///< the TOML file
  int64_t parameters = 0, active_parameters = 0;
  int64_t steps = 0;        ///< that the run will have in all
  int64_t first_step = 0;   ///< last one done before this sitting; 0 for a new run
  int64_t batch_tokens = 0;
  double peak_flops = 0.0;  ///< measured multiply-adds of all threads, FLOP/s
  std::string products;     ///< how operands of products meet, as products_name() has it; empty: not known
  int threads = 0;
  int ranks = 1;
  TrainingMemory memory;  ///< of rank 0
};

}  // namespace qnext
