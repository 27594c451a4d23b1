#include "model/stored_tensors.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "tensor/blocks.h"

namespace qnext {

namespace {

using Rows = std::vector<ParameterRows>;

/// Makes the lists. In both formats a tensor is most often one parameter under another name.
class Lister {
 public:
  explicit Lister(const ModelConfig& config) : c_(config) {}

  void add(std::string name, std::vector<int64_t> shape, Rows rows, Transform transform = Transform::kNone,
           bool keep_f32 = false) {
    tensors.push_back({std::move(name), std::move(shape), std::move(rows), transform, keep_f32});
  }
  void matrix(std::string name, std::string parameter, int64_t rows, int64_t cols) {
    add(std::move(name), {rows, cols}, {{std::move(parameter), 0, rows}});
  }
  void vector(std::string name, std::string parameter, int64_t size, Transform transform = Transform::kNone) {
    add(std::move(name), {size}, {{std::move(parameter), 0, 1}}, transform, /*keep_f32=*/true);
  }

  /// in_proj_ba: for each key head b, then a, of its value heads.
  Rows grouped_ba(const std::string& p) const {
    const int64_t heads = values_per_key();
    Rows rows;
    for (int64_t h = 0; h < c_.linear_num_key_heads; ++h) {
      for (const char* part : {"b", "a"}) rows.push_back({p + "in_proj_ba." + part, h * heads, heads});
    }
    return rows;
  }
  /// in_proj_qkvz: for each key head its q, its k, then v and z of its value heads.
  Rows grouped_qkvz(const std::string& p) const {
    const int64_t key_dim = c_.linear_key_head_dim, value_rows = values_per_key() * c_.linear_value_head_dim;
    Rows rows;
    for (int64_t h = 0; h < c_.linear_num_key_heads; ++h) {
      for (const char* part : {"q", "k"}) rows.push_back({p + "in_proj_qkvz." + part, h * key_dim, key_dim});
      for (const char* part : {"v", "z"}) rows.push_back({p + "in_proj_qkvz." + part, h * value_rows, value_rows});
    }
    return rows;
  }
  /// q_proj: for each head its query, then its gate.
  Rows interleaved_query_gate(const std::string& p) const {
    Rows rows;
    for (int64_t h = 0; h < c_.num_attention_heads; ++h) {
      for (const char* part : {"q", "gate"}) rows.push_back({p + "q_proj." + part, h * c_.head_dim, c_.head_dim});
    }
    return rows;
  }

  std::vector<StoredTensor> tensors;

 protected:
  int64_t values_per_key() const { return c_.linear_num_value_heads / c_.linear_num_key_heads; }
  const ModelConfig& c_;
};

class GgufLister : public Lister {
 public:
  using Lister::Lister;

  void norm(std::string name, std::string parameter, int64_t size) {
    vector(std::move(name), std::move(parameter), size, Transform::kPlusOne);
  }

  void delta_net(const std::string& b, const std::string& p) {
    const int64_t d = c_.hidden_size, value_width = c_.linear_value_width(), heads = c_.linear_num_value_heads;
    const int64_t key_width = c_.linear_key_width();
    add(b + "attn_qkv.weight", {c_.linear_conv_width(), d},
        {{p + "in_proj_qkvz.q", 0, key_width},
         {p + "in_proj_qkvz.k", 0, key_width},
         {p + "in_proj_qkvz.v", 0, value_width}});
    matrix(b + "attn_gate.weight", p + "in_proj_qkvz.z", value_width, d);
    add(b + "ssm_conv1d.weight", {c_.linear_conv_width(), c_.linear_conv_kernel_dim},
        {{p + "conv1d.weight", 0, c_.linear_conv_width()}}, Transform::kNone, /*keep_f32=*/true);
    vector(b + "ssm_dt.bias", p + "dt_bias", heads);
    vector(b + "ssm_a", p + "A_log", heads, Transform::kMinusExp);
    add(b + "ssm_ba.weight", {2 * heads, d}, grouped_ba(p));
    vector(b + "ssm_norm.weight", p + "norm.weight", c_.linear_value_head_dim);
    matrix(b + "ssm_out.weight", p + "out_proj.weight", d, value_width);
  }

  void attention(const std::string& b, const std::string& p) {
    const int64_t d = c_.hidden_size;
    add(b + "attn_q.weight", {2 * c_.attention_width(), d}, interleaved_query_gate(p));
    matrix(b + "attn_k.weight", p + "k_proj.weight", c_.key_value_width(), d);
    matrix(b + "attn_v.weight", p + "v_proj.weight", c_.key_value_width(), d);
    norm(b + "attn_q_norm.weight", p + "q_norm.weight", c_.head_dim);
    norm(b + "attn_k_norm.weight", p + "k_norm.weight", c_.head_dim);
    matrix(b + "attn_output.weight", p + "o_proj.weight", d, c_.attention_width());
  }

  void mlp(const std::string& b, const std::string& p, int64_t width, const std::string& suffix) {
    matrix(b + "ffn_gate" + suffix, p + "gate_proj.weight", width, c_.hidden_size);
    matrix(b + "ffn_up" + suffix, p + "up_proj.weight", width, c_.hidden_size);
    matrix(b + "ffn_down" + suffix, p + "down_proj.weight", c_.hidden_size, width);
  }

  void moe(const std::string& b, const std::string& p) {
    const int64_t d = c_.hidden_size, experts = c_.num_experts, width = c_.moe_intermediate_size;
    add(b + "ffn_gate_inp.weight", {experts, d}, {{p + "gate.weight", 0, experts}}, Transform::kNone, true);
    const auto stack = [&](const char* part, int64_t rows, int64_t cols) {
      Rows all;
      for (int64_t e = 0; e < experts; ++e)
        all.push_back({fmt::format("{}experts.{}.{}_proj.weight", p, e, part), 0, rows});
      add(fmt::format("{}ffn_{}_exps.weight", b, part), {experts, rows, cols}, std::move(all));
    };
    stack("gate", width, d);
    stack("up", width, d);
    stack("down", d, width);
    vector(b + "ffn_gate_inp_shexp.weight", p + "shared_expert_gate.weight", d);
    mlp(b, p + "shared_expert.", c_.shared_expert_intermediate_size, "_shexp.weight");
  }

  void layer(const std::string& b, const std::string& p, LayerKind kind, bool is_moe) {
    norm(b + "attn_norm.weight", p + "input_layernorm.weight", c_.hidden_size);
    if (kind == LayerKind::kLinearAttention) {
      delta_net(b, p + "linear_attn.");
    } else {
      attention(b, p + "self_attn.");
    }
    norm(b + "post_attention_norm.weight", p + "post_attention_layernorm.weight", c_.hidden_size);
    if (is_moe) {
      moe(b, p + "mlp.");
    } else {
      mlp(b, p + "mlp.", c_.intermediate_size, ".weight");
    }
  }

  void mtp(const StoredParts& parts) {
    const std::string b = fmt::format("blk.{}.", c_.num_layers());
    matrix(b + "nextn.eh_proj.weight", "mtp.fc.weight", c_.hidden_size, 2 * c_.hidden_size);
    norm(b + "nextn.enorm.weight", "mtp.pre_fc_norm_embedding.weight", c_.hidden_size);
    norm(b + "nextn.hnorm.weight", "mtp.pre_fc_norm_hidden.weight", c_.hidden_size);
    norm(b + "nextn.shared_head_norm.weight", "mtp.norm.weight", c_.hidden_size);
    layer(b, "mtp.layers.0.", LayerKind::kFullAttention, c_.num_experts > 0 && !parts.mtp_dense);
  }
};

class HuggingFaceLister : public Lister {
 public:
  using Lister::Lister;

  void matrix(const std::string& name, int64_t rows, int64_t cols) { Lister::matrix(name, name, rows, cols); }
  void vector(const std::string& name, int64_t size) { Lister::vector(name, name, size); }

  void delta_net(const std::string& p) {
    const int64_t d = c_.hidden_size, heads = c_.linear_num_value_heads;
    add(p + "in_proj_qkvz.weight", {c_.linear_conv_width() + c_.linear_value_width(), d}, grouped_qkvz(p));
    add(p + "in_proj_ba.weight", {2 * heads, d}, grouped_ba(p));
    add(p + "conv1d.weight", {c_.linear_conv_width(), 1, c_.linear_conv_kernel_dim},
        {{p + "conv1d.weight", 0, c_.linear_conv_width()}});
    vector(p + "A_log", heads);
    vector(p + "dt_bias", heads);
    vector(p + "norm.weight", c_.linear_value_head_dim);
    matrix(p + "out_proj.weight", d, c_.linear_value_width());
  }

  void attention(const std::string& p) {
    const int64_t d = c_.hidden_size;
    add(p + "q_proj.weight", {2 * c_.attention_width(), d}, interleaved_query_gate(p));
    matrix(p + "k_proj.weight", c_.key_value_width(), d);
    matrix(p + "v_proj.weight", c_.key_value_width(), d);
    vector(p + "q_norm.weight", c_.head_dim);
    vector(p + "k_norm.weight", c_.head_dim);
    matrix(p + "o_proj.weight", d, c_.attention_width());
  }

  void mlp(const std::string& p, int64_t width) {
    matrix(p + "gate_proj.weight", width, c_.hidden_size);
    matrix(p + "up_proj.weight", width, c_.hidden_size);
    matrix(p + "down_proj.weight", c_.hidden_size, width);
  }

  void layer(const std::string& p, LayerKind kind, bool is_moe) {
    vector(p + "input_layernorm.weight", c_.hidden_size);
    if (kind == LayerKind::kLinearAttention) {
      delta_net(p + "linear_attn.");
    } else {
      attention(p + "self_attn.");
    }
    vector(p + "post_attention_layernorm.weight", c_.hidden_size);
    if (!is_moe) return mlp(p + "mlp.", c_.intermediate_size);
    matrix(p + "mlp.gate.weight", c_.num_experts, c_.hidden_size);
    for (int64_t e = 0; e < c_.num_experts; ++e)
      mlp(fmt::format("{}mlp.experts.{}.", p, e), c_.moe_intermediate_size);
    mlp(p + "mlp.shared_expert.", c_.shared_expert_intermediate_size);
    matrix(p + "mlp.shared_expert_gate.weight", 1, c_.hidden_size);
  }
};

}  // namespace

int64_t StoredTensor::row_count() const {
  return std::accumulate(shape.begin(), shape.end() - 1, int64_t{1}, std::multiplies<>());
}

StoredParts stored_parts(const Weights& weights) {
  StoredParts parts;
  parts.tied_head = weights.lm_head.data == weights.embedding.data;
  parts.mtp = weights.mtp.has_value();
  parts.mtp_dense = parts.mtp && std::holds_alternative<MlpWeights>(weights.mtp->layer.mlp);
  return parts;
}

std::vector<StoredTensor> gguf_tensors(const ModelConfig& c, const StoredParts& parts) {
  GgufLister list(c);
  list.matrix("token_embd.weight", "model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  if (!parts.tied_head) list.matrix("output.weight", "lm_head.weight", c.vocab_size, c.hidden_size);
  list.norm("output_norm.weight", "model.norm.weight", c.hidden_size);
  for (size_t i = 0; i < c.layer_types.size(); ++i) {
    list.layer(fmt::format("blk.{}.", i), fmt::format("model.layers.{}.", i), c.layer_types[i], c.layer_is_moe[i]);
  }
  if (parts.mtp) list.mtp(parts);
  return std::move(list.tensors);
}

std::vector<StoredTensor> hugging_face_tensors(const ModelConfig& c, const StoredParts& parts) {
  HuggingFaceLister list(c);
  list.matrix("model.embed_tokens.weight", c.vocab_size, c.hidden_size);
  for (size_t i = 0; i < c.layer_types.size(); ++i) {
    list.layer(fmt::format("model.layers.{}.", i), c.layer_types[i], c.layer_is_moe[i]);
  }
  list.vector("model.norm.weight", c.hidden_size);
  if (!parts.tied_head) list.matrix("lm_head.weight", c.vocab_size, c.hidden_size);
  if (parts.mtp) {
    list.matrix("mtp.fc.weight", c.hidden_size, 2 * c.hidden_size);
    for (const char* name :
         {"mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight", "mtp.norm.weight"}) {
      list.vector(name, c.hidden_size);
    }
    list.layer("mtp.layers.0.", LayerKind::kFullAttention, c.num_experts > 0 && !parts.mtp_dense);
  }
  return std::move(list.tensors);
}

ParameterReader::ParameterReader(const Weights& weights) {
  for_each_parameter(weights, {[this](const std::string& name, const Matrix& m) { matrices_.emplace(name, m); },
                               [this](const std::string& name, const Vector& v) { vectors_.emplace(name, v); }});
}

const Matrix* ParameterReader::matrix(const std::string& parameter) const {
  const auto it = matrices_.find(parameter);
  return it == matrices_.end() ? nullptr : &it->second;
}

/// row += scale * b_r a, the sum over the rank first, in double.
static void add_low_rank(const LowRank& low_rank, int64_t r, float* row) {
  const auto* b = reinterpret_cast<const float*>(low_rank.b.row(r));
  std::vector<double> sum(static_cast<size_t>(low_rank.a.cols));
  for (int64_t k = 0; k < low_rank.rank(); ++k) {
    const auto* a = reinterpret_cast<const float*>(low_rank.a.row(k));
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(b[k]) * a[i];
  }
  for (size_t i = 0; i < sum.size(); ++i) row[i] = static_cast<float>(row[i] + low_rank.scale * sum[i]);
}

void ParameterReader::read(const StoredTensor& tensor, int64_t first, int64_t count, std::span<float> out) const {
  const int64_t cols = tensor.cols(), end = first + count;
  QNEXT_CHECK(first >= 0 && end <= tensor.row_count() && static_cast<int64_t>(out.size()) == count * cols,
              "{} rows from {} of {}", count, first, tensor.name);
  float* next = out.data();
  int64_t begin = 0;  // of the piece, in rows of the tensor
  for (const ParameterRows& piece : tensor.rows) {
    const int64_t from = std::max(first, begin) - begin, to = std::min(end, begin + piece.count) - begin;
    begin += piece.count;
    if (from >= to) continue;
    if (const Matrix* m = matrix(piece.parameter)) {
      QNEXT_CHECK(m->cols == cols && piece.first + to <= m->rows, "{} in {}", piece.parameter, tensor.name);
      for (int64_t r = piece.first + from; r < piece.first + to; ++r, next += cols) {
        if (m->block_scales == nullptr) {
          decode(m->dtype, m->row(r), cols, next);
        } else {
          for (int64_t i = 0; i < cols; ++i) next[i] = m->at(r, i);
        }
        if (m->low_rank != nullptr) add_low_rank(*m->low_rank, r, next);
      }
    } else {
      const auto v = vectors_.find(piece.parameter);
      QNEXT_CHECK(v != vectors_.end() && (piece.first + to) * cols <= v->second.size, "{} in {}", piece.parameter,
                  tensor.name);
      next = std::copy_n(v->second.data + (piece.first + from) * cols, (to - from) * cols, next);
    }
  }
  if (tensor.transform == Transform::kPlusOne) {
    for (float& x : out) x += 1.0f;
  } else if (tensor.transform == Transform::kMinusExp) {
    for (float& x : out) x = static_cast<float>(-std::exp(static_cast<double>(x)));
  }
}

}  // namespace qnext
