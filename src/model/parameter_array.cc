#include "model/parameter_array.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"

namespace qnext {

namespace {

Matrix matrix(int64_t rows, int64_t cols) { return {.dtype = DType::kF32, .rows = rows, .cols = cols}; }
Vector vector(int64_t size) { return {nullptr, size}; }

MlpWeights mlp_of_shape(int64_t hidden, int64_t width) {
  return {.gate = matrix(width, hidden), .up = matrix(width, hidden), .down = matrix(hidden, width)};
}

LayerWeights layer_of_shape(const ModelConfig& c, LayerKind kind, bool moe, ExpertRange experts) {
  const int64_t d = c.hidden_size;
  LayerWeights layer;
  layer.input_norm = layer.post_attention_norm = vector(d);
  if (kind == LayerKind::kLinearAttention) {
    const int64_t heads = c.linear_num_value_heads;
    GatedDeltaNetWeights w;
    w.q = w.k = matrix(c.linear_key_width(), d);
    w.v = w.z = matrix(c.linear_value_width(), d);
    w.b = w.a = matrix(heads, d);
    w.conv = vector(c.linear_conv_width() * c.linear_conv_kernel_dim);
    w.a_log = w.dt_bias = vector(heads);
    w.norm = vector(c.linear_value_head_dim);
    w.out = matrix(d, c.linear_value_width());
    layer.mixer = w;
  } else {
    GatedAttentionWeights w;
    w.q = w.gate = matrix(c.attention_width(), d);
    w.k = w.v = matrix(c.key_value_width(), d);
    w.q_norm = w.k_norm = vector(c.head_dim);
    w.out = matrix(d, c.attention_width());
    layer.mixer = w;
  }
  if (moe) {
    MoeWeights w;
    w.router = matrix(c.num_experts, d);
    const int64_t end = std::min(experts.end, c.num_experts);
    QNEXT_CHECK(experts.first >= 0 && experts.first <= end, "experts {} to {} of {}", experts.first, experts.end, c.num_experts);
    w.first_expert = experts.first;
    w.experts.assign(static_cast<size_t>(end - experts.first), mlp_of_shape(d, c.moe_intermediate_size));
    w.shared = mlp_of_shape(d, c.shared_expert_intermediate_size);
    w.shared_gate = matrix(1, d);
    layer.mlp = w;
  } else {
    layer.mlp = mlp_of_shape(d, c.intermediate_size);
  }
  return layer;
}

}  // namespace

Weights weights_of_shape(const ModelConfig& c, bool mtp, ExpertRange experts) {
  Weights w;
  w.embedding = matrix(c.vocab_size, c.hidden_size);
  for (size_t i = 0; i < c.layer_types.size(); ++i) {
    w.layers.push_back(layer_of_shape(c, c.layer_types[i], c.layer_is_moe[i], experts));
  }
  w.final_norm = vector(c.hidden_size);
  w.lm_head = w.embedding;
  if (mtp) {
    MtpWeights m;
    m.embedding_norm = m.hidden_norm = m.norm = vector(c.hidden_size);
    m.fc = matrix(c.hidden_size, 2 * c.hidden_size);
    m.layer = layer_of_shape(c, LayerKind::kFullAttention, c.num_experts > 0, experts);
    w.mtp = std::move(m);
  }
  return w;
}

Weights skeleton_of(const ModelConfig& config, bool mtp, ExpertRange experts) {
  static const std::byte untied{};
  Weights weights = weights_of_shape(config, mtp, experts);
  if (!config.tie_word_embeddings) weights.lm_head.data = &untied;
  return weights;
}

namespace {

std::vector<ParameterInfo> list_of(const Weights& weights) {
  std::vector<ParameterInfo> list;
  for_each_parameter(weights, {[&](const std::string& name, const Matrix& m) { append_parameter(list, name, m.rows, m.cols, true); },
                                [&](const std::string& name, const Vector& v) { append_parameter(list, name, 1, v.size, false); }});
  return list;
}

}  // namespace

std::vector<ParameterInfo> parameter_list(const ModelConfig& config, bool mtp, ExpertRange experts) {
  return list_of(skeleton_of(config, mtp, experts));
}

ParameterArray::ParameterArray(const ModelConfig& config, bool mtp, Backend& backend, ExpertRange experts)
    : ParameterList(parameter_list(config, mtp, experts), backend), weights_(skeleton_of(config, mtp, experts)) {
  size_t next = 0;
  // The visitor sees members of weights_, which is ours to change.
  for_each_parameter(weights_, {[&](const std::string&, const Matrix& m) {
                                  const_cast<Matrix&>(m).data =
                                      reinterpret_cast<const std::byte*>(of(parameters()[next++]).data());
                                  // At once, or the visit would take it for a head of its own.
                                  if (&m == &weights_.embedding && config.tie_word_embeddings) weights_.lm_head = m;
                                },
                                [&](const std::string&, const Vector& v) {
                                  const_cast<Vector&>(v).data = of(parameters()[next++]).data();
                                }});
  QNEXT_CHECK(next == parameters().size());
}

void ParameterArray::copy_from(const Weights& from) {
  std::unordered_map<std::string, std::pair<Matrix, Vector>> found;
  for_each_parameter(from, {[&](const std::string& name, const Matrix& m) { found[name].first = m; },
                            [&](const std::string& name, const Vector& v) { found[name].second = v; }});
  for (const ParameterInfo& p : parameters()) {
    const auto it = found.find(p.name);
    if (it == found.end()) {
      if (p.name.starts_with("mtp.") && !from.mtp.has_value()) continue;
      throw Error(fmt::format("{}: expected in the model to start from, found no such parameter", p.name));
    }
    const auto& [m, v] = it->second;
    float* out = of(p).data();
    if (p.is_matrix) {
      QNEXT_CHECK(m.rows == p.rows && m.cols == p.cols, "{}: [{}, {}] and [{}, {}]", p.name, m.rows, m.cols, p.rows, p.cols);
      for (int64_t r = 0; r < m.rows; ++r) {
        for (int64_t c = 0; c < m.cols; ++c) out[r * m.cols + c] = m.at(r, c);
      }
    } else {
      QNEXT_CHECK(v.size == p.cols, "{}: {} and {}", p.name, v.size, p.cols);
      std::copy_n(v.data, v.size, out);
    }
  }
}

}  // namespace qnext
