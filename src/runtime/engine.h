#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/cpu.h"
#include "model/model.h"
#include "runtime/memory_plan.h"
#include "runtime/sequence.h"

namespace qnext {

struct EngineOptions {
  int threads = 0;                ///< 0: one per CPU this process may use
  std::optional<Isa> isa;         ///< forced instruction set; otherwise chosen_isa()
  int64_t context = 0;            ///< most tokens of one sequence; 0: the model's max_position_embeddings
  int64_t planned_context = 4096; ///< tokens of context the memory plan must have room for before loading goes on
  /// Most rows (tokens of all sequences together) of one step. The more, the less often a prompt reads the weights.
  /// 0: as many, up to 4,096 and the context, as memory has room for.
  int64_t batch_rows = 0;
  DType kv_dtype = DType::kF32;   ///< F32, BF16 or Q8_0 (KvLayout)
  /// Activations that meet block-quantised weights: rounded to int8, or (slow, the yardstick) in f32.
  ActivationPrecision activations = ActivationPrecision::kInt8;
  bool mtp = false;               ///< keep state for the MTP module
  bool mtp_if_present = false;    ///< sets mtp when the model has the module
  /// A PEFT adapter (model/peft.h) that is added to the model's products, unmerged; empty: none.
  std::filesystem::path lora;
  int64_t memory_limit_bytes = 0; ///< 0: available_memory_bytes()
  /// Puts a backend of the caller's around the engine's own, to watch what it is asked. Empty: nothing.
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)> wrap_backend;
};

/// Which rows of a feed get logits: the vocabulary-sized head is computed for these alone.
enum class LogitRows { kNone, kLast, kAll };

/// Tokens to append to one sequence in a step.
struct Feed {
  Sequence* sequence = nullptr;
  std::span<const int32_t> tokens;
  LogitRows logits = LogitRows::kLast;
};

/// A model opened for inference: its weights, the backend, and the one arena that every step works in.
/// One thread at a time calls it; sequences are independent of each other, and a sequence's results do not depend on
/// what else is in the step (bitwise, docs/numerics.md).
class Engine {
 public:
  /// Opens a model directory or a GGUF file (ModelFiles). The memory plan is checked before anything large is allocated. Throws Error/FileError.
  explicit Engine(const std::filesystem::path& model, const EngineOptions& options = {});
  ~Engine();

  const ModelConfig& config() const;
  const Weights& weights() const;
  const MemoryPlan& plan() const;
  const StateLayout& layout() const;     ///< of the sequences it creates
  const EngineOptions& options() const;  ///< with defaults filled in (context, batch_rows, threads, isa)
  std::string_view backend_name() const;

  std::unique_ptr<Sequence> create_sequence();

  /// Appends each feed's tokens to its sequence, at most options().batch_rows rows in all, each sequence at most once.
  /// Returns logits [n, vocab_size], n rows in feed order; the span lives until the next call. Before anything
  /// changes, throws Error for a token id outside the vocabulary or a sequence that would exceed the context. Throws
  /// Error naming the layer when a value stops being finite (the sequences are then unusable until reset()).
  std::span<const float> step(std::span<const Feed> feeds);

  /// Final-normed hidden states [rows, hidden_size] of every row of the last step (after mtp_step: mtp.norm's output, the
  /// input of a further draft). Lives until the next call.
  Rows last_hidden() const;

  /// The MTP module on one sequence: row i combines next_tokens[i] with hidden[i] (final-normed, of the position before
  /// it) at the module's own next position, and predicts the token after next_tokens[i]. hidden: [n, hidden_size], may be
  /// last_hidden(). Returns logits [n, vocab_size]. Requires options().mtp.
  std::span<const float> mtp_step(Sequence& sequence, std::span<const int32_t> next_tokens, Rows hidden);

  /// Feeds `tokens` in steps of at most `chunk` (0: batch_rows, fewer for kAll when their logits would take more than
  /// 256 MiB) rows, calling on_logits after each step with the index of
  /// its first token and its logits (rows as `rows` asks, kLast meaning the last token of all; possibly none), and on_progress with the
  /// number of tokens done. Either function may be empty.
  void prefill(Sequence& sequence, std::span<const int32_t> tokens, LogitRows rows, int64_t chunk,
               const std::function<void(int64_t first, std::span<const float> logits)>& on_logits,
               const std::function<void(int64_t done)>& on_progress = {});

  /// Called after the embedding (-1), every layer (0..L-1) and the final norm (L) of each step with that step's hidden
  /// states [rows, hidden_size]. For tests and inspection; empty by default.
  std::function<void(int64_t layer, std::span<const float> hidden)> observer;

 private:
  std::span<const float> dense(Rows rows);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qnext
