// Part of training_kernels.inl: backward of attention, 64 query rows of one head and 64 keys at a time.

namespace attention_gradient {

float output_gate(const float* d_out, const float* out, const float* gate, int64_t n, float* d_o, float* d_gate) {
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec d = load_lanes(d_out + i, lanes), product = d * load_lanes(out + i, lanes);
    const Vec open = sigmoid(load_lanes(gate + i, lanes));
    store_lanes(d * open, d_o + i, lanes);
    store_lanes(product * (Vec::set(1.0f) - open), d_gate + i, lanes);
    sum = sum + product;
  });
  return sum.sum();
}

void transpose_block(const float* keys, const float* values, int64_t head_dim, int64_t count, float* key_rows,
                     float* value_columns) {
  // Strips of 16: what is written of a strip stays in the first-level cache until its lines are full.
  for (int64_t begin = 0; begin < head_dim; begin += 16) {
    const int64_t end = begin + 16 < head_dim ? begin + 16 : head_dim;
    for (int64_t j = 0; j < kBlockTokens; ++j) {
      for (int64_t d = begin; d < end; ++d) {
        key_rows[j * head_dim + d] = j < count ? keys[d * kBlockTokens + j] : 0.0f;
        value_columns[d * kBlockTokens + j] = j < count ? values[j * head_dim + d] : 0.0f;
      }
    }
  }
}

/// Scores and gradients of weights of one row become weights and gradients of unscaled scores; zero after `count` keys.
inline void softmax_row(float* p, float* ds, int64_t count, float scale, float log_sum_exp, float row_dot) {
  const Vec factor = Vec::set(scale), lse = Vec::set(log_sum_exp), dot = Vec::set(row_dot);
  for (int64_t j = 0; j < count; j += Vec::kLanes) {
    const Vec weight = exp(Vec::load(p + j) * factor - lse);
    weight.store(p + j);
    (weight * (Vec::load(ds + j) - dot) * factor).store(ds + j);
  }
  for (int64_t j = count; j < kBlockTokens; ++j) p[j] = ds[j] = 0.0f;
}

void cell(const AttentionGradientCell& c, float* scratch) {
  static constexpr struct Ones {
    float v[kBlockTokens];
    constexpr Ones() : v() {
      for (float& x : v) x = 1.0f;
    }
  } kOnes;
  const int64_t dim = c.head_dim;
  float *p = scratch, *ds = p + kBlockTokens * kBlockTokens;
  accumulate(p, kBlockTokens, nullptr, c.q, c.q_stride, 1, c.keys, kBlockTokens, c.rows, dim, kBlockTokens);
  accumulate(ds, kBlockTokens, nullptr, c.d_o, dim, 1, c.value_columns, kBlockTokens, c.rows, dim, kBlockTokens);
  for (int64_t r = 0; r < c.rows; ++r) {
    const int64_t count = c.visible + r < kBlockTokens ? c.visible + r : kBlockTokens;
    softmax_row(p + r * kBlockTokens, ds + r * kBlockTokens, count, c.scale, c.log_sum_exp[r * c.lse_stride], c.row_dots[r]);
  }
  accumulate(c.d_q, c.d_q_stride, c.first_keys ? nullptr : kOnes.v, ds, kBlockTokens, 1, c.key_rows, dim, c.rows, kBlockTokens,
             dim);
  const int64_t keys = c.key_end - c.key_begin;
  if (keys <= 0) return;
  const float* scale = c.first_rows ? nullptr : kOnes.v;
  accumulate(c.d_v, c.d_v_stride, scale, p + c.key_begin, 1, kBlockTokens, c.d_o, dim, keys, c.rows, dim);
  accumulate(c.d_k, c.d_k_stride, scale, ds + c.key_begin, 1, kBlockTokens, c.q, c.q_stride, keys, c.rows, dim);
}

}  // namespace attention_gradient

inline constexpr AttentionGradientKernels kAttentionGradient{.output_gate = attention_gradient::output_gate,
                                                             .transpose_block = attention_gradient::transpose_block,
                                                             .cell = attention_gradient::cell};
