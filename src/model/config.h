#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qnext {

enum class LayerKind : uint8_t { kLinearAttention, kFullAttention };

/// Rotary position embedding over the first `dims` dimensions of each head, half-split pairs (docs/model.md).
struct RopeConfig {
  double theta = 1e7;
  int64_t dims = 64;  ///< partial_rotary_factor * head_dim, even
  bool yarn = false;  ///< the rest applies only when true
  double factor = 1.0;
  int64_t original_max_position_embeddings = 0;
  double beta_fast = 32.0, beta_slow = 1.0;
  /// Multiplies cos and sin. 0.1 ln(factor) + 1 unless the config states attention_factor.
  double attention_factor = 1.0;
  bool truncate = true;  ///< round the correction range to whole dimensions
};

/// config.json of a Qwen3-Next checkpoint, checked: every size is positive and bounded, divisions are exact.
/// Field names are Hugging Face's.
struct ModelConfig {
  int64_t vocab_size = 0;   ///< rows of embedding and head; the tokenizer may define fewer ids
  int64_t hidden_size = 0;  ///< D
  std::vector<LayerKind> layer_types;
  std::vector<bool> layer_is_moe;      ///< per layer: mixture of experts, or one dense MLP
  int64_t intermediate_size = 0;       ///< width of a dense MLP
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  int64_t max_position_embeddings = 0;  ///< tokens of context; with YaRN, at least factor * original

  // Gated attention.
  int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  RopeConfig rope;

  // Gated DeltaNet. The same number of query and key heads; value head j reads key head j / (Hv / Hk).
  int64_t linear_num_key_heads = 0, linear_num_value_heads = 0;
  int64_t linear_key_head_dim = 0, linear_value_head_dim = 0;
  int64_t linear_conv_kernel_dim = 0;

  // Mixture of experts.
  int64_t num_experts = 0, num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0, shared_expert_intermediate_size = 0;
  bool norm_topk_prob = true;

  /// MTP layers that the config announces; empty when it says nothing and the tensors decide.
  std::optional<int64_t> num_mtp_layers;
  std::vector<int32_t> eos_token_ids;

  int64_t num_layers() const { return static_cast<int64_t>(layer_types.size()); }
  int64_t linear_key_width() const { return linear_num_key_heads * linear_key_head_dim; }        ///< q and k each
  int64_t linear_value_width() const { return linear_num_value_heads * linear_value_head_dim; }  ///< v and z each
  int64_t linear_conv_width() const { return 2 * linear_key_width() + linear_value_width(); }    ///< q | k | v
  int64_t attention_width() const { return num_attention_heads * head_dim; }
  int64_t key_value_width() const { return num_key_value_heads * head_dim; }
};

/// Parses the text of a config.json in every spelling that transformers has used (docs/model.md). `file` names it in
/// messages. Throws FileError naming the field.
ModelConfig parse_config(std::string_view json, const std::string& file);
/// Reads `directory/config.json`.
ModelConfig load_config(const std::filesystem::path& directory);

/// generation_config.json: what a checkpoint recommends for sampling. Absent fields are empty.
struct GenerationConfig {
  std::optional<bool> do_sample;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::vector<int32_t> eos_token_ids;
};
GenerationConfig parse_generation_config(std::string_view json, const std::string& file);
/// Reads `directory/generation_config.json`; all empty when there is no such file.
GenerationConfig load_generation_config(const std::filesystem::path& directory);

}  // namespace qnext
