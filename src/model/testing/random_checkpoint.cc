#include "model/testing/random_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/error.h"
#include "formats/safetensors.h"

namespace qnext::testing {

namespace {

constexpr int64_t kScaleBlock = 128;

/// SplitMix64, with the distributions spelled out: those of <random> differ between standard libraries.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }
  double uniform(double from, double to) { return from + (to - from) * static_cast<double>(next() >> 11) * 0x1p-53; }
  double normal(double mean, double deviation) {  // Box-Muller
    const double radius = std::sqrt(-2 * std::log(1 - uniform(0, 1)));
    return mean + deviation * radius * std::cos(uniform(0, 2 * std::numbers::pi));
  }

 private:
  uint64_t state_;
};

uint64_t hash(std::string_view text) {  // FNV-1a
  uint64_t h = 0xCBF29CE484222325;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return h;
}

/// The code nearest to a value within +-448, ties to even.
uint8_t f32_to_f8e4m3(float value) {
  static const std::vector<float> kValues = [] {  // of the codes 0 .. 0x7E, rising
    std::vector<float> values;
    for (int code = 0; code < 0x7F; ++code) values.push_back(f8e4m3_to_f32(static_cast<uint8_t>(code)));
    return values;
  }();
  const float magnitude = std::min(std::fabs(value), kValues.back());
  size_t code = static_cast<size_t>(std::lower_bound(kValues.begin(), kValues.end(), magnitude) - kValues.begin());
  if (code > 0) {
    const float above = kValues[code] - magnitude, below = magnitude - kValues[code - 1];
    if (below < above || (below == above && code % 2 == 1)) --code;
  }
  return static_cast<uint8_t>(code | (std::signbit(value) ? 0x80 : 0));
}

std::vector<std::byte> encode(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(dtype_size(dtype)));
  const auto store = [&](size_t i, auto bits) { std::memcpy(bytes.data() + i * sizeof(bits), &bits, sizeof(bits)); };
  for (size_t i = 0; i < values.size(); ++i) {
    switch (dtype) {
      case DType::kF32:
        store(i, values[i]);
        break;
      case DType::kF16:
        store(i, f32_to_f16(values[i]));
        break;
      case DType::kBF16:
        store(i, f32_to_bf16(values[i]));
        break;
      case DType::kF8E4M3:
        store(i, f32_to_f8e4m3(values[i]));
        break;
      default: QNEXT_CHECK(false, "checkpoints of {} are written by the quantiser", dtype_name(dtype));
    }
  }
  return bytes;
}

/// Rows of a matrix under construction.
struct Rows {
  int64_t cols = 0;
  std::vector<float> values;

  /// Appends the rows [begin, begin + count) of `from`.
  void append(const Rows& from, int64_t begin, int64_t count) {
    cols = from.cols;
    const auto first = from.values.begin() + begin * cols;
    values.insert(values.end(), first, first + count * cols);
  }
  void append(const Rows& from) { append(from, 0, from.rows()); }
  int64_t rows() const { return static_cast<int64_t>(values.size()) / cols; }
};

/// Lays parameters out as checkpoints do.
class Writer {
 public:
  Writer(const ModelConfig& config, const CheckpointOptions& options) : c_(config), options_(options) {}

  std::vector<CheckpointTensor> write() {
    const std::string p = options_.language_model_prefix ? "model.language_model." : "model.";
    const int64_t d = c_.hidden_size;
    put(p + "embed_tokens.weight", random("model.embed_tokens.weight", c_.vocab_size, d));
    for (size_t i = 0; i < c_.layer_types.size(); ++i) {
      layer(fmt::format("{}layers.{}.", p, i), fmt::format("model.layers.{}.", i), c_.layer_types[i],
            c_.layer_is_moe[i]);
    }
    put_vector(p + "norm.weight", "model.norm.weight", {d});
    if (!c_.tie_word_embeddings) put("lm_head.weight", random("lm_head.weight", c_.vocab_size, d));
    if (options_.mtp) {
      for (const char* name :
           {"mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.norm.weight"}) {
        put_vector(name, name, {d});
      }
      put("mtp.fc.weight", random("mtp.fc.weight", d, 2 * d));
      layer("mtp.layers.0.", "mtp.layers.0.", LayerKind::kFullAttention, c_.num_experts > 0);
    }
    return std::move(tensors_);
  }

 private:
  /// `p` is the prefix in the file, `canonical` that of for_each_parameter.
  void layer(const std::string& p, const std::string& canonical, LayerKind kind, bool is_moe) {
    put_vector(p + "input_layernorm.weight", canonical + "input_layernorm.weight", {c_.hidden_size});
    if (kind == LayerKind::kLinearAttention) {
      delta_net(p + "linear_attn.", canonical + "linear_attn.");
    } else {
      attention(p + "self_attn.", canonical + "self_attn.");
    }
    put_vector(p + "post_attention_layernorm.weight", canonical + "post_attention_layernorm.weight",
               {c_.hidden_size});
    if (is_moe) {
      moe(p + "mlp.", canonical + "mlp.");
    } else {
      mlp(p + "mlp.", canonical + "mlp.", c_.intermediate_size);
    }
  }

  void delta_net(const std::string& p, const std::string& canonical) {
    const int64_t hk = c_.linear_num_key_heads, hv = c_.linear_num_value_heads, d = c_.hidden_size;
    const Rows q = random(canonical + "in_proj_qkvz.q", c_.linear_key_width(), d);
    const Rows k = random(canonical + "in_proj_qkvz.k", c_.linear_key_width(), d);
    const Rows v = random(canonical + "in_proj_qkvz.v", c_.linear_value_width(), d);
    const Rows z = random(canonical + "in_proj_qkvz.z", c_.linear_value_width(), d);
    const Rows b = random(canonical + "in_proj_ba.b", hv, d), a = random(canonical + "in_proj_ba.a", hv, d);
    if (options_.split_projections) {
      Rows qkv;
      for (const Rows* part : {&q, &k, &v}) qkv.append(*part);
      put_linear(p + "in_proj_qkv.weight", qkv);
      put_linear(p + "in_proj_z.weight", z);
      put(p + "in_proj_b.weight", b);
      put(p + "in_proj_a.weight", a);
    } else {
      Rows qkvz, ba;
      const int64_t key_dim = c_.linear_key_head_dim, value_rows = hv / hk * c_.linear_value_head_dim;
      for (int64_t h = 0; h < hk; ++h) {
        for (const Rows* part : {&q, &k}) qkvz.append(*part, h * key_dim, key_dim);
        for (const Rows* part : {&v, &z}) qkvz.append(*part, h * value_rows, value_rows);
        for (const Rows* part : {&b, &a}) ba.append(*part, h * (hv / hk), hv / hk);
      }
      put_linear(p + "in_proj_qkvz.weight", qkvz);
      put(p + "in_proj_ba.weight", ba);
    }
    put_vector(p + "conv1d.weight", canonical + "conv1d.weight",
               {c_.linear_conv_width(), 1, c_.linear_conv_kernel_dim});
    put_vector(p + "A_log", canonical + "A_log", {hv});
    put_vector(p + "dt_bias", canonical + "dt_bias", {hv});
    put_vector(p + "norm.weight", canonical + "norm.weight", {c_.linear_value_head_dim});
    put_linear(p + "out_proj.weight", random(canonical + "out_proj.weight", d, c_.linear_value_width()));
  }

  void attention(const std::string& p, const std::string& canonical) {
    const int64_t d = c_.hidden_size, dim = c_.head_dim;
    const Rows q = random(canonical + "q_proj.q", c_.attention_width(), d);
    const Rows gate = random(canonical + "q_proj.gate", c_.attention_width(), d);
    Rows query_gate;
    for (int64_t h = 0; h < c_.num_attention_heads; ++h) {
      for (const Rows* part : {&q, &gate}) query_gate.append(*part, h * dim, dim);
    }
    put_linear(p + "q_proj.weight", query_gate);
    for (const char* name : {"k_proj.weight", "v_proj.weight"}) {
      put_linear(p + name, random(canonical + name, c_.key_value_width(), d));
    }
    for (const char* name : {"q_norm.weight", "k_norm.weight"}) put_vector(p + name, canonical + name, {dim});
    put_linear(p + "o_proj.weight", random(canonical + "o_proj.weight", d, c_.attention_width()));
  }

  void mlp(const std::string& p, const std::string& canonical, int64_t width) {
    for (const char* name : {"gate_proj.weight", "up_proj.weight"}) {
      put_linear(p + name, random(canonical + name, width, c_.hidden_size));
    }
    put_linear(p + "down_proj.weight", random(canonical + "down_proj.weight", c_.hidden_size, width));
  }

  void moe(const std::string& p, const std::string& canonical) {
    const int64_t d = c_.hidden_size, width = c_.moe_intermediate_size;
    put(p + "gate.weight", random(canonical + "gate.weight", c_.num_experts, d));
    Rows gate_up, down;
    for (int64_t e = 0; e < c_.num_experts; ++e) {
      const std::string expert = fmt::format("experts.{}.", e);
      if (!options_.fused_experts) {
        mlp(p + expert, canonical + expert, width);
        continue;
      }
      gate_up.append(random(canonical + expert + "gate_proj.weight", width, d));
      gate_up.append(random(canonical + expert + "up_proj.weight", width, d));
      down.append(random(canonical + expert + "down_proj.weight", d, width));
    }
    if (options_.fused_experts) {
      put_linear(p + "experts.gate_up_proj", gate_up, c_.num_experts);
      put_linear(p + "experts.down_proj", down, c_.num_experts);
    }
    mlp(p + "shared_expert.", canonical + "shared_expert.", c_.shared_expert_intermediate_size);
    put(p + "shared_expert_gate.weight", random(canonical + "shared_expert_gate.weight", 1, d));
  }

  Rows random(const std::string& canonical, int64_t rows, int64_t cols) const {
    return {cols, random_parameter(options_, canonical, rows, cols)};
  }

  void put(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values, DType dtype) {
    tensors_.push_back({name, std::string(dtype_name(dtype)), std::move(shape), encode(values, dtype)});
  }
  DType plain_dtype() const { return options_.dtype == DType::kF8E4M3 ? DType::kBF16 : options_.dtype; }

  void put(const std::string& name, const Rows& rows) {
    put(name, {rows.rows(), rows.cols}, rows.values, plain_dtype());
  }

  void put_vector(const std::string& name, const std::string& canonical, std::vector<int64_t> shape) {
    const int64_t cols = shape.back();
    const int64_t rows = shape.size() == 1 ? 1 : shape[0];
    put(name, std::move(shape), random_parameter(options_, canonical, rows, cols), plain_dtype());
  }

  /// A matrix, or a stack of them, that fp8 checkpoints quantise.
  void put_linear(const std::string& name, const Rows& all, int64_t stacked = 0) {
    const int64_t count = std::max<int64_t>(stacked, 1), rows = all.rows() / count, cols = all.cols;
    std::vector<int64_t> shape{rows, cols};
    if (stacked > 0) shape.insert(shape.begin(), stacked);
    if (options_.dtype != DType::kF8E4M3) return put(name, shape, all.values, options_.dtype);

    const int64_t scale_rows = (rows + kScaleBlock - 1) / kScaleBlock,
                  scale_cols = (cols + kScaleBlock - 1) / kScaleBlock;
    std::vector<float> scales(static_cast<size_t>(count * scale_rows * scale_cols)), quantised = all.values;
    const auto scale_of = [&](int64_t i) -> float& {  // of element i of the stack
      const int64_t row = i / cols % rows, matrix = i / cols / rows;
      return scales[static_cast<size_t>((matrix * scale_rows + row / kScaleBlock) * scale_cols +
                                        i % cols / kScaleBlock)];
    };
    const auto size = static_cast<int64_t>(quantised.size());
    for (int64_t i = 0; i < size; ++i) {
      scale_of(i) = std::max(scale_of(i), std::fabs(quantised[static_cast<size_t>(i)]) / 448);
    }
    for (float& scale : scales) {
      if (options_.bf16_scales) scale = bf16_to_f32(f32_to_bf16(scale * 1.01f));  // not below what 448 needs
      if (scale == 0) scale = 1;
    }
    for (int64_t i = 0; i < size; ++i) quantised[static_cast<size_t>(i)] /= scale_of(i);
    put(name, shape, quantised, DType::kF8E4M3);
    shape[shape.size() - 2] = scale_rows;
    shape[shape.size() - 1] = scale_cols;
    put(name + "_scale_inv", shape, scales, options_.bf16_scales ? DType::kBF16 : DType::kF32);
  }

  const ModelConfig& c_;
  const CheckpointOptions& options_;
  std::vector<CheckpointTensor> tensors_;
};

}  // namespace

ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 160;
  c.hidden_size = 64;
  c.layer_types.assign(4, LayerKind::kLinearAttention);
  c.layer_types[3] = LayerKind::kFullAttention;
  c.layer_is_moe = {true, false, true, true};
  c.intermediate_size = 96;
  c.max_position_embeddings = 4096;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 32;
  c.rope.dims = 8;
  c.linear_num_key_heads = 2;
  c.linear_num_value_heads = 4;
  c.linear_key_head_dim = 16;
  c.linear_value_head_dim = 24;
  c.linear_conv_kernel_dim = 4;
  c.num_experts = 8;
  c.num_experts_per_tok = 3;
  c.moe_intermediate_size = 32;
  c.shared_expert_intermediate_size = 40;
  c.eos_token_ids = {2};
  return c;
}

std::string config_json(const ModelConfig& c, const CheckpointOptions& options) {
  const bool legacy = options.legacy_config;
  nlohmann::ordered_json j;
  j["architectures"] = {"Qwen3NextForCausalLM"};
  j["model_type"] = "qwen3_next";
  j["hidden_act"] = "silu";
  j["vocab_size"] = c.vocab_size;
  j["hidden_size"] = c.hidden_size;
  j["intermediate_size"] = c.intermediate_size;
  j["num_hidden_layers"] = c.num_layers();
  j["num_attention_heads"] = c.num_attention_heads;
  j["num_key_value_heads"] = c.num_key_value_heads;
  j["head_dim"] = c.head_dim;
  j["max_position_embeddings"] = c.max_position_embeddings;
  j["rms_norm_eps"] = c.rms_norm_eps;
  j["tie_word_embeddings"] = c.tie_word_embeddings;
  j["linear_conv_kernel_dim"] = c.linear_conv_kernel_dim;
  j["linear_num_key_heads"] = c.linear_num_key_heads;
  j["linear_num_value_heads"] = c.linear_num_value_heads;
  j["linear_key_head_dim"] = c.linear_key_head_dim;
  j["linear_value_head_dim"] = c.linear_value_head_dim;
  j["num_experts"] = c.num_experts;
  if (c.num_experts > 0) {
    j["num_experts_per_tok"] = c.num_experts_per_tok;
    j["moe_intermediate_size"] = c.moe_intermediate_size;
    j["shared_expert_intermediate_size"] = c.shared_expert_intermediate_size;
    j["norm_topk_prob"] = c.norm_topk_prob;
  }
  j["decoder_sparse_step"] = 1;
  j["mlp_only_layers"] = nlohmann::json::array();
  j["layer_types"] = nlohmann::json::array();
  for (size_t i = 0; i < c.layer_types.size(); ++i) {
    if (!c.layer_is_moe[i]) j["mlp_only_layers"].push_back(i);
    j["layer_types"].push_back(c.layer_types[i] == LayerKind::kFullAttention ? "full_attention" : "linear_attention");
  }
  if (c.num_mtp_layers.has_value()) j["num_nextn_predict_layers"] = *c.num_mtp_layers;
  if (c.eos_token_ids.size() == 1) j["eos_token_id"] = c.eos_token_ids[0];
  if (c.eos_token_ids.size() > 1) j["eos_token_id"] = c.eos_token_ids;
  const char* dtype = options.dtype == DType::kF32   ? "float32"
                      : options.dtype == DType::kF16 ? "float16"
                                                     : "bfloat16";
  j[legacy ? "torch_dtype" : "dtype"] = dtype;
  if (options.dtype == DType::kF8E4M3) {
    j["quantization_config"] = {{"quant_method", "fp8"},
                                {"fmt", "e4m3"},
                                {"activation_scheme", "dynamic"},
                                {"weight_block_size", {kScaleBlock, kScaleBlock}}};
  }

  nlohmann::ordered_json rope;
  rope[legacy ? "type" : "rope_type"] = c.rope.yarn ? "yarn" : "default";
  nlohmann::ordered_json& base = legacy ? j : rope;
  base["rope_theta"] = c.rope.theta;
  base["partial_rotary_factor"] = static_cast<double>(c.rope.dims) / static_cast<double>(c.head_dim);
  if (c.rope.yarn) {
    rope["factor"] = c.rope.factor;
    rope["original_max_position_embeddings"] = c.rope.original_max_position_embeddings;
    rope["beta_fast"] = c.rope.beta_fast;
    rope["beta_slow"] = c.rope.beta_slow;
    rope["attention_factor"] = c.rope.attention_factor;
    rope["truncate"] = c.rope.truncate;
  }
  if (!legacy) {
    j["rope_parameters"] = rope;
  } else {
    j["rope_scaling"] = c.rope.yarn ? rope : nlohmann::ordered_json(nullptr);
  }
  return j.dump(2) + "\n";
}

std::vector<float> random_parameter(const CheckpointOptions& options, const std::string& name, int64_t rows,
                                    int64_t cols) {
  Random random(Random(options.seed).next() ^ hash(name));
  const auto is = [&](std::string_view suffix) { return name.ends_with(suffix); };
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (float& value : values) {
    double x = 0;
    if (is("A_log")) {
      x = std::log(random.uniform(1, 16));
    } else if (is("dt_bias")) {
      x = random.normal(1, 0.1);
    } else if (is("conv1d.weight")) {
      x = random.uniform(-0.5, 0.5);
    } else if (is("linear_attn.norm.weight")) {
      x = random.normal(1, 0.1);  // a plain gain
    } else if (is("norm.weight") || is("norm_embedding.weight") || is("norm_hidden.weight")) {
      x = random.normal(0, 0.1);  // zero-centred
    } else {
      x = random.normal(0, options.linear_std);
    }
    value = static_cast<float>(x);
  }
  return values;
}

std::vector<CheckpointTensor> random_tensors(const ModelConfig& config, const CheckpointOptions& options) {
  return Writer(config, options).write();
}

void write_tensors(const std::filesystem::path& directory, const std::vector<CheckpointTensor>& tensors, int shards) {
  std::filesystem::create_directories(directory);
  std::vector<TensorToWrite> views;
  for (const CheckpointTensor& t : tensors) views.push_back({t.name, t.dtype_text, t.shape, t.bytes});
  const std::map<std::string, std::string> metadata{{"format", "pt"}};  // transformers insists on it
  if (shards == 1) return write_safetensors(directory / "model.safetensors", views, metadata);

  nlohmann::json index;
  uint64_t total = 0;
  const auto count = static_cast<size_t>(shards);
  for (size_t s = 0; s < count; ++s) {
    const size_t begin = views.size() * s / count, end = views.size() * (s + 1) / count;
    const std::string file = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, count);
    write_safetensors(directory / file, std::span(views).subspan(begin, end - begin), metadata);
    for (size_t i = begin; i < end; ++i) {
      index["weight_map"][views[i].name] = file;
      total += views[i].bytes.size();
    }
  }
  index["metadata"]["total_size"] = total;
  write_file(directory / "model.safetensors.index.json", index.dump(2));
}

void write_random_checkpoint(const std::filesystem::path& directory, const ModelConfig& config,
                             const CheckpointOptions& options) {
  write_tensors(directory, random_tensors(config, options), options.shards);
  write_file(directory / "config.json", config_json(config, options));
  if (config.eos_token_ids.empty()) return;
  const nlohmann::json generation{{"eos_token_id", config.eos_token_ids}};
  write_file(directory / "generation_config.json", generation.dump(2));
}

}  // namespace qnext::testing
