#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "model/config.h"
#include "model/weights.h"

// The whole model once more: one token at a time, one number at a time, in any number type, to be read beside
// docs/model.md from top to bottom. It is the oracle of the tests and is never linked into the product. float, double and
// std::complex<double> are instantiated; the last is for derivatives.
namespace qnext::reference {

/// While set, the parameter array at `parameter` (f32, without gaps) is value + i * size * direction in the complex
/// instantiation, so that the imaginary part of any result over size is its derivative along direction, to rounding (the
/// complex step: nothing cancels).
struct ComplexStep {
  const float* parameter = nullptr;
  std::span<const double> direction;
  double size = 1e-30;
};
extern thread_local const ComplexStep* complex_step;

/// What one layer remembers of the tokens so far.
template <typename T>
struct LayerState {
  // Gated DeltaNet.
  std::vector<T> recurrent;  ///< [Hv, K, V]
  std::vector<T> conv;       ///< [taps - 1, q | k | v channels], inputs of the convolution, oldest first
  // Full attention.
  std::vector<T> k, v;  ///< [tokens, Hkv, A], keys after norm and RoPE
  std::vector<T> router_logits;  ///< [tokens, E] of the layer's mixture of experts, if it has one
};

/// What the MTP module computes, one row per slot.
template <typename T>
struct MtpStep {
  std::vector<T> logits;  ///< [slots, vocab]; row p of step s (from 0) predicts token p + 2 + s
  std::vector<T> hidden;  ///< [slots, D], after the MTP norm: what the next step reads
  LayerState<T> state;
};

/// What ReferenceModel::run computes, T tokens and D hidden; the MTP members are empty for a model without MTP.
template <typename T>
struct Output {
  std::vector<T> logits;               ///< [T, vocab]; row p predicts token p + 1
  std::vector<std::vector<T>> hidden;  ///< [T, D] each: embedding, residual stream after every layer, final-normed
  std::vector<LayerState<T>> states;   ///< per layer, after the last token
  MtpStep<T> mtp;                      ///< T - 1 slots
  std::vector<MtpStep<T>> mtp_steps;   ///< T slots each; where a document has no further token, token 0 stands for it
};

template <typename T>
struct ReferenceModel {
  const ModelConfig& config;
  const Weights& weights;

  /// Feeds `tokens` (each in [0, vocab)) from position 0 on. Keeps nothing between calls. mtp_steps > 0: fills mtp_steps, as
  /// training runs the module, instead of mtp.
  Output<T> run(std::span<const int32_t> tokens, int64_t mtp_steps = 0) const;
};

// The building blocks, each held to published numbers by building_blocks_test.cc.

/// y = x / sqrt(mean(x²) + eps) * (1 + w): every norm but DeltaNet's.
template <typename T>
std::vector<T> rms_norm_zero_centred(std::span<const T> x, std::span<const T> w, double eps);

/// y = x / sqrt(mean(x²) + eps) * w * silu(z): the norm of a DeltaNet head.
template <typename T>
std::vector<T> gated_rms_norm(std::span<const T> x, std::span<const T> w, std::span<const T> z, double eps);

/// x / sqrt(sum(x²) + 1e-6).
template <typename T>
std::vector<T> l2_normalise(std::span<const T> x);

/// How strongly a token writes into the state of a value head, and the logarithm of how much of the state remains.
template <typename T>
struct DeltaGates {
  T beta;  ///< in (0, 1)
  T g;     ///< <= 0
};
template <typename T>
DeltaGates<T> delta_gates(T b, T a, T a_log, T dt_bias);

/// One token through one head's state S [K, V], in place; returns the read-out [V]. q [K] is normalised and scaled,
/// k [K] normalised, v [V].
template <typename T>
std::vector<T> delta_rule_step(std::span<T> state, std::span<const T> q, std::span<const T> k, std::span<const T> v,
                               DeltaGates<T> gates);

/// The k chosen experts, best first (equal ones: lower index first), and their weights.
template <typename T>
struct Routing {
  std::vector<int64_t> experts;
  std::vector<T> weights;
};
template <typename T>
Routing<T> route_topk(std::span<const T> logits, int64_t k, bool norm_topk_prob);

/// theta_j, j < dims / 2, in radians per position; with YaRN where the config asks for it.
std::vector<double> rope_inverse_frequencies(const RopeConfig& rope);

/// Rotates the pairs (j, j + dims / 2) of the head's first dims elements by position * theta_j, in place.
template <typename T>
void apply_rope(std::span<T> head, int64_t position, std::span<const double> inverse_frequencies,
                double attention_factor);

}  // namespace qnext::reference
