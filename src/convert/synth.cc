#include "convert/synth.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/cpu.h"
#include "base/error.h"
#include "base/philox.h"
#include "base/thread_pool.h"
#include "convert/synth_blocks.h"
#include "convert/synth_vocabulary.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace qnext {

namespace fs = std::filesystem;
using Kind = RandomTensor::Kind;

namespace {

/// What a matrix is for; recipes choose by it.
enum class Role { kEmbedding, kHead, kExpertUp, kExpertDown, kDeltaQkv, kDeltaGate, kDeltaOut, kValue, kAttentionOut, kOther,
                  kRouter, kVector };

struct SynthTensor {
  TensorSpec spec;
  RandomTensor random;
};

/// llama.cpp gives these layers' values and down projections more bits: the first and last eighth, and every third between.
bool more_bits(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

/// The tensors of a checkpoint, in the names of one format, in the order of the model.
class Layout {
 public:
  Layout(const SynthOptions& options, bool gguf) : options_(options), c_(options.config), gguf_(gguf) {
    if (options.type == "Q4_K_M") {
      recipe_ = true;
    } else {
      const auto dtype = dtype_from_name(options.type);
      if (!dtype || *dtype == DType::kF8E4M3) {
        throw Error(fmt::format("type: expected an element type such as BF16, Q8_0 or Q4_K, or Q4_K_M, found {}", qnext::quoted(options.type)));
      }
      dtype_ = *dtype;
    }
    if (!gguf && (recipe_ || is_block_type(dtype_))) {
      throw Error(fmt::format("type {}: safetensors files have no block types; name the output *.gguf", options.type));
    }
  }

  std::vector<SynthTensor> tensors() {
    const int64_t d = c_.hidden_size;
    const std::string p = gguf_ ? "" : "model.";
    matrix(gguf_ ? "token_embd.weight" : "model.embed_tokens.weight", {c_.vocab_size, d}, Role::kEmbedding, 1);
    for (int64_t i = 0; i < c_.num_layers(); ++i) {
      layer(gguf_ ? fmt::format("blk.{}.", i) : fmt::format("model.layers.{}.", i), i, c_.layer_types[static_cast<size_t>(i)]);
    }
    gain(gguf_ ? "output_norm.weight" : "model.norm.weight", d);
    matrix(gguf_ ? "output.weight" : "lm_head.weight", {c_.vocab_size, d}, Role::kHead, 2 * fan_in(d));
    if (options_.mtp) {
      const std::string block = fmt::format("blk.{}.", c_.num_layers());
      layer(gguf_ ? block : "mtp.layers.0.", c_.num_layers(), LayerKind::kFullAttention);
      const std::string next = gguf_ ? block + "nextn." : "mtp.";
      matrix(next + (gguf_ ? "eh_proj.weight" : "fc.weight"), {d, 2 * d}, Role::kOther, fan_in(2 * d));
      gain(next + (gguf_ ? "enorm.weight" : "pre_fc_norm_embedding.weight"), d);
      gain(next + (gguf_ ? "hnorm.weight" : "pre_fc_norm_hidden.weight"), d);
      gain(next + (gguf_ ? "shared_head_norm.weight" : "norm.weight"), d);
    }
    return std::move(tensors_);
  }

 private:
  static double fan_in(int64_t inputs) { return 1 / std::sqrt(static_cast<double>(inputs)); }
  /// What a branch adds to the stream: 2 L branches of this deviation add up to about that of the embedding.
  double branch(int64_t inputs) const { return fan_in(inputs) / std::sqrt(2.0 * static_cast<double>(c_.num_layers())) * 2; }

  void layer(const std::string& p, int64_t index, LayerKind kind) {
    layer_ = index;
    gain(p + (gguf_ ? "attn_norm.weight" : "input_layernorm.weight"), c_.hidden_size);
    gain(p + (gguf_ ? "post_attention_norm.weight" : "post_attention_layernorm.weight"), c_.hidden_size);
    if (kind == LayerKind::kLinearAttention) {
      delta_net(gguf_ ? p : p + "linear_attn.");
    } else {
      attention(gguf_ ? p : p + "self_attn.");
    }
    moe(gguf_ ? p : p + "mlp.");
  }

  void delta_net(const std::string& p) {
    const int64_t d = c_.hidden_size, hv = c_.linear_num_value_heads, values = c_.linear_value_width();
    if (gguf_) {
      matrix(p + "attn_qkv.weight", {c_.linear_conv_width(), d}, Role::kDeltaQkv, fan_in(d));
      matrix(p + "attn_gate.weight", {values, d}, Role::kDeltaGate, fan_in(d));
    } else {
      matrix(p + "in_proj_qkvz.weight", {c_.linear_conv_width() + values, d}, Role::kOther, fan_in(d));
    }
    matrix(p + (gguf_ ? "ssm_ba.weight" : "in_proj_ba.weight"), {2 * hv, d}, Role::kOther, fan_in(d));
    const std::vector<int64_t> taps = gguf_ ? std::vector<int64_t>{c_.linear_conv_width(), c_.linear_conv_kernel_dim}
                                            : std::vector<int64_t>{c_.linear_conv_width(), 1, c_.linear_conv_kernel_dim};
    vector(p + (gguf_ ? "ssm_conv1d.weight" : "conv1d.weight"), taps, Kind::kUniform, fan_in(c_.linear_conv_kernel_dim));
    vector(p + (gguf_ ? "ssm_dt.bias" : "dt_bias"), {hv}, Kind::kTimeStep);
    vector(p + (gguf_ ? "ssm_a" : "A_log"), {hv}, gguf_ ? Kind::kSsmA : Kind::kALog);
    vector(p + (gguf_ ? "ssm_norm.weight" : "norm.weight"), {c_.linear_value_head_dim}, Kind::kUniform, 0.1, 1);
    // The gated norm's output has a deviation of about 0.6: silu of a unit variable.
    matrix(p + (gguf_ ? "ssm_out.weight" : "out_proj.weight"), {d, values}, Role::kDeltaOut, branch(values) / 0.6);
  }

  void attention(const std::string& p) {
    const int64_t d = c_.hidden_size, width = c_.attention_width();
    matrix(p + (gguf_ ? "attn_q.weight" : "q_proj.weight"), {2 * width, d}, Role::kOther, fan_in(d));
    matrix(p + (gguf_ ? "attn_k.weight" : "k_proj.weight"), {c_.key_value_width(), d}, Role::kOther, fan_in(d));
    matrix(p + (gguf_ ? "attn_v.weight" : "v_proj.weight"), {c_.key_value_width(), d}, Role::kValue, fan_in(d));
    gain(p + (gguf_ ? "attn_q_norm.weight" : "q_norm.weight"), c_.head_dim);
    gain(p + (gguf_ ? "attn_k_norm.weight" : "k_norm.weight"), c_.head_dim);
    matrix(p + (gguf_ ? "attn_output.weight" : "o_proj.weight"), {d, width}, Role::kAttentionOut, branch(width) / 0.5);
  }

  void moe(const std::string& p) {
    const int64_t d = c_.hidden_size, f = c_.moe_intermediate_size, e = c_.num_experts, shared = c_.shared_expert_intermediate_size;
    matrix(p + (gguf_ ? "ffn_gate_inp.weight" : "gate.weight"), {e, d}, Role::kRouter, fan_in(d));
    // silu(g) * u of unit variables has a deviation of about 0.6, and k experts of weight 1/k average out.
    const double down = branch(f) / 0.6 * std::sqrt(static_cast<double>(c_.num_experts_per_tok));
    if (gguf_) {
      matrix(p + "ffn_gate_exps.weight", {e, f, d}, Role::kExpertUp, fan_in(d));
      matrix(p + "ffn_up_exps.weight", {e, f, d}, Role::kExpertUp, fan_in(d));
      matrix(p + "ffn_down_exps.weight", {e, d, f}, Role::kExpertDown, down);
    } else {
      for (int64_t i = 0; i < e; ++i) {
        const std::string expert = fmt::format("{}experts.{}.", p, i);
        matrix(expert + "gate_proj.weight", {f, d}, Role::kExpertUp, fan_in(d));
        matrix(expert + "up_proj.weight", {f, d}, Role::kExpertUp, fan_in(d));
        matrix(expert + "down_proj.weight", {d, f}, Role::kExpertDown, down);
      }
    }
    const std::string s = gguf_ ? p : p + "shared_expert.";
    matrix(s + (gguf_ ? "ffn_gate_shexp.weight" : "gate_proj.weight"), {shared, d}, Role::kExpertUp, fan_in(d));
    matrix(s + (gguf_ ? "ffn_up_shexp.weight" : "up_proj.weight"), {shared, d}, Role::kExpertUp, fan_in(d));
    matrix(s + (gguf_ ? "ffn_down_shexp.weight" : "down_proj.weight"), {d, shared}, Role::kExpertDown, branch(shared) / 0.6);
    const std::vector<int64_t> gate = gguf_ ? std::vector<int64_t>{d} : std::vector<int64_t>{1, d};
    vector(p + (gguf_ ? "ffn_gate_inp_shexp.weight" : "shared_expert_gate.weight"), gate, Kind::kUniform, fan_in(d));
  }

  DType dtype_of(Role role, const std::vector<int64_t>& shape) const {
    if (role == Role::kVector || role == Role::kRouter) return gguf_ ? DType::kF32 : dtype_;
    DType dtype = recipe_ ? recipe(role) : dtype_;
    if (shape.back() % block_elements(dtype) == 0) return dtype;
    if (shape.back() % 32 == 0) return DType::kQ8_0;  // as llama.cpp: a row that super-blocks do not divide
    throw Error(fmt::format("type {}: rows of {} elements are not a multiple of 32", options_.type, shape.back()));
  }

  DType recipe(Role role) const {
    switch (role) {
      case Role::kHead: return DType::kQ6_K;
      case Role::kExpertDown: case Role::kValue: return more_bits(layer_, c_.num_layers()) ? DType::kQ6_K : DType::kQ4_K;
      case Role::kDeltaQkv: case Role::kDeltaOut: case Role::kAttentionOut: return DType::kQ5_K;
      default: return DType::kQ4_K;
    }
  }

  void add(const std::string& name, std::vector<int64_t> shape, RandomTensor random) {
    random.elements = 1;
    for (const int64_t n : shape) random.elements *= n;
    const auto key = philox4x32({static_cast<uint32_t>(tensors_.size()), 0, 0, 0},
                                {static_cast<uint32_t>(options_.seed), static_cast<uint32_t>(options_.seed >> 32)});
    random.stream = uint64_t{key[0]} << 32 | key[1];
    tensors_.push_back({{name, random.dtype, std::move(shape)}, random});
  }
  void matrix(const std::string& name, std::vector<int64_t> shape, Role role, double scale) {
    const DType dtype = dtype_of(role, shape);
    add(name, std::move(shape), {.dtype = dtype, .scale = scale});
  }
  void vector(const std::string& name, std::vector<int64_t> shape, Kind kind, double scale = 0, double mean = 0) {
    const DType dtype = dtype_of(Role::kVector, shape);
    add(name, std::move(shape), {.dtype = dtype, .kind = kind, .scale = scale, .mean = mean});
  }
  /// Zero-centred in Hugging Face files, one-centred in GGUF.
  void gain(const std::string& name, int64_t size) { vector(name, {size}, Kind::kUniform, 0.1, gguf_ ? 1 : 0); }

  const SynthOptions& options_;
  const ModelConfig& c_;
  const bool gguf_;
  bool recipe_ = false;
  DType dtype_ = DType::kBF16;
  int64_t layer_ = 0;
  std::vector<SynthTensor> tensors_;
};

GgufMetadata gguf_metadata(const SynthOptions& options, const SynthVocabulary& vocabulary) {
  const ModelConfig& c = options.config;
  GgufMetadata m;
  m.set("general.architecture", std::string("qwen3next"));
  m.set("general.name", fmt::format("random weights, {} layers, seed {}", c.num_layers(), options.seed));
  const auto number = [&](const char* key, int64_t value) { m.set(std::string("qwen3next.") + key, static_cast<uint32_t>(value)); };
  number("block_count", c.num_layers() + (options.mtp ? 1 : 0));
  if (options.mtp) number("nextn_predict_layers", 1);
  number("context_length", c.max_position_embeddings);
  number("embedding_length", c.hidden_size);
  number("feed_forward_length", c.intermediate_size);
  number("attention.head_count", c.num_attention_heads);
  number("attention.head_count_kv", c.num_key_value_heads);
  number("attention.key_length", c.head_dim);
  number("attention.value_length", c.head_dim);
  m.set("qwen3next.attention.layer_norm_rms_epsilon", static_cast<float>(c.rms_norm_eps));
  m.set("qwen3next.rope.freq_base", static_cast<float>(c.rope.theta));
  number("rope.dimension_count", c.rope.dims);
  number("expert_count", c.num_experts);
  number("expert_used_count", c.num_experts_per_tok);
  number("expert_feed_forward_length", c.moe_intermediate_size);
  number("expert_shared_feed_forward_length", c.shared_expert_intermediate_size);
  number("ssm.conv_kernel", c.linear_conv_kernel_dim);
  number("ssm.state_size", c.linear_key_head_dim);
  number("ssm.group_count", c.linear_num_key_heads);
  number("ssm.time_step_rank", c.linear_num_value_heads);
  number("ssm.inner_size", c.linear_value_width());
  number("full_attention_interval", 4);
  add_vocabulary(vocabulary, m);
  return m;
}

std::string config_json(const SynthOptions& options, const SynthVocabulary& vocabulary) {
  const ModelConfig& c = options.config;
  return nlohmann::ordered_json{
      {"architectures", {"Qwen3NextForCausalLM"}}, {"model_type", "qwen3_next"}, {"hidden_act", "silu"},
      {"vocab_size", c.vocab_size}, {"hidden_size", c.hidden_size}, {"intermediate_size", c.intermediate_size},
      {"num_hidden_layers", c.num_layers()}, {"full_attention_interval", 4}, {"rms_norm_eps", c.rms_norm_eps},
      {"num_attention_heads", c.num_attention_heads}, {"num_key_value_heads", c.num_key_value_heads}, {"head_dim", c.head_dim},
      {"max_position_embeddings", c.max_position_embeddings}, {"tie_word_embeddings", false},
      {"rope_theta", c.rope.theta}, {"partial_rotary_factor", static_cast<double>(c.rope.dims) / static_cast<double>(c.head_dim)},
      {"linear_conv_kernel_dim", c.linear_conv_kernel_dim}, {"linear_num_key_heads", c.linear_num_key_heads},
      {"linear_num_value_heads", c.linear_num_value_heads}, {"linear_key_head_dim", c.linear_key_head_dim},
      {"linear_value_head_dim", c.linear_value_head_dim}, {"num_experts", c.num_experts},
      {"num_experts_per_tok", c.num_experts_per_tok}, {"moe_intermediate_size", c.moe_intermediate_size},
      {"shared_expert_intermediate_size", c.shared_expert_intermediate_size}, {"norm_topk_prob", true},
      {"decoder_sparse_step", 1}, {"mlp_only_layers", nlohmann::ordered_json::array()},
      {"eos_token_id", vocabulary.end_of_turn}, {"pad_token_id", vocabulary.end_of_text},
      {"torch_dtype", options.type == "F32" ? "float32" : options.type == "F16" ? "float16" : "bfloat16"}}.dump(2) + "\n";
}

void write_text(const fs::path& path, const std::string& text) {
  if (text.empty()) return;
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw Error(fmt::format("{}: cannot be written", path.string()));
}

/// Fills every tensor in pieces, each piece by all threads.
void stream(const std::vector<SynthTensor>& tensors, int threads, TensorFileWriter& writer, int64_t total,
            const std::function<void(int64_t, int64_t)>& on_progress) {
  constexpr int64_t kUnitsOfTask = 64, kTasks = 32;
  ThreadPool pool(threads);
  std::vector<std::byte> piece;
  int64_t done = 0;
  for (const SynthTensor& tensor : tensors) {
    const RandomTensor& random = tensor.random;
    constexpr int64_t kTask = kUnitsOfTask * kRandomUnit, kPiece = kTasks * kTask;
    for (int64_t begin = 0; begin < random.elements; begin += kPiece) {
      const int64_t count = std::min(kPiece, random.elements - begin);
      piece.resize(static_cast<size_t>(bytes_of(random.dtype, count)));
      pool.parallel_for((count + kTask - 1) / kTask, [&](int64_t task, int) {
        const int64_t first = task * kTask, n = std::min(kTask, count - first);
        fill_random(random, begin + first, n,
                    std::span(piece).subspan(static_cast<size_t>(bytes_of(random.dtype, first)),
                                             static_cast<size_t>(bytes_of(random.dtype, n))));
      });
      writer.append(piece);
      done += static_cast<int64_t>(piece.size());
      if (on_progress) on_progress(done, total);
    }
  }
}

}  // namespace

ModelConfig preset_config(std::string_view preset, int64_t layers) {
  ModelConfig c;
  c.vocab_size = 151936;
  c.hidden_size = 2048;
  c.intermediate_size = 5120;
  c.max_position_embeddings = 262144;
  c.num_attention_heads = 16, c.num_key_value_heads = 2, c.head_dim = 256;
  c.rope.dims = 64;
  c.linear_num_key_heads = 16, c.linear_num_value_heads = 32;
  c.linear_key_head_dim = c.linear_value_head_dim = 128;
  c.linear_conv_kernel_dim = 4;
  c.num_experts = 512, c.num_experts_per_tok = 10;
  c.moe_intermediate_size = c.shared_expert_intermediate_size = 512;
  int64_t count = 48;
  if (preset == "small") {
    count = 12;
    c.vocab_size = 32768;
    c.hidden_size = 1024, c.intermediate_size = 2048;
    c.num_attention_heads = 8;
    c.linear_num_key_heads = 8, c.linear_num_value_heads = 16;
    c.num_experts = 32, c.num_experts_per_tok = 4;
    c.moe_intermediate_size = c.shared_expert_intermediate_size = 256;
  } else if (preset == "tiny") {
    count = 4;
    c.vocab_size = 1024;
    c.hidden_size = 256, c.intermediate_size = 512;
    c.max_position_embeddings = 32768;
    c.num_attention_heads = 4, c.head_dim = 64;
    c.rope.dims = 16;
    c.linear_num_key_heads = 2, c.linear_num_value_heads = 4;
    c.num_experts = 16, c.num_experts_per_tok = 4;
    c.moe_intermediate_size = c.shared_expert_intermediate_size = 256;
  } else if (preset != "80b") {
    throw Error(fmt::format("preset: expected 80b, small or tiny, found {}", qnext::quoted(preset)));
  }
  if (layers > 0) count = layers;
  for (int64_t i = 0; i < count; ++i) {
    c.layer_types.push_back(i % 4 == 3 ? LayerKind::kFullAttention : LayerKind::kLinearAttention);
  }
  c.layer_is_moe.assign(static_cast<size_t>(count), true);
  return c;
}

SynthResult synthesize(const fs::path& out, const SynthOptions& options,
                       const std::function<void(int64_t done, int64_t total)>& on_progress) {
  const bool gguf = out.extension() == ".gguf";
  const std::vector<SynthTensor> tensors = Layout(options, gguf).tensors();
  const SynthVocabulary vocabulary = options.tokenizer.empty() ? filler_vocabulary(options.config.vocab_size)
                                                               : read_vocabulary(options.tokenizer, options.config.vocab_size);
  SynthResult result;
  std::vector<TensorSpec> specs;
  for (const SynthTensor& tensor : tensors) {
    specs.push_back(tensor.spec);
    result.parameters += tensor.random.elements;
    result.bytes += bytes_of(tensor.random.dtype, tensor.random.elements);
  }
  result.tensors = static_cast<int64_t>(tensors.size());
  const int threads = options.threads > 0 ? options.threads : static_cast<int>(allowed_cpus().size());
  if (gguf) {
    const auto writer = create_gguf(out, gguf_metadata(options, vocabulary), specs);
    stream(tensors, threads, *writer, result.bytes, on_progress);
    writer->finish();
    return result;
  }
  std::error_code error;
  fs::create_directories(out, error);
  if (error) throw Error(fmt::format("{}: {}", out.string(), error.message()));
  const auto writer = create_safetensors(out / "model.safetensors", specs, {{"format", "pt"}});
  stream(tensors, threads, *writer, result.bytes, on_progress);
  write_text(out / "config.json", config_json(options, vocabulary));
  write_text(out / "tokenizer.json", vocabulary.tokenizer_json);
  write_text(out / "tokenizer_config.json", vocabulary.tokenizer_config_json);
  write_text(out / "chat_template.jinja", vocabulary.chat_template);
  writer->finish();
  return result;
}

}  // namespace qnext
