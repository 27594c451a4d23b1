#include "model/weights.h"

#include <utility>

#include "base/error.h"
#include "model/gguf_binder.h"
#include "model/tensor_taker.h"

namespace qnext {

namespace {

/// Knows the names and row layouts of Hugging Face checkpoints.
class Binder {
 public:
  Binder(const ModelConfig& config, TensorTaker& tensors) : c_(config), tensors_(tensors) {}

  GatedDeltaNetWeights delta_net(const std::string& p) {
    const int64_t key_heads = c_.linear_num_key_heads, value_heads = c_.linear_num_value_heads;
    const int64_t key_dim = c_.linear_key_head_dim, value_dim = c_.linear_value_head_dim, d = c_.hidden_size;
    const int64_t key_width = c_.linear_key_width(), value_width = c_.linear_value_width();
    const int64_t values_per_key = value_heads / key_heads;

    GatedDeltaNetWeights w;
    if (tensors_.has(p + "in_proj_qkv.weight")) {  // Qwen3.5's spelling: natural order
      const Matrix qkv = tensors_.matrix(p + "in_proj_qkv.weight", c_.linear_conv_width(), d);
      w.q = row_range(qkv, 0, key_width);
      w.k = row_range(qkv, key_width, key_width);
      w.v = row_range(qkv, 2 * key_width, value_width);
      w.z = tensors_.matrix(p + "in_proj_z.weight", value_width, d);
    } else {  // for each key head: its q, its k, then v and z of its value heads
      const int64_t v_rows = values_per_key * value_dim, group = 2 * key_dim + 2 * v_rows;
      const Matrix qkvz = tensors_.matrix(p + "in_proj_qkvz.weight", key_heads * group, d);
      w.q = qkvz.select_rows(0, key_dim, group, key_heads);
      w.k = qkvz.select_rows(key_dim, key_dim, group, key_heads);
      w.v = qkvz.select_rows(2 * key_dim, v_rows, group, key_heads);
      w.z = qkvz.select_rows(2 * key_dim + v_rows, v_rows, group, key_heads);
    }
    if (tensors_.has(p + "in_proj_b.weight")) {
      w.b = tensors_.matrix(p + "in_proj_b.weight", value_heads, d);
      w.a = tensors_.matrix(p + "in_proj_a.weight", value_heads, d);
    } else {  // for each key head: b, then a, of its value heads
      const Matrix ba = tensors_.matrix(p + "in_proj_ba.weight", 2 * value_heads, d);
      w.b = ba.select_rows(0, values_per_key, 2 * values_per_key, key_heads);
      w.a = ba.select_rows(values_per_key, values_per_key, 2 * values_per_key, key_heads);
    }
    w.conv = tensors_.vector(p + "conv1d.weight", {c_.linear_conv_width(), 1, c_.linear_conv_kernel_dim});
    w.a_log = tensors_.vector(p + "A_log", {value_heads});
    w.dt_bias = tensors_.vector(p + "dt_bias", {value_heads});
    w.norm = tensors_.vector(p + "norm.weight", {value_dim});
    w.out = tensors_.matrix(p + "out_proj.weight", d, value_width);
    return w;
  }

  GatedAttentionWeights attention(const std::string& p) {
    const int64_t heads = c_.num_attention_heads, dim = c_.head_dim, d = c_.hidden_size;
    GatedAttentionWeights w;
    const Matrix query_gate = tensors_.matrix(p + "q_proj.weight", 2 * c_.attention_width(), d);  // head by head
    w.q = query_gate.select_rows(0, dim, 2 * dim, heads);
    w.gate = query_gate.select_rows(dim, dim, 2 * dim, heads);
    w.k = tensors_.matrix(p + "k_proj.weight", c_.key_value_width(), d);
    w.v = tensors_.matrix(p + "v_proj.weight", c_.key_value_width(), d);
    w.q_norm = tensors_.vector(p + "q_norm.weight", {dim});
    w.k_norm = tensors_.vector(p + "k_norm.weight", {dim});
    w.out = tensors_.matrix(p + "o_proj.weight", d, c_.attention_width());
    return w;
  }

  MlpWeights mlp(const std::string& p, int64_t width) {
    MlpWeights w;
    w.gate = tensors_.matrix(p + "gate_proj.weight", width, c_.hidden_size);
    w.up = tensors_.matrix(p + "up_proj.weight", width, c_.hidden_size);
    w.down = tensors_.matrix(p + "down_proj.weight", c_.hidden_size, width);
    return w;
  }

  MoeWeights moe(const std::string& p) {
    const int64_t experts = c_.num_experts, width = c_.moe_intermediate_size, d = c_.hidden_size;
    MoeWeights w;
    w.router = tensors_.matrix(p + "gate.weight", experts, d);
    w.experts.reserve(static_cast<size_t>(experts));
    if (tensors_.has(p + "experts.gate_up_proj")) {  // transformers 5 in memory: stacked, gate above up
      const int64_t gate_up_shape[] = {experts, 2 * width, d}, down_shape[] = {experts, d, width};
      const std::vector<Matrix> gate_up = tensors_.stack(p + "experts.gate_up_proj", gate_up_shape);
      const std::vector<Matrix> down = tensors_.stack(p + "experts.down_proj", down_shape);
      for (size_t e = 0; e < gate_up.size(); ++e) {
        w.experts.push_back({row_range(gate_up[e], 0, width), row_range(gate_up[e], width, width), down[e]});
      }
    } else {
      for (int64_t e = 0; e < experts; ++e) w.experts.push_back(mlp(fmt::format("{}experts.{}.", p, e), width));
    }
    w.shared = mlp(p + "shared_expert.", c_.shared_expert_intermediate_size);
    w.shared_gate = tensors_.matrix(p + "shared_expert_gate.weight", 1, d);
    return w;
  }

  LayerWeights layer(const std::string& p, LayerKind kind, bool is_moe) {
    LayerWeights w;
    w.input_norm = tensors_.vector(p + "input_layernorm.weight", {c_.hidden_size});
    if (kind == LayerKind::kLinearAttention) {
      w.mixer = delta_net(p + "linear_attn.");
    } else {
      w.mixer = attention(p + "self_attn.");
    }
    w.post_attention_norm = tensors_.vector(p + "post_attention_layernorm.weight", {c_.hidden_size});
    if (is_moe) {
      w.mlp = moe(p + "mlp.");
    } else {
      w.mlp = mlp(p + "mlp.", c_.intermediate_size);
    }
    return w;
  }

  MtpWeights mtp() {
    MtpWeights w;
    w.embedding_norm = tensors_.vector("mtp.pre_fc_norm_embedding.weight", {c_.hidden_size});
    w.hidden_norm = tensors_.vector("mtp.pre_fc_norm_hidden.weight", {c_.hidden_size});
    w.fc = tensors_.matrix("mtp.fc.weight", c_.hidden_size, 2 * c_.hidden_size);
    // No config field says whether its MLP is dense in a model that has both kinds; the tensors do.
    const bool is_moe = c_.num_experts > 0 && !tensors_.has("mtp.layers.0.mlp.gate_proj.weight");
    w.layer = layer("mtp.layers.0.", LayerKind::kFullAttention, is_moe);
    w.norm = tensors_.vector("mtp.norm.weight", {c_.hidden_size});
    return w;
  }

 private:
  const ModelConfig& c_;
  TensorTaker& tensors_;
};

/// Names parameters while walking the structs.
class Walker {
 public:
  explicit Walker(const ParameterVisitor& visit) : visit_(visit) {}

  void matrix(const std::string& name, const Matrix& m) const { visit_.matrix(name, m); }
  void vector(const std::string& name, const Vector& v) const { visit_.vector(name, v); }

  void mixer(const std::string& prefix, const GatedDeltaNetWeights& w) const {
    const std::string p = prefix + "linear_attn.";
    matrix(p + "in_proj_qkvz.q", w.q);
    matrix(p + "in_proj_qkvz.k", w.k);
    matrix(p + "in_proj_qkvz.v", w.v);
    matrix(p + "in_proj_qkvz.z", w.z);
    matrix(p + "in_proj_ba.b", w.b);
    matrix(p + "in_proj_ba.a", w.a);
    vector(p + "conv1d.weight", w.conv);
    vector(p + "A_log", w.a_log);
    vector(p + "dt_bias", w.dt_bias);
    vector(p + "norm.weight", w.norm);
    matrix(p + "out_proj.weight", w.out);
  }

  void mixer(const std::string& prefix, const GatedAttentionWeights& w) const {
    const std::string p = prefix + "self_attn.";
    matrix(p + "q_proj.q", w.q);
    matrix(p + "q_proj.gate", w.gate);
    matrix(p + "k_proj.weight", w.k);
    matrix(p + "v_proj.weight", w.v);
    vector(p + "q_norm.weight", w.q_norm);
    vector(p + "k_norm.weight", w.k_norm);
    matrix(p + "o_proj.weight", w.out);
  }

  void mlp(const std::string& p, const MlpWeights& w) const {
    matrix(p + "gate_proj.weight", w.gate);
    matrix(p + "up_proj.weight", w.up);
    matrix(p + "down_proj.weight", w.down);
  }

  void mlp(const std::string& p, const MoeWeights& w) const {
    matrix(p + "gate.weight", w.router);
    for (size_t e = 0; e < w.experts.size(); ++e) mlp(fmt::format("{}experts.{}.", p, w.first_expert + static_cast<int64_t>(e)), w.experts[e]);
    mlp(p + "shared_expert.", w.shared);
    matrix(p + "shared_expert_gate.weight", w.shared_gate);
  }

  void layer(const std::string& p, const LayerWeights& w) const {
    vector(p + "input_layernorm.weight", w.input_norm);
    std::visit([&](const auto& part) { mixer(p, part); }, w.mixer);
    vector(p + "post_attention_layernorm.weight", w.post_attention_norm);
    std::visit([&](const auto& part) { mlp(p + "mlp.", part); }, w.mlp);
  }

 private:
  const ParameterVisitor& visit_;
};

}  // namespace

Weights bind_weights(const ModelConfig& config, std::shared_ptr<const Checkpoint> checkpoint) {
  Weights w;
  w.checkpoint = std::move(checkpoint);
  TensorTaker tensors(*w.checkpoint, w);
  if (tensors.has("token_embd.weight")) {
    bind_gguf(config, tensors, w);
    tensors.check_nothing_left();
    return w;
  }
  Binder binder(config, tensors);

  const std::string p = tensors.has_prefix("model.language_model.") ? "model.language_model." : "model.";
  const std::string embedding = p + "embed_tokens.weight", head = "lm_head.weight";
  // Tied weights may be stored under either name. A checkpoint that holds both has two tensors, whatever its config
  // says: transformers 5 does not tie them then, and where they are equal it makes no difference.
  const bool tied = config.tie_word_embeddings;
  const bool stored_as_head = tied && !tensors.has(embedding) && tensors.has(head);
  w.embedding = tensors.matrix(stored_as_head ? head : embedding, config.vocab_size, config.hidden_size);
  w.lm_head = tied && (stored_as_head || !tensors.has(head))
                  ? w.embedding
                  : tensors.matrix(head, config.vocab_size, config.hidden_size);

  w.layers.reserve(config.layer_types.size());
  for (size_t i = 0; i < config.layer_types.size(); ++i) {
    w.layers.push_back(
        binder.layer(fmt::format("{}layers.{}.", p, i), config.layer_types[i], config.layer_is_moe[i]));
  }
  w.final_norm = tensors.vector(p + "norm.weight", {config.hidden_size});
  if (config.num_mtp_layers.value_or(tensors.has_prefix("mtp.") ? 1 : 0) > 0) w.mtp = binder.mtp();
  tensors.check_nothing_left();
  return w;
}

void for_each_parameter(const Weights& weights, const ParameterVisitor& visit) {
  const Walker walker(visit);
  walker.matrix("model.embed_tokens.weight", weights.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    walker.layer(fmt::format("model.layers.{}.", i), weights.layers[i]);
  }
  walker.vector("model.norm.weight", weights.final_norm);
  if (weights.lm_head.data != weights.embedding.data) walker.matrix("lm_head.weight", weights.lm_head);
  if (!weights.mtp.has_value()) return;
  walker.vector("mtp.pre_fc_norm_embedding.weight", weights.mtp->embedding_norm);
  walker.vector("mtp.pre_fc_norm_hidden.weight", weights.mtp->hidden_norm);
  walker.matrix("mtp.fc.weight", weights.mtp->fc);
  walker.layer("mtp.layers.0.", weights.mtp->layer);
  walker.vector("mtp.norm.weight", weights.mtp->norm);
}

ParameterCount count_parameters(const ModelConfig& config, const Weights& weights) {
  int64_t count = 0;
  const ParameterVisitor add{[&](const std::string&, const Matrix& m) { count += m.rows * m.cols; },
                             [&](const std::string&, const Vector& v) { count += v.size; }};
  for_each_parameter(weights, add);
  ParameterCount result{count, 0};

  // The main stack of one decoded token: its layers with the chosen experts, the final norm and the head.
  count = weights.final_norm.size + weights.lm_head.rows * weights.lm_head.cols;
  const Walker walker(add);
  for (const LayerWeights& layer : weights.layers) {
    walker.layer("", layer);
    const auto* moe = std::get_if<MoeWeights>(&layer.mlp);
    if (moe == nullptr) continue;
    const int64_t unchosen = config.num_experts - config.num_experts_per_tok;
    count -= unchosen * 3 * config.moe_intermediate_size * config.hidden_size;
  }
  result.active = count;
  return result;
}

}  // namespace qnext
