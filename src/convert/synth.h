#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "tensor/dtype.h"

namespace qnext {

/// Configurations to make random checkpoints of: "80b" (the released shapes), "small" (12 layers, 0.4 B parameters, every
/// width a multiple of 256) and "tiny" (4 layers, 20 M parameters). Throws Error for another name. `layers` replaces the
/// number of layers, every fourth of which is attention; 0 keeps it.
ModelConfig preset_config(std::string_view preset, int64_t layers = 0);

struct SynthOptions {
  ModelConfig config;
  /// An element type (dtype_name) for every matrix, or "Q4_K_M": what llama.cpp's recipe of that name gives the routed
  /// experts, head and embedding (gate and up Q4_K, down half Q6_K and half Q4_K by layer, head Q6_K, embedding Q4_K), and
  /// Q4_K to Q6_K for the rest. Block types need GGUF. Norms, gates, taps and the router stay F32 in GGUF.
  std::string type = "BF16";
  bool mtp = false;
  uint64_t seed = 1;
  /// A directory whose tokenizer.json (and chat template) the checkpoint takes. Empty: a filler vocabulary of the
  /// config's size, the 256 bytes and three special tokens, with which any text can be encoded.
  std::filesystem::path tokenizer;
  int threads = 0;  ///< 0: one per CPU this process may use
};

struct SynthResult {
  int64_t parameters = 0, bytes = 0, tensors = 0;
};

/// Writes a checkpoint of random weights: to `out` as GGUF when its name ends in ".gguf", otherwise as a Hugging Face
/// directory `out` of config.json, model.safetensors and tokenizer files. Streamed: memory stays at some tens of MiB
/// whatever the size. The bytes depend on config, type, mtp and seed alone.
///
/// Weights are uniform with the deviation that keeps hidden states near unit size through any number of layers; blocks of
/// quantised types are random bits under scales of that size (not the quantisation of anything). Decay rates and time
/// steps are spread as in trained models, and the router's logits have a deviation of 1, so that all experts are used.
/// Throws Error (path, reason); what was at `out` is then unchanged.
SynthResult synthesize(const std::filesystem::path& out, const SynthOptions& options,
                       const std::function<void(int64_t done, int64_t total)>& on_progress = {});

}  // namespace qnext
