#include "model/model.h"

#include "base/error.h"
#include "model/layers/mtp_input.h"
#include "model/rope.h"

namespace qnext {

Activations::Activations(const ModelConfig& config, int64_t max_rows, Arena arena) {
  residual = arena.rows(max_rows, config.hidden_size);
  layer.normed = layer.mlp_input = arena.rows(max_rows, config.hidden_size);
  layer.mixed = arena.rows(max_rows, config.hidden_size);
  layer.middle = residual;
  hidden = arena.rows(max_rows, config.hidden_size);
  cos = arena.rows(max_rows, config.rope.dims / 2);
  sin = arena.rows(max_rows, config.rope.dims / 2);
  inverse_frequencies = rope_inverse_frequencies(config.rope);
  // No two of these are at work at the same time, and none keeps anything for the next layer.
  const int64_t shared = arena.used();
  layer.delta = GatedDeltaNetActivations(config, max_rows, Keep::kNothing, arena);
  arena.rewind(shared);
  layer.attention = GatedAttentionActivations(config, max_rows, Keep::kNothing, arena);
  arena.rewind(shared);
  layer.mlp = MlpActivations(config, max_rows, arena);
  arena.rewind(shared);
  mtp_input = arena.rows(max_rows, 2 * config.hidden_size);
  arena_ = std::move(arena);
}

Activations::Activations(const ModelConfig& config, int64_t max_rows, Backend& backend)
    : Activations(config, max_rows, Arena(backend.allocate(bytes(config, max_rows)))) {}

int64_t Activations::bytes(const ModelConfig& config, int64_t max_rows) {
  return Activations(config, max_rows, Arena()).arena_.bytes();
}

void Activations::reserve_logits(const ModelConfig& config, int64_t rows, Backend& backend) {
  if (rows <= logits.rows) return;
  const auto take = [&](Arena arena) {
    logit_input = arena.rows(rows, config.hidden_size);
    logits = arena.rows(rows, config.vocab_size);
    return arena;
  };
  const int64_t bytes = take(Arena()).bytes();
  logit_arena_ = Arena();  // the old one goes first
  logit_arena_ = take(Arena(backend.allocate(bytes)));
}

namespace {

void require_finite(Rows x, Backend& backend, const auto& describe) {
  if (!backend.all_finite(x)) {
    throw Error(fmt::format("{}: expected finite values, found NaN or infinity in its output", describe()));
  }
}

void fill_rope(const ModelConfig& config, std::span<const Segment> segments, Activations& act) {
  for (const Segment& s : segments) {
    for (int64_t i = 0; i < s.rows; ++i) {
      rope_row(act.inverse_frequencies, config.rope.attention_factor, s.position + i, act.cos.row(s.row + i),
               act.sin.row(s.row + i));
    }
  }
}

std::string_view kind_name(LayerKind kind) {
  return kind == LayerKind::kFullAttention ? "full_attention" : "linear_attention";
}

}  // namespace

void forward(const ModelConfig& config, const Weights& weights, const StateLayout& layout, std::span<const int32_t> tokens,
             std::span<const Segment> segments, std::span<const int32_t> logit_rows, Activations& act, Backend& backend,
             const Observer& observer) {
  const auto row_count = static_cast<int64_t>(tokens.size());
  QNEXT_CHECK(row_count <= act.residual.rows, "{} rows in an arena for {}", row_count, act.residual.rows);
  const Rows x = act.residual.first(row_count), hidden = act.hidden.first(row_count);
  const Rows cos = act.cos.first(row_count), sin = act.sin.first(row_count);
  fill_rope(config, segments, act);
  backend.embed(weights.embedding, tokens, x);
  require_finite(x, backend, [] { return "embedding"; });
  if (observer) observer(-1, x);
  for (int64_t i = 0; i < config.num_layers(); ++i) {
    const auto index = static_cast<size_t>(i);
    forward(config, weights.layers[index], layout, i, layout.kv_offset[index], segments, x, cos, sin, act.layer, x, backend);
    require_finite(x, backend, [&] { return fmt::format("layer {} ({})", i, kind_name(config.layer_types[index])); });
    if (observer) observer(i, x);
  }
  backend.rms_norm(x, weights.final_norm, config.rms_norm_eps, hidden);
  if (observer) observer(config.num_layers(), hidden);
  if (logit_rows.empty()) return;
  const auto asked = static_cast<int64_t>(logit_rows.size());
  act.reserve_logits(config, asked, backend);
  const Rows input = act.logit_input.first(asked), logits = act.logits.first(asked);
  backend.gather(hidden, logit_rows, input);
  backend.linear(input, weights.lm_head, logits);
  require_finite(logits, backend, [] { return "final norm and head"; });
}

void forward_mtp(const ModelConfig& config, const Weights& weights, const StateLayout& layout,
                 std::span<const int32_t> next_tokens, Rows hidden, std::span<const Segment> segments, Activations& act,
                 Backend& backend) {
  const auto row_count = static_cast<int64_t>(next_tokens.size());
  QNEXT_CHECK(weights.mtp.has_value() && layout.mtp_kv_offset >= 0 && hidden.rows == row_count);
  const MtpWeights& mtp = *weights.mtp;
  const Rows x = act.residual.first(row_count), input = act.mtp_input.first(row_count);
  const Rows embedded = act.layer.normed.first(row_count), out = act.hidden.first(row_count);
  const Rows cos = act.cos.first(row_count), sin = act.sin.first(row_count);
  fill_rope(config, segments, act);
  MtpInputActivations mtp_input{embedded, input};
  forward(config, mtp, weights.embedding, next_tokens, hidden, mtp_input, x, backend);
  forward(config, mtp.layer, layout, -1, layout.mtp_kv_offset, segments, x, cos, sin, act.layer, x, backend);
  require_finite(x, backend, [] { return "mtp.layers.0"; });
  backend.rms_norm(x, mtp.norm, config.rms_norm_eps, out);
  act.reserve_logits(config, row_count, backend);
  backend.linear(out, weights.lm_head, act.logits.first(row_count));
  require_finite(act.logits.first(row_count), backend, [] { return "mtp.norm and head"; });
}

}  // namespace qnext
