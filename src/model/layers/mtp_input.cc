#include "model/layers/mtp_input.h"

#include "model/gradients.h"

namespace qnext {

void forward(const ModelConfig& config, const MtpWeights& weights, const Matrix& embedding,
             std::span<const int32_t> next_tokens, Rows hidden, MtpInputActivations& act, Rows out, Backend& backend) {
  const int64_t d = config.hidden_size;
  const Rows embedded = act.embedded.first(hidden.rows), joined = act.joined.first(hidden.rows);
  // The hidden half first: nothing after this line reads hidden.
  backend.rms_norm(hidden, weights.hidden_norm, config.rms_norm_eps, joined.columns(d, d));
  backend.embed(embedding, next_tokens, embedded);
  backend.rms_norm(embedded, weights.embedding_norm, config.rms_norm_eps, joined.columns(0, d));
  backend.linear(joined, weights.fc, out);
}

void backward(const ModelConfig& config, const MtpWeights& weights, const MtpWeights& gradients, float* d_embedding,
              std::span<const int32_t> next_tokens, Rows hidden, const MtpInputActivations& act, Rows d_out,
              MtpInputBackwardSpace& space, Rows d_hidden, TrainingBackend& backend) {
  const int64_t d = config.hidden_size;
  const Rows d_joined = space.d_joined.first(hidden.rows), d_embedded = space.d_embedded.first(hidden.rows);
  const TrainingBackend::LinearGradient fc{&weights.fc, d_out, gradient_of(gradients.fc)};
  backend.clear(d_joined);
  backend.linear_backward(act.joined.first(hidden.rows), {&fc, 1}, d_joined);
  backend.rms_norm_backward(hidden, weights.hidden_norm, config.rms_norm_eps, d_joined.columns(d, d), d_hidden,
                            gradient_of(gradients.hidden_norm));
  backend.clear(d_embedded);
  backend.rms_norm_backward(act.embedded.first(hidden.rows), weights.embedding_norm, config.rms_norm_eps,
                            d_joined.columns(0, d), d_embedded, gradient_of(gradients.embedding_norm));
  if (d_embedding != nullptr) backend.embed_backward(next_tokens, d_embedded, d_embedding);
}

}  // namespace qnext
