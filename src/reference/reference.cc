#include "reference/reference.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>
#include <numeric>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/error.h"

namespace qnext::reference {

thread_local const ComplexStep* complex_step = nullptr;

namespace {

/// The real numbers that T is made of.
template <typename T>
struct RealOf {
  using type = T;
};
template <typename T>
struct RealOf<std::complex<T>> {
  using type = T;
};
template <typename T>
using Real = typename RealOf<T>::type;
/// What decides: a complex step must not change which expert is chosen.
template <typename T>
Real<T> real(T x) {
  return std::real(x);
}

template <typename T>
T sigmoid(T x) {
  return Real<T>(1) / (Real<T>(1) + std::exp(-x));
}

template <typename T>
T silu(T x) {
  return x * sigmoid(x);
}

/// log(1 + eˣ) without overflow.
template <typename T>
T softplus(T x) {
  if constexpr (std::is_same_v<T, Real<T>>) {
    return std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
  } else {
    const T magnitude = real(x) < 0 ? -x : x;
    return (real(x) < 0 ? T(0) : x) + std::log(Real<T>(1) + std::exp(-magnitude));
  }
}

template <typename T>
T mean_of_squares(std::span<const T> x) {
  return std::inner_product(x.begin(), x.end(), x.begin(), T(0)) / static_cast<Real<T>>(x.size());
}

template <typename T>
void softmax(std::vector<T>& x) {
  const Real<T> highest = real(*std::max_element(x.begin(), x.end(), [](T a, T b) { return real(a) < real(b); }));
  for (T& value : x) value = std::exp(value - highest);
  const T sum = std::accumulate(x.begin(), x.end(), T(0));
  for (T& value : x) value /= sum;
}

/// Parameter i of an array: its value, and its share of the imaginary step where there is one.
template <typename T>
T parameter(const float* data, int64_t i) {
  const Real<T> value = data[i];
  if constexpr (!std::is_same_v<T, Real<T>>) {
    if (complex_step != nullptr && data == complex_step->parameter) {
      return {value, complex_step->size * complex_step->direction[static_cast<size_t>(i)]};
    }
  }
  return value;
}

template <typename T>
std::vector<T> values(const Vector& v) {
  std::vector<T> x;
  for (int64_t i = 0; i < v.size; ++i) x.push_back(parameter<T>(v.data, i));
  return x;
}

/// Element range [i * size, (i + 1) * size) of x: row i, or head i.
template <typename T>
std::span<T> slice(std::vector<T>& x, int64_t i, int64_t size) {
  return std::span(x).subspan(i * size, size);
}
template <typename T>
std::span<const T> slice(const std::vector<T>& x, int64_t i, int64_t size) {
  return std::span(x).subspan(i * size, size);
}

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& x) {
  to.insert(to.end(), x.begin(), x.end());
}

template <typename T>
void add(std::vector<T>& x, const std::vector<T>& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

/// y = W x
template <typename T>
std::vector<T> linear(const Matrix& w, const std::vector<T>& x) {
  std::vector<T> y(w.rows);
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t c = 0; c < w.cols; ++c) y[r] += Real<T>(w.at(r, c)) * x[c];
  }
  if constexpr (!std::is_same_v<T, Real<T>>) {
    const float* data = reinterpret_cast<const float*>(w.data);
    if (complex_step == nullptr || data != complex_step->parameter) return y;
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t c = 0; c < w.cols; ++c) y[r] += (parameter<T>(data, r * w.cols + c) - parameter<T>(data, r * w.cols + c).real()) * x[c];
    }
  }
  return y;
}

}  // namespace

// ---- Building blocks
// -----------------------------------------------------------------------------------------------

template <typename T>
std::vector<T> rms_norm_zero_centred(std::span<const T> x, std::span<const T> w, double eps) {
  const T scale = Real<T>(1) / std::sqrt(mean_of_squares(x) + T(eps));
  std::vector<T> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * (Real<T>(1) + w[i]);
  return y;
}

template <typename T>
std::vector<T> gated_rms_norm(std::span<const T> x, std::span<const T> w, std::span<const T> z, double eps) {
  const T scale = Real<T>(1) / std::sqrt(mean_of_squares(x) + T(eps));
  std::vector<T> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * w[i] * silu(z[i]);
  return y;
}

template <typename T>
std::vector<T> l2_normalise(std::span<const T> x) {
  const T sum_of_squares = std::inner_product(x.begin(), x.end(), x.begin(), T(0));
  const T scale = Real<T>(1) / std::sqrt(sum_of_squares + T(1e-6));
  std::vector<T> y(x.begin(), x.end());
  for (T& value : y) value *= scale;
  return y;
}

template <typename T>
DeltaGates<T> delta_gates(T b, T a, T a_log, T dt_bias) {
  return {.beta = sigmoid(b), .g = -std::exp(a_log) * softplus(a + dt_bias)};
}

template <typename T>
std::vector<T> delta_rule_step(std::span<T> state, std::span<const T> q, std::span<const T> k, std::span<const T> v,
                               DeltaGates<T> gates) {
  const size_t key_dim = k.size(), value_dim = v.size();
  const T decay = std::exp(gates.g);
  for (T& s : state) s *= decay;

  std::vector<T> out(value_dim);
  for (size_t j = 0; j < value_dim; ++j) {
    T predicted = 0;  // what the state holds under this key
    for (size_t i = 0; i < key_dim; ++i) predicted += state[i * value_dim + j] * k[i];
    const T update = gates.beta * (v[j] - predicted);
    for (size_t i = 0; i < key_dim; ++i) {
      state[i * value_dim + j] += k[i] * update;
      out[j] += state[i * value_dim + j] * q[i];
    }
  }
  return out;
}

template <typename T>
Routing<T> route_topk(std::span<const T> logits, int64_t k, bool norm_topk_prob) {
  std::vector<T> probabilities(logits.begin(), logits.end());
  softmax(probabilities);
  Routing<T> routing;
  routing.experts.resize(logits.size());
  std::iota(routing.experts.begin(), routing.experts.end(), 0);
  std::stable_sort(routing.experts.begin(), routing.experts.end(),
                   [&](int64_t i, int64_t j) { return real(probabilities[i]) > real(probabilities[j]); });
  routing.experts.resize(k);

  for (const int64_t e : routing.experts) routing.weights.push_back(probabilities[e]);
  const T sum = std::accumulate(routing.weights.begin(), routing.weights.end(), T(0));
  if (norm_topk_prob) {
    for (T& weight : routing.weights) weight /= sum;
  }
  return routing;
}

std::vector<double> rope_inverse_frequencies(const RopeConfig& rope) {
  const double d = static_cast<double>(rope.dims);
  std::vector<double> theta(rope.dims / 2);
  for (size_t j = 0; j < theta.size(); ++j) theta[j] = std::pow(rope.theta, -2.0 * static_cast<double>(j) / d);
  if (!rope.yarn) return theta;

  // YaRN: dimensions that turn often within the original context keep their frequency, those that turn less than
  // beta_slow times are slowed by `factor`, and in between the two are mixed along a ramp.
  const auto dimension_that_turns = [&](double times) {
    const double positions = static_cast<double>(rope.original_max_position_embeddings);
    return d * std::log(positions / (times * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
  };
  double low = dimension_that_turns(rope.beta_fast), high = dimension_that_turns(rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, d - 1);
  if (low == high) high += 0.001;
  for (size_t j = 0; j < theta.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    theta[j] = theta[j] * (1 - ramp) + theta[j] / rope.factor * ramp;
  }
  return theta;
}

template <typename T>
void apply_rope(std::span<T> head, int64_t position, std::span<const double> inverse_frequencies,
                double attention_factor) {
  const size_t half = inverse_frequencies.size();
  for (size_t j = 0; j < half; ++j) {
    const double angle = static_cast<double>(position) * inverse_frequencies[j];
    const T cosine = T(std::cos(angle) * attention_factor), sine = T(std::sin(angle) * attention_factor);
    const T x = head[j], y = head[j + half];
    head[j] = x * cosine - y * sine;
    head[j + half] = y * cosine + x * sine;
  }
}

// ---- Layers, one token at a time
// -----------------------------------------------------------------------------------

namespace {

template <typename T>
std::vector<T> gated_delta_net(const ModelConfig& config, const GatedDeltaNetWeights& w, const std::vector<T>& x,
                               LayerState<T>& state) {
  const int64_t key_heads = config.linear_num_key_heads, value_heads = config.linear_num_value_heads;
  const int64_t key_dim = config.linear_key_head_dim, value_dim = config.linear_value_head_dim;
  const int64_t channels = config.linear_conv_width(), taps = config.linear_conv_kernel_dim;
  state.recurrent.resize(value_heads * key_dim * value_dim);  // zero before the first token
  state.conv.resize((taps - 1) * channels);

  // Projections. z, b and a go around the convolution.
  std::vector<T> qkv = linear(w.q, x);
  append(qkv, linear(w.k, x));
  append(qkv, linear(w.v, x));
  const std::vector<T> z = linear(w.z, x), b = linear(w.b, x), a = linear(w.a, x);

  // Causal convolution over the last `taps` tokens, each channel by itself; then silu.
  append(state.conv, qkv);
  for (int64_t c = 0; c < channels; ++c) {
    T sum = 0;
    for (int64_t tap = 0; tap < taps; ++tap) sum += parameter<T>(w.conv.data, c * taps + tap) * state.conv[tap * channels + c];
    qkv[c] = silu(sum);
  }
  state.conv.erase(state.conv.begin(), state.conv.begin() + channels);

  // The delta rule, value head by value head; value_heads / key_heads neighbours share a query and a key.
  const std::span<const T> q_all = std::span<const T>(qkv).subspan(0, key_heads * key_dim);
  const std::span<const T> k_all = std::span<const T>(qkv).subspan(key_heads * key_dim, key_heads * key_dim);
  const std::span<const T> v_all = std::span<const T>(qkv).subspan(2 * key_heads * key_dim);
  const std::vector<T> norm = values<T>(w.norm);
  std::vector<T> y;
  for (int64_t j = 0; j < value_heads; ++j) {
    const int64_t key_head = j / (value_heads / key_heads);
    std::vector<T> q = l2_normalise(q_all.subspan(key_head * key_dim, key_dim));
    for (T& value : q) value /= std::sqrt(Real<T>(key_dim));
    const std::vector<T> k = l2_normalise(k_all.subspan(key_head * key_dim, key_dim));
    const std::span<const T> v = v_all.subspan(j * value_dim, value_dim);
    const DeltaGates<T> gates = delta_gates<T>(
        b[j], a[j], parameter<T>(w.a_log.data, j), parameter<T>(w.dt_bias.data, j));
    const std::vector<T> o = delta_rule_step<T>(slice(state.recurrent, j, key_dim * value_dim), q, k, v, gates);
    append(y, gated_rms_norm<T>(o, norm, slice(z, j, value_dim), config.rms_norm_eps));
  }
  return linear(w.out, y);
}

template <typename T>
std::vector<T> gated_attention(const ModelConfig& config, const GatedAttentionWeights& w, const std::vector<T>& x,
                               int64_t position, LayerState<T>& state) {
  const int64_t heads = config.num_attention_heads, kv_heads = config.num_key_value_heads, dim = config.head_dim;
  const std::vector<double> inverse_frequencies = rope_inverse_frequencies(config.rope);
  const auto norm_and_rope = [&](std::vector<T>& all, const Vector& weight) {
    for (int64_t h = 0; h < static_cast<int64_t>(all.size()) / dim; ++h) {
      const std::span<T> head = slice(all, h, dim);
      std::ranges::copy(rms_norm_zero_centred<T>(head, values<T>(weight), config.rms_norm_eps), head.begin());
      apply_rope(head, position, inverse_frequencies, config.rope.attention_factor);
    }
  };
  std::vector<T> q = linear(w.q, x), k = linear(w.k, x);
  norm_and_rope(q, w.q_norm);
  norm_and_rope(k, w.k_norm);
  append(state.k, k);
  append(state.v, linear(w.v, x));

  // Softmax attention over all tokens so far; heads / kv_heads neighbours share a key and a value.
  std::vector<T> y(heads * dim);
  for (int64_t n = 0; n < heads; ++n) {
    const int64_t kv_head = n / (heads / kv_heads);
    std::vector<T> scores(position + 1);
    for (int64_t t = 0; t <= position; ++t) {
      const std::span<const T> key = slice(std::as_const(state.k), t * kv_heads + kv_head, dim);
      const T dot = std::inner_product(key.begin(), key.end(), q.begin() + n * dim, T(0));
      scores[t] = dot / std::sqrt(Real<T>(dim));
    }
    softmax(scores);
    for (int64_t t = 0; t <= position; ++t) {
      const std::span<const T> value = slice(std::as_const(state.v), t * kv_heads + kv_head, dim);
      for (int64_t i = 0; i < dim; ++i) y[n * dim + i] += scores[t] * value[i];
    }
  }

  // The output gate: per element, from the same input as the queries.
  const std::vector<T> gate = linear(w.gate, x);
  for (size_t i = 0; i < y.size(); ++i) y[i] *= sigmoid(gate[i]);
  return linear(w.out, y);
}

template <typename T>
std::vector<T> swiglu(const MlpWeights& w, const std::vector<T>& x) {
  std::vector<T> hidden = linear(w.gate, x);
  const std::vector<T> up = linear(w.up, x);
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = silu(hidden[i]) * up[i];
  return linear(w.down, hidden);
}

template <typename T>
std::vector<T> mixture_of_experts(const ModelConfig& config, const MoeWeights& w, const std::vector<T>& x,
                                  std::vector<T>& router_logits) {
  std::vector<T> y = swiglu(w.shared, x);
  const T shared_gate = sigmoid(linear(w.shared_gate, x)[0]);
  for (T& value : y) value *= shared_gate;

  const std::vector<T> logits = linear(w.router, x);
  append(router_logits, logits);
  const Routing<T> routing = route_topk<T>(logits, config.num_experts_per_tok, config.norm_topk_prob);
  for (size_t i = 0; i < routing.experts.size(); ++i) {
    std::vector<T> expert = swiglu(w.experts[routing.experts[i]], x);
    for (T& value : expert) value *= routing.weights[i];
    add(y, expert);
  }
  return y;
}

/// x + mixer(norm(x)), then x + mlp(norm(x)).
template <typename T>
void layer(const ModelConfig& config, const LayerWeights& w, std::vector<T>& x, int64_t position,
           LayerState<T>& state) {
  std::vector<T> h = rms_norm_zero_centred<T>(x, values<T>(w.input_norm), config.rms_norm_eps);
  if (const auto* delta_net = std::get_if<GatedDeltaNetWeights>(&w.mixer)) {
    add(x, gated_delta_net(config, *delta_net, h, state));
  } else {
    add(x, gated_attention(config, std::get<GatedAttentionWeights>(w.mixer), h, position, state));
  }
  h = rms_norm_zero_centred<T>(x, values<T>(w.post_attention_norm), config.rms_norm_eps);
  if (const auto* moe = std::get_if<MoeWeights>(&w.mlp)) {
    add(x, mixture_of_experts(config, *moe, h, state.router_logits));
  } else {
    add(x, swiglu(std::get<MlpWeights>(w.mlp), h));
  }
}

template <typename T>
std::vector<T> embed(const Weights& weights, int32_t token) {
  QNEXT_CHECK(token >= 0 && token < weights.embedding.rows, "token {}", token);
  std::vector<T> x(weights.embedding.cols);
  for (size_t i = 0; i < x.size(); ++i) x[i] = Real<T>(weights.embedding.at(token, static_cast<int64_t>(i)));
  if constexpr (!std::is_same_v<T, Real<T>>) {
    const float* data = reinterpret_cast<const float*>(weights.embedding.data);
    if (complex_step == nullptr || data != complex_step->parameter) return x;
    for (size_t i = 0; i < x.size(); ++i) x[i] = parameter<T>(data, token * weights.embedding.cols + static_cast<int64_t>(i));
  }
  return x;
}

}  // namespace

// ---- The model
// -----------------------------------------------------------------------------------------------------

template <typename T>
Output<T> ReferenceModel<T>::run(std::span<const int32_t> tokens, int64_t mtp_steps) const {
  const size_t layers = weights.layers.size();
  const int64_t width = config.hidden_size;
  Output<T> out;
  out.states.resize(layers);
  out.hidden.resize(layers + 2);
  for (size_t p = 0; p < tokens.size(); ++p) {
    std::vector<T> x = embed<T>(weights, tokens[p]);
    append(out.hidden[0], x);
    for (size_t i = 0; i < layers; ++i) {
      layer(config, weights.layers[i], x, static_cast<int64_t>(p), out.states[i]);
      append(out.hidden[i + 1], x);
    }
    x = rms_norm_zero_centred<T>(x, values<T>(weights.final_norm), config.rms_norm_eps);
    append(out.hidden[layers + 1], x);
    append(out.logits, linear(weights.lm_head, x));
  }
  if (!weights.mtp) return out;

  // Multi-token prediction: slot p joins what the model knows at p with the token that followed, or with the step's own
  // output at p and the token after that, and so on.
  const MtpWeights& mtp = *weights.mtp;
  const auto run_step = [&](const std::vector<T>& before, size_t ahead, size_t slots, MtpStep<T>& step) {
    for (size_t p = 0; p < slots; ++p) {
      const std::span<const T> hidden = slice(before, static_cast<int64_t>(p), width);
      const int32_t token = p + ahead < tokens.size() ? tokens[p + ahead] : 0;
      std::vector<T> x = rms_norm_zero_centred<T>(embed<T>(weights, token), values<T>(mtp.embedding_norm),
                                                  config.rms_norm_eps);
      append(x, rms_norm_zero_centred<T>(hidden, values<T>(mtp.hidden_norm), config.rms_norm_eps));
      x = linear(mtp.fc, x);
      layer(config, mtp.layer, x, static_cast<int64_t>(p), step.state);
      x = rms_norm_zero_centred<T>(x, values<T>(mtp.norm), config.rms_norm_eps);
      append(step.hidden, x);
      append(step.logits, linear(weights.lm_head, x));
    }
  };
  if (mtp_steps == 0) {
    run_step(out.hidden[layers + 1], 1, tokens.empty() ? 0 : tokens.size() - 1, out.mtp);
  } else {
    out.mtp_steps.resize(static_cast<size_t>(mtp_steps));
    for (size_t s = 0; s < out.mtp_steps.size(); ++s) {
      run_step(s == 0 ? out.hidden[layers + 1] : out.mtp_steps[s - 1].hidden, 1 + s, tokens.size(), out.mtp_steps[s]);
    }
  }
  return out;
}

#define QNEXT_INSTANTIATE(T)                                                                                        \
  template struct ReferenceModel<T>;                                                                                \
  template std::vector<T> rms_norm_zero_centred(std::span<const T>, std::span<const T>, double);                    \
  template std::vector<T> gated_rms_norm(std::span<const T>, std::span<const T>, std::span<const T>, double);       \
  template std::vector<T> l2_normalise(std::span<const T>);                                                         \
  template DeltaGates<T> delta_gates(T, T, T, T);                                                                   \
  template std::vector<T> delta_rule_step(std::span<T>, std::span<const T>, std::span<const T>, std::span<const T>, \
                                          DeltaGates<T>);                                                           \
  template Routing<T> route_topk(std::span<const T>, int64_t, bool);                                                \
  template void apply_rope(std::span<T>, int64_t, std::span<const double>, double)
QNEXT_INSTANTIATE(float);
QNEXT_INSTANTIATE(double);
QNEXT_INSTANTIATE(std::complex<double>);
#undef QNEXT_INSTANTIATE

}  // namespace qnext::reference
