#include "model/gguf_binder.h"

#include <cmath>
#include <utility>

#include "base/error.h"
#include "tensor/dtype.h"

namespace qnext {

namespace {

float minus_one(float stored) { return stored - 1.0f; }

/// A_log of -exp(A_log). Many floats have the same exponential: the one that is a bf16 number is what the checkpoint
/// held.
float log_of_negative(float stored) {
  const double exact = std::log(-static_cast<double>(stored));
  const float simple = bf16_to_f32(f32_to_bf16(static_cast<float>(exact)));
  constexpr double kTwoUlps = 2.4e-7;  // of the exponential, which converters take in f32
  return std::abs(static_cast<double>(simple) - exact) < kTwoUlps ? simple : static_cast<float>(exact);
}

/// Knows the names and row layouts of GGUF files. `b` is the prefix of a block, "blk.7.".
class Binder {
 public:
  Binder(const ModelConfig& config, TensorTaker& tensors) : c_(config), tensors_(tensors) {}

  Vector norm(const std::string& name, int64_t size) { return tensors_.vector(name, {size}, minus_one); }

  LayerWeights layer(const std::string& b, LayerKind kind, bool is_moe) {
    LayerWeights w;
    w.input_norm = norm(b + "attn_norm.weight", c_.hidden_size);
    if (kind == LayerKind::kLinearAttention) {
      w.mixer = delta_net(b);
    } else {
      w.mixer = attention(b);
    }
    w.post_attention_norm = norm(b + "post_attention_norm.weight", c_.hidden_size);
    if (is_moe) {
      w.mlp = moe(b);
    } else {
      w.mlp = mlp(b, c_.intermediate_size, ".weight");
    }
    return w;
  }

  MtpWeights mtp(const std::string& b) {
    MtpWeights w;
    w.embedding_norm = norm(b + "nextn.enorm.weight", c_.hidden_size);
    w.hidden_norm = norm(b + "nextn.hnorm.weight", c_.hidden_size);
    w.fc = tensors_.matrix(b + "nextn.eh_proj.weight", c_.hidden_size, 2 * c_.hidden_size);
    w.layer = layer(b, LayerKind::kFullAttention, c_.num_experts > 0 && !tensors_.has(b + "ffn_gate.weight"));
    w.norm = norm(b + "nextn.shared_head_norm.weight", c_.hidden_size);
    return w;
  }

 private:
  GatedDeltaNetWeights delta_net(const std::string& b) {
    const int64_t key_heads = c_.linear_num_key_heads, value_heads = c_.linear_num_value_heads, d = c_.hidden_size;
    const int64_t key_dim = c_.linear_key_head_dim, values_per_key = value_heads / key_heads;
    const int64_t key_width = c_.linear_key_width(), value_width = c_.linear_value_width();

    GatedDeltaNetWeights w;
    if (tensors_.has(b + "ssm_in.weight")) {  // for each key head: its q, its k, then v and z of its value heads
      const int64_t v_rows = values_per_key * c_.linear_value_head_dim, group = 2 * key_dim + 2 * v_rows;
      const Matrix qkvz = tensors_.matrix(b + "ssm_in.weight", key_heads * group, d);
      w.q = qkvz.select_rows(0, key_dim, group, key_heads);
      w.k = qkvz.select_rows(key_dim, key_dim, group, key_heads);
      w.v = qkvz.select_rows(2 * key_dim, v_rows, group, key_heads);
      w.z = qkvz.select_rows(2 * key_dim + v_rows, v_rows, group, key_heads);
    } else {
      const Matrix qkv = tensors_.matrix(b + "attn_qkv.weight", c_.linear_conv_width(), d);
      w.q = row_range(qkv, 0, key_width);
      w.k = row_range(qkv, key_width, key_width);
      w.v = row_range(qkv, 2 * key_width, value_width);
      w.z = tensors_.matrix(b + "attn_gate.weight", value_width, d);
    }
    // For each key head: b, then a, of its value heads.
    const Matrix ba = tensors_.matrix(b + "ssm_ba.weight", 2 * value_heads, d);
    w.b = ba.select_rows(0, values_per_key, 2 * values_per_key, key_heads);
    w.a = ba.select_rows(values_per_key, values_per_key, 2 * values_per_key, key_heads);
    w.conv = tensors_.vector(b + "ssm_conv1d.weight", {c_.linear_conv_width(), c_.linear_conv_kernel_dim});
    w.a_log = tensors_.vector(b + "ssm_a", {value_heads}, log_of_negative);
    w.dt_bias = tensors_.vector(b + "ssm_dt.bias", {value_heads});
    w.norm = tensors_.vector(b + "ssm_norm.weight", {c_.linear_value_head_dim});
    w.out = tensors_.matrix(b + "ssm_out.weight", d, value_width);
    for (int64_t h = 0; h < value_heads; ++h) {
      if (!std::isfinite(w.a_log[h])) {
        throw FileError(tensors_.file_of(b + "ssm_a"), fmt::format("tensor {}ssm_a[{}]", b, h), "a negative number",
                        "another");
      }
    }
    return w;
  }

  GatedAttentionWeights attention(const std::string& b) {
    const int64_t heads = c_.num_attention_heads, dim = c_.head_dim, d = c_.hidden_size;
    GatedAttentionWeights w;
    const Matrix query_gate = tensors_.matrix(b + "attn_q.weight", 2 * c_.attention_width(), d);  // head by head
    w.q = query_gate.select_rows(0, dim, 2 * dim, heads);
    w.gate = query_gate.select_rows(dim, dim, 2 * dim, heads);
    w.k = tensors_.matrix(b + "attn_k.weight", c_.key_value_width(), d);
    w.v = tensors_.matrix(b + "attn_v.weight", c_.key_value_width(), d);
    w.q_norm = norm(b + "attn_q_norm.weight", dim);
    w.k_norm = norm(b + "attn_k_norm.weight", dim);
    w.out = tensors_.matrix(b + "attn_output.weight", d, c_.attention_width());
    return w;
  }

  MlpWeights mlp(const std::string& b, int64_t width, const std::string& suffix) {
    MlpWeights w;
    w.gate = tensors_.matrix(b + "ffn_gate" + suffix, width, c_.hidden_size);
    w.up = tensors_.matrix(b + "ffn_up" + suffix, width, c_.hidden_size);
    w.down = tensors_.matrix(b + "ffn_down" + suffix, c_.hidden_size, width);
    return w;
  }

  MoeWeights moe(const std::string& b) {
    const int64_t experts = c_.num_experts, width = c_.moe_intermediate_size, d = c_.hidden_size;
    MoeWeights w;
    w.router = tensors_.matrix(b + "ffn_gate_inp.weight", experts, d);
    const int64_t up_shape[] = {experts, width, d}, down_shape[] = {experts, d, width};
    const std::vector<Matrix> down = tensors_.stack(b + "ffn_down_exps.weight", down_shape);
    w.experts.reserve(down.size());
    if (tensors_.has(b + "ffn_gate_up_exps.weight")) {  // gate above up
      const int64_t fused_shape[] = {experts, 2 * width, d};
      const std::vector<Matrix> fused = tensors_.stack(b + "ffn_gate_up_exps.weight", fused_shape);
      for (size_t e = 0; e < fused.size(); ++e) {
        w.experts.push_back({row_range(fused[e], 0, width), row_range(fused[e], width, width), down[e]});
      }
    } else {
      const std::vector<Matrix> gate = tensors_.stack(b + "ffn_gate_exps.weight", up_shape);
      const std::vector<Matrix> up = tensors_.stack(b + "ffn_up_exps.weight", up_shape);
      for (size_t e = 0; e < gate.size(); ++e) w.experts.push_back({gate[e], up[e], down[e]});
    }
    w.shared = mlp(b, c_.shared_expert_intermediate_size, "_shexp.weight");
    w.shared_gate = tensors_.row_matrix(b + "ffn_gate_inp_shexp.weight", d);
    return w;
  }

  const ModelConfig& c_;
  TensorTaker& tensors_;
};

}  // namespace

void bind_gguf(const ModelConfig& config, TensorTaker& tensors, Weights& w) {
  Binder binder(config, tensors);
  w.embedding = tensors.matrix("token_embd.weight", config.vocab_size, config.hidden_size);
  w.lm_head = tensors.has("output.weight") ? tensors.matrix("output.weight", config.vocab_size, config.hidden_size)
                                           : w.embedding;
  w.layers.reserve(config.layer_types.size());
  for (size_t i = 0; i < config.layer_types.size(); ++i) {
    w.layers.push_back(binder.layer(fmt::format("blk.{}.", i), config.layer_types[i], config.layer_is_moe[i]));
  }
  w.final_norm = binder.norm("output_norm.weight", config.hidden_size);
  if (config.num_mtp_layers.value_or(0) > 0) w.mtp = binder.mtp(fmt::format("blk.{}.", config.num_layers()));
}

}  // namespace qnext
