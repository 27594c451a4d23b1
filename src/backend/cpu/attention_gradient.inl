// Part of training_kernels.inl: backward of attention, 64 query rows of one head and 64 keys at a time.

namespace attention_gradient {

inline constexpr int64_t kPanel = kTileVecs * Vec::kLanes;
inline int64_t padded(int64_t cols) { return (cols + kPanel - 1) / kPanel * kPanel; }

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

void pack_rows(const float* x, int64_t stride, int64_t rows, int64_t cols, float* out) {
  for (int64_t c = 0; c < cols; c += kPanel, out += rows * kPanel) {
    const int64_t count = cols - c < kPanel ? cols - c : kPanel;
    for (int64_t r = 0; r < rows; ++r) {
      if (count == kPanel) {
        QNEXT_UNROLL
        for (int64_t n = 0; n < kPanel; n += Vec::kLanes) Vec::load(x + r * stride + c + n).store(out + r * kPanel + n);
      } else {
        for (int64_t n = 0; n < kPanel; ++n) out[r * kPanel + n] = n < count ? x[r * stride + c + n] : 0.0f;
      }
    }
  }
}

void unpack_rows(const float* panels, int64_t rows, int64_t cols, float* out, int64_t stride) {
  for (int64_t c = 0; c < cols; c += kPanel, panels += rows * kPanel) {
    const int64_t count = cols - c < kPanel ? cols - c : kPanel;
    for (int64_t r = 0; r < rows; ++r) {
      for_lanes(count, [&](int64_t n, int64_t lanes) {
        store_lanes(load_lanes(panels + r * kPanel + n, lanes), out + r * stride + c + n, lanes);
      });
    }
  }
}

void pack_keys(const float* keys, const float* values, int64_t head_dim, int64_t count, float* out) {
  pack_rows(keys, kBlockTokens, head_dim, kBlockTokens, out);
  float* rows = out + kBlockTokens * head_dim;
  for (int64_t d = 0; d < padded(head_dim); ++d) {
    float* column = rows + d / kPanel * kBlockTokens * kPanel + d % kPanel;
    for (int64_t j = 0; j < kBlockTokens; ++j) {
      column[j * kPanel] = j < count && d < head_dim ? keys[d * kBlockTokens + j] : 0.0f;
    }
  }
  float* columns = rows + kBlockTokens * padded(head_dim);
  for (int64_t j = 0; j < kBlockTokens; ++j) {
    float* column = columns + j / kPanel * head_dim * kPanel + j % kPanel;
    for (int64_t d = 0; d < head_dim; ++d) column[d * kPanel] = j < count ? values[j * head_dim + d] : 0.0f;
  }
}

/// The left side of a product: element (i, m) is at i * row + m / kPanel * block + m % kPanel * inner.
struct Left {
  const float* data;
  int64_t row, inner, block;
};

/// One panel of out (+)= a b for kTile rows: a register tile as accumulate_tile, with b in a panel.
template <int kTile>
inline void panel_tile(float* out, int64_t ldout, int64_t cols, bool add, Left a, const float* b, int64_t inner) {
  Vec sum[kTile][kTileVecs];
  QNEXT_UNROLL
  for (int i = 0; i < kTile; ++i) {
    QNEXT_UNROLL
    for (int n = 0; n < kTileVecs; ++n) sum[i][n] = Vec::zero();
  }
  for (int64_t block = 0; block < inner; block += kPanel, a.data += a.block) {
    const int64_t count = inner - block < kPanel ? inner - block : kPanel;
    const float* left = a.data;
    for (int64_t m = 0; m < count; ++m, left += a.inner, b += kPanel) {
      Vec row[kTileVecs];
      QNEXT_UNROLL
      for (int n = 0; n < kTileVecs; ++n) row[n] = Vec::load(b + n * Vec::kLanes);
      QNEXT_UNROLL
      for (int i = 0; i < kTile; ++i) {
        const Vec factor = Vec::set(left[i * a.row]);
        QNEXT_UNROLL
        for (int n = 0; n < kTileVecs; ++n) sum[i][n] = Vec::fma(factor, row[n], sum[i][n]);
      }
    }
  }
  QNEXT_UNROLL
  for (int i = 0; i < kTile; ++i) {
    QNEXT_UNROLL
    for (int n = 0; n < kTileVecs; ++n) {
      const int64_t left = cols - n * Vec::kLanes;
      float* to = out + i * ldout + n * Vec::kLanes;
      if (left >= Vec::kLanes) {
        (add ? Vec::load(to) + sum[i][n] : sum[i][n]).store(to);
      } else if (left > 0) {
        (add ? Vec::partial_load(to, left) + sum[i][n] : sum[i][n]).partial_store(to, left);
      }
    }
  }
}

/// out [rows, cols] (+)= a [rows, inner] b, b [inner, cols] in panels; out: panels ldpanel apart of rows ldout apart. Of the
/// panel that begins at column c only rows from first_row(c) on, of rows [r, end) only terms [begin_of(r), end_of(end)).
template <typename FirstRow, typename Begin, typename End>
inline void panel_product(float* out, int64_t ldout, int64_t ldpanel, bool add, const Left& a, const float* b, int64_t rows,
                          int64_t inner, int64_t cols, FirstRow&& first_row, Begin&& begin_of, End&& end_of) {
  for (int64_t c = 0; c < cols; c += kPanel, b += inner * kPanel, out += ldpanel) {
    int64_t r = first_row(c);
    const auto tiles = [&]<int kTile>(std::integral_constant<int, kTile>) {
      for (; r + kTile <= rows; r += kTile) {
        const int64_t begin = begin_of(r) / kPanel * kPanel;
        panel_tile<kTile>(out + r * ldout, ldout, cols - c, add,
                          {a.data + r * a.row + begin / kPanel * a.block, a.row, a.inner, a.block}, b + begin * kPanel,
                          end_of(r + kTile) - begin);
      }
    };
    tiles(std::integral_constant<int, kQueryTile>{});
    tiles(std::integral_constant<int, 4>{});
    tiles(std::integral_constant<int, 1>{});
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
  const int64_t dim = c.head_dim;
  const float *keys = c.key_block, *key_rows = keys + kBlockTokens * dim, *values = key_rows + kBlockTokens * padded(dim);
  float *p = scratch, *ds = p + kBlockTokens * kBlockTokens;
  // Row r sees key j when j < visible + r. In the blocks on the diagonal almost half of the pairs are skipped.
  const auto clamp = [](int64_t n, int64_t most) { return n < 0 ? 0 : n < most ? n : most; };
  const auto zero = [](int64_t) -> int64_t { return 0; };
  const auto first_row = [&](int64_t key) { return clamp(key - c.visible + 1, c.rows); };
  const auto all_dims = [&](int64_t) { return dim; };
  const Left q{c.q, kPanel, 1, c.rows * kPanel}, d_o{c.d_o, kPanel, 1, c.rows * kPanel};
  panel_product(p, kBlockTokens, kPanel, false, q, keys, c.rows, dim, kBlockTokens, first_row, zero, all_dims);
  panel_product(ds, kBlockTokens, kPanel, false, d_o, values, c.rows, dim, kBlockTokens, first_row, zero, all_dims);
  for (int64_t r = 0; r < c.rows; ++r) {
    softmax_row(p + r * kBlockTokens, ds + r * kBlockTokens, clamp(c.visible + r, kBlockTokens), c.scale,
                c.log_sum_exp[r * c.lse_stride], c.row_dots[r]);
  }
  panel_product(c.d_q, kPanel, c.rows * kPanel, !c.first_keys, {ds, kBlockTokens, 1, kPanel}, key_rows, c.rows, kBlockTokens,
                padded(dim), zero, zero, [&](int64_t end) { return clamp(c.visible + end - 1, kBlockTokens); });
  const int64_t count = c.key_end - c.key_begin;
  if (count <= 0) return;
  const auto transposed = [&](const float* weights) {
    return Left{weights + c.key_begin, 1, kBlockTokens, kBlockTokens * kPanel};
  };
  const auto seen_from = [&](int64_t key) { return clamp(c.key_begin + key - c.visible + 1, c.rows); };
  const auto all_rows = [&](int64_t) { return c.rows; };
  panel_product(c.d_v, c.d_v_stride, kPanel, !c.first_rows, transposed(p), c.d_o, count, c.rows, dim, zero, seen_from, all_rows);
  panel_product(c.d_k, c.d_k_stride, kPanel, !c.first_rows, transposed(ds), c.q, count, c.rows, dim, zero, seen_from, all_rows);
}

}  // namespace attention_gradient

inline constexpr AttentionGradientKernels kAttentionGradient{.panel = attention_gradient::kPanel,
                                                             .output_gate = attention_gradient::output_gate,
                                                             .pack_rows = attention_gradient::pack_rows,
                                                             .unpack_rows = attention_gradient::unpack_rows,
                                                             .pack_keys = attention_gradient::pack_keys,
                                                             .cell = attention_gradient::cell};
