// The kernels, written once over Vec (simd.h) and compiled for each instruction set by kernels_<isa>.cc inside its
// target region and namespace.

// ---- matrix product --------------------------------------------------------------------------------------------

/// A row of a weight matrix; scales: its fp8 scales, one per 128 columns.
struct WeightRow {
  const std::byte* data;
  const float* scales;
};

inline WeightRow weight_row(const Matrix& w, int64_t r) {
  return {w.row(r), w.block_scales == nullptr ? nullptr : w.block_scales + w.physical_row(r) / 128 * w.scale_cols};
}

/// kLanes weights from column c, exactly converted; fp8 times its scale.
template <DType kType>
inline Vec load_weights(const WeightRow& row, int64_t c) {
  if constexpr (kType == DType::kF32) return Vec::load(reinterpret_cast<const float*>(row.data) + c);
  if constexpr (kType == DType::kBF16) return Vec::load_bf16(reinterpret_cast<const uint16_t*>(row.data) + c);
  if constexpr (kType == DType::kF16) return Vec::load_f16(reinterpret_cast<const uint16_t*>(row.data) + c);
  if constexpr (kType == DType::kF8E4M3) {
    const Vec value = Vec::load_f8(reinterpret_cast<const uint8_t*>(row.data) + c);
    return row.scales == nullptr ? value : value * Vec::set(row.scales[c / 128]);
  }
}

template <DType kType>
inline Vec partial_load_weights(const WeightRow& row, int64_t c, int64_t n) {
  float lanes[Vec::kLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    const float value = load_as_f32(row.data, kType, c + i);
    lanes[i] = kType == DType::kF8E4M3 && row.scales != nullptr ? value * row.scales[(c + i) / 128] : value;
  }
  return Vec::load(lanes);
}

/// y[m][r + n] = x[m] . w[n]. Each sum runs over the columns in one accumulator, so its value does not depend on
/// kTokens or kRows.
template <DType kType, int kTokens, int kRows>
inline void dot_tile(const float* const* x, const WeightRow* w, int64_t cols, float* const* y, int64_t r) {
  Vec sum[kTokens][kRows];
  for (int m = 0; m < kTokens; ++m) {
    for (int n = 0; n < kRows; ++n) sum[m][n] = Vec::zero();
  }
  int64_t c = 0;
  for (; c + Vec::kLanes <= cols; c += Vec::kLanes) {
    Vec xs[kTokens];
    for (int m = 0; m < kTokens; ++m) xs[m] = Vec::load(x[m] + c);
    for (int n = 0; n < kRows; ++n) {
      const Vec weights = load_weights<kType>(w[n], c);
      for (int m = 0; m < kTokens; ++m) sum[m][n] = Vec::fma(xs[m], weights, sum[m][n]);
    }
  }
  if (c < cols) {
    Vec xs[kTokens];
    for (int m = 0; m < kTokens; ++m) xs[m] = Vec::partial_load(x[m] + c, cols - c);
    for (int n = 0; n < kRows; ++n) {
      const Vec weights = partial_load_weights<kType>(w[n], c, cols - c);
      for (int m = 0; m < kTokens; ++m) sum[m][n] = Vec::fma(xs[m], weights, sum[m][n]);
    }
  }
  for (int m = 0; m < kTokens; ++m) {
    for (int n = 0; n < kRows; ++n) y[m][r + n] = sum[m][n].sum();
  }
}

template <DType kType, int kTokens>
inline void dot_rows(const float* const* x, const Matrix& w, int64_t begin, int64_t end, float* const* y) {
  constexpr int kRows = kTokens == 1 ? 8 : 4;  // independent sums in flight
  WeightRow rows[kRows];
  int64_t r = begin;
  for (; r + kRows <= end; r += kRows) {
    for (int n = 0; n < kRows; ++n) rows[n] = weight_row(w, r + n);
    dot_tile<kType, kTokens, kRows>(x, rows, w.cols, y, r);
  }
  for (; r < end; ++r) {
    rows[0] = weight_row(w, r);
    dot_tile<kType, kTokens, 1>(x, rows, w.cols, y, r);
  }
}

template <DType kType>
inline void expand_row_as(const Matrix& w, int64_t r, float* out) {
  const WeightRow row = weight_row(w, r);
  int64_t c = 0;
  for (; c + Vec::kLanes <= w.cols; c += Vec::kLanes) load_weights<kType>(row, c).store(out + c);
  if (c < w.cols) partial_load_weights<kType>(row, c, w.cols - c).partial_store(out + c, w.cols - c);
}

template <DType kType>
inline void matmul_as(const float* x, int64_t ldx, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin,
                      int64_t end, float* y, int64_t ldy, const int32_t* y_index, float* scratch) {
  // Many tokens: expand the panel once, then every tile works on floats. Exact, so the sums are those of few tokens.
  if (kType != DType::kF32 && tokens >= 8) {
    Matrix panel{.dtype = DType::kF32, .rows = end - begin, .cols = w.cols,
                 .data = reinterpret_cast<const std::byte*>(scratch)};
    for (int64_t r = begin; r < end; ++r) expand_row_as<kType>(w, r, scratch + (r - begin) * w.cols);
    return matmul_as<DType::kF32>(x, ldx, x_index, tokens, panel, 0, end - begin, y + begin, ldy, y_index, nullptr);
  }
  constexpr int kTile = 4;
  const float* xs[kTile];
  float* ys[kTile];
  for (int64_t t = 0; t < tokens; t += kTile) {
    const int64_t count = tokens - t < kTile ? tokens - t : kTile;
    for (int64_t m = 0; m < count; ++m) {
      xs[m] = x + (x_index == nullptr ? t + m : x_index[t + m]) * ldx;
      ys[m] = y + (y_index == nullptr ? t + m : y_index[t + m]) * ldy;
    }
    switch (count) {
      case 1: dot_rows<kType, 1>(xs, w, begin, end, ys); break;
      case 2: dot_rows<kType, 2>(xs, w, begin, end, ys); break;
      case 3: dot_rows<kType, 3>(xs, w, begin, end, ys); break;
      default: dot_rows<kType, 4>(xs, w, begin, end, ys); break;
    }
  }
}

void expand_row(const Matrix& w, int64_t row, float* out) {
  switch (w.dtype) {
    case DType::kF32: return expand_row_as<DType::kF32>(w, row, out);
    case DType::kBF16: return expand_row_as<DType::kBF16>(w, row, out);
    case DType::kF16: return expand_row_as<DType::kF16>(w, row, out);
    case DType::kF8E4M3: return expand_row_as<DType::kF8E4M3>(w, row, out);
    default: return decode(w.dtype, w.row(row), w.cols, out);
  }
}

void matmul(const float* x, int64_t ldx, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin, int64_t end,
            float* y, int64_t ldy, const int32_t* y_index, float* scratch) {
  switch (w.dtype) {
    case DType::kF32: return matmul_as<DType::kF32>(x, ldx, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kBF16: return matmul_as<DType::kBF16>(x, ldx, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kF16: return matmul_as<DType::kF16>(x, ldx, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kF8E4M3:
      return matmul_as<DType::kF8E4M3>(x, ldx, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    default: break;
  }
  // Block types against activations in f32: expanded whatever the number of tokens.
  const Matrix panel{.dtype = DType::kF32, .rows = end - begin, .cols = w.cols,
                     .data = reinterpret_cast<const std::byte*>(scratch)};
  for (int64_t r = begin; r < end; ++r) expand_row(w, r, scratch + (r - begin) * w.cols);
  matmul_as<DType::kF32>(x, ldx, x_index, tokens, panel, 0, end - begin, y + begin, ldy, y_index, nullptr);
}

// ---- element by element, and row norms ---------------------------------------------------------------------------

void add(float* x, const float* y, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(load_lanes(x + i, lanes) + load_lanes(y + i, lanes), x + i, lanes);
  });
}

void scale_add(float* y, const float* x, float scale, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(Vec::fma(Vec::set(scale), load_lanes(x + i, lanes), load_lanes(y + i, lanes)), y + i, lanes);
  });
}

bool all_finite(const float* x, int64_t n) {
  // x * 0 is 0 for finite x and NaN otherwise.
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) { sum = Vec::fma(load_lanes(x + i, lanes), Vec::zero(), sum); });
  return sum.sum() == 0.0f;
}

void exp(float* x, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) { store_lanes(exp(load_lanes(x + i, lanes)), x + i, lanes); });
}

inline float sum_of_squares(const float* x, int64_t n) {
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec value = load_lanes(x + i, lanes);
    sum = Vec::fma(value, value, sum);
  });
  return sum.sum();
}

void rms_norm(const float* x, const float* gain, float gain_offset, float eps, float* out, int64_t n) {
  const Vec scale = Vec::set(1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  const Vec offset = Vec::set(gain_offset);
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(load_lanes(x + i, lanes) * scale * (load_lanes(gain + i, lanes) + offset), out + i, lanes);
  });
}

void gated_rms_norm(float* x, const float* z, const float* gain, float eps, int64_t n) {
  const Vec scale = Vec::set(1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec normed = load_lanes(x + i, lanes) * scale * load_lanes(gain + i, lanes);
    store_lanes(normed * silu(load_lanes(z + i, lanes)), x + i, lanes);
  });
}

void l2_norm(float* x, float scale, int64_t n) {
  const Vec factor = Vec::set(scale / std::sqrt(sum_of_squares(x, n) + 1e-6f));
  for_lanes(n, [&](int64_t i, int64_t lanes) { store_lanes(load_lanes(x + i, lanes) * factor, x + i, lanes); });
}

void silu_multiply(float* gate, const float* up, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(silu(load_lanes(gate + i, lanes)) * load_lanes(up + i, lanes), gate + i, lanes);
  });
}

void sigmoid_multiply(float* x, const float* gate, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(load_lanes(x + i, lanes) * sigmoid(load_lanes(gate + i, lanes)), x + i, lanes);
  });
}

void rope(float* x, const float* cos, const float* sin, int64_t pairs) {
  for_lanes(pairs, [&](int64_t i, int64_t lanes) {
    const Vec a = load_lanes(x + i, lanes), b = load_lanes(x + pairs + i, lanes);
    const Vec c = load_lanes(cos + i, lanes), s = load_lanes(sin + i, lanes);
    store_lanes(a * c - b * s, x + i, lanes);
    store_lanes(b * c + a * s, x + pairs + i, lanes);
  });
}

// ---- causal convolution --------------------------------------------------------------------------------------------

void causal_conv1d_silu(const ConvSegment& segment, const float* x, int64_t ldx, const float* taps, int64_t kernel,
                        int64_t channels, int64_t begin, int64_t end, float* out, int64_t ldout) {
  const int64_t past = kernel - 1;
  // Row t of the input as seen from this segment: t < 0 is in the state.
  const auto input = [&](int64_t t) {
    return t < 0 ? segment.state + (t + past) * channels : x + (segment.row + t) * ldx;
  };
  for_lanes(end - begin, [&](int64_t i, int64_t lanes) {
    const int64_t c = begin + i;
    Vec tap[kMaxConvKernel];  // tap[m] of these channels; taps are stored channel by channel
    for (int64_t m = 0; m < kernel; ++m) {
      float column[Vec::kLanes] = {};
      for (int64_t lane = 0; lane < lanes; ++lane) column[lane] = taps[(c + lane) * kernel + m];
      tap[m] = Vec::load(column);
    }
    for (int64_t t = 0; t < segment.rows; ++t) {
      Vec sum = Vec::zero();
      for (int64_t m = 0; m < kernel; ++m) sum = Vec::fma(tap[m], load_lanes(input(t - past + m) + c, lanes), sum);
      store_lanes(silu(sum), out + (segment.row + t) * ldout + c, lanes);
    }
    // The last inputs become the state, oldest first: reads are at or after the row written.
    for (int64_t m = 0; m < past; ++m) {
      store_lanes(load_lanes(input(segment.rows - past + m) + c, lanes), segment.state + m * channels + c, lanes);
    }
  });
}

// ---- gated delta rule ------------------------------------------------------------------------------------------------

/// out[i][0..cols) = scale_i * out[i] + sum over m < inner of a[i * a_row + m * a_inner] * b[m], for kTile rows i.
template <int kTile, int kVecs>
inline void accumulate_tile(float* out, int64_t ldout, const float* scale, const float* a, int64_t a_row, int64_t a_inner,
                            const float* b, int64_t ldb, int64_t inner, int64_t column, int64_t lanes) {
  Vec sum[kTile][kVecs];
  for (int i = 0; i < kTile; ++i) {
    for (int n = 0; n < kVecs; ++n) {
      sum[i][n] = load_lanes(out + i * ldout + column + n * Vec::kLanes, lanes) * Vec::set(scale[i]);
    }
  }
  for (int64_t m = 0; m < inner; ++m) {
    Vec row[kVecs];
    for (int n = 0; n < kVecs; ++n) row[n] = load_lanes(b + m * ldb + column + n * Vec::kLanes, lanes);
    for (int i = 0; i < kTile; ++i) {
      const Vec factor = Vec::set(a[i * a_row + m * a_inner]);
      for (int n = 0; n < kVecs; ++n) sum[i][n] = Vec::fma(factor, row[n], sum[i][n]);
    }
  }
  for (int i = 0; i < kTile; ++i) {
    for (int n = 0; n < kVecs; ++n) store_lanes(sum[i][n], out + i * ldout + column + n * Vec::kLanes, lanes);
  }
}

template <int kTile>
inline void accumulate_columns(float* out, int64_t ldout, const float* scale, const float* a, int64_t a_row,
                               int64_t a_inner, const float* b, int64_t ldb, int64_t inner, int64_t cols) {
  int64_t c = 0;
  for (; c + 4 * Vec::kLanes <= cols; c += 4 * Vec::kLanes) {
    accumulate_tile<kTile, 4>(out, ldout, scale, a, a_row, a_inner, b, ldb, inner, c, Vec::kLanes);
  }
  for (; c < cols; c += Vec::kLanes) {
    const int64_t lanes = cols - c < Vec::kLanes ? cols - c : Vec::kLanes;
    accumulate_tile<kTile, 1>(out, ldout, scale, a, a_row, a_inner, b, ldb, inner, c, lanes);
  }
}

/// The small matrix product of the chunk and attention kernels: rows of `out` scaled, then += a b.
inline void accumulate(float* out, int64_t ldout, const float* scale, const float* a, int64_t a_row, int64_t a_inner,
                       const float* b, int64_t ldb, int64_t rows, int64_t inner, int64_t cols) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    accumulate_columns<4>(out + i * ldout, ldout, scale + i, a + i * a_row, a_row, a_inner, b, ldb, inner, cols);
  }
  for (; i < rows; ++i) {
    accumulate_columns<1>(out + i * ldout, ldout, scale + i, a + i * a_row, a_row, a_inner, b, ldb, inner, cols);
  }
}

inline float dot(const float* x, const float* y, int64_t n) {
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) { sum = Vec::fma(load_lanes(x + i, lanes), load_lanes(y + i, lanes), sum); });
  return sum.sum();
}

void gated_delta_step(const DeltaHead& h) {
  // One read of the state gives both Sᵀk and Sᵀq, of the old state; the decay factors out, and the new state's
  // read-out is alpha Sᵀq + (k.q) u.
  const float alpha = std::exp(h.log_decay[0]), beta = h.beta[0];
  const float kq = dot(h.k, h.q, h.key_dim);
  constexpr int64_t kVecs = 4;
  const auto columns = [&]<int kCount>(int64_t c, int64_t lanes, std::integral_constant<int, kCount>) {
    Vec sk[kCount], sq[kCount];
    for (int n = 0; n < kCount; ++n) sk[n] = sq[n] = Vec::zero();
    for (int64_t d = 0; d < h.key_dim; ++d) {
      const Vec k = Vec::set(h.k[d]), q = Vec::set(h.q[d]);
      for (int n = 0; n < kCount; ++n) {
        const Vec s = load_lanes(h.state + d * h.value_dim + c + n * Vec::kLanes, lanes);
        sk[n] = Vec::fma(k, s, sk[n]);
        sq[n] = Vec::fma(q, s, sq[n]);
      }
    }
    Vec u[kCount];
    const Vec decay = Vec::set(alpha);
    for (int n = 0; n < kCount; ++n) {
      const Vec v = load_lanes(h.v + c + n * Vec::kLanes, lanes);
      u[n] = Vec::set(beta) * (v - decay * sk[n]);
      store_lanes(Vec::fma(Vec::set(kq), u[n], decay * sq[n]), h.out + c + n * Vec::kLanes, lanes);
    }
    for (int64_t d = 0; d < h.key_dim; ++d) {
      const Vec k = Vec::set(h.k[d]);
      for (int n = 0; n < kCount; ++n) {
        float* s = h.state + d * h.value_dim + c + n * Vec::kLanes;
        store_lanes(Vec::fma(k, u[n], decay * load_lanes(s, lanes)), s, lanes);
      }
    }
  };
  int64_t c = 0;
  for (; c + kVecs * Vec::kLanes <= h.value_dim; c += kVecs * Vec::kLanes) {
    columns(c, Vec::kLanes, std::integral_constant<int, kVecs>{});
  }
  for (; c < h.value_dim; c += Vec::kLanes) {
    const int64_t lanes = h.value_dim - c < Vec::kLanes ? h.value_dim - c : Vec::kLanes;
    columns(c, lanes, std::integral_constant<int, 1>{});
  }
}

/// docs/model.md, "chunked form". With G the running sum of log decays in the chunk, gamma = exp(G), and
/// D_ij = exp(G_i - G_j) (taken from differences: exp(G_i) exp(-G_j) would overflow), row i of the new values is
///   u_i = beta_i (v_i - gamma_i Sᵀk_i) - sum over j < i of beta_i D_ij (k_i.k_j) u_j      (forward substitution)
///   o_i = gamma_i Sᵀq_i + sum over j <= i of D_ij (q_i.k_j) u_j
///   S  <- gamma_last S + sum of exp(G_last - G_i) k_i u_iᵀ
void gated_delta_chunk(const DeltaHead& h, int64_t rows, float* scratch) {
  const int64_t dk = h.key_dim, dv = h.value_dim;
  float* kk = scratch;                           // [rows, 64] -beta_i D_ij k_i.k_j below the diagonal, else 0
  float* qk = kk + kBlockTokens * kBlockTokens;  // [rows, 64] D_ij q_i.k_j up to the diagonal, else 0
  float* u = qk + kBlockTokens * kBlockTokens;   // [rows, V]
  float* qs = u + kBlockTokens * dv;             // [rows, V]
  float* faded = qs + kBlockTokens * dv;         // [rows, K] exp(G_last - G_i) k_i
  float* keys = faded + kBlockTokens * dk;       // [K, 64] the keys, tokens fastest; columns of missing rows are 0
  float* gamma = keys + kBlockTokens * dk;       // [64]
  float* fade = gamma + kBlockTokens;            // [64] exp(G_last - G_i)
  float* decay = fade + kBlockTokens;            // [64] D_ij of one row i
  float* zeros = decay + kBlockTokens;           // [64]
  float* ones = zeros + kBlockTokens;            // [64]
  // In double: after one decay of -300, f32 would hold the sum of the next ones to 3e-5, and D of close rows no better.
  double sums[kBlockTokens];
  double running = 0.0;
  for (int64_t i = 0; i < rows; ++i) sums[i] = running += static_cast<double>(h.log_decay[i * h.gate_stride]);
  for (int64_t i = 0; i < kBlockTokens; ++i) {
    gamma[i] = i < rows ? static_cast<float>(sums[i]) : 0.0f;
    fade[i] = i < rows ? static_cast<float>(running - sums[i]) : 0.0f;
    zeros[i] = 0.0f;
    ones[i] = 1.0f;
  }
  exp(gamma, kBlockTokens);
  exp(fade, kBlockTokens);
  for (int64_t d = 0; d < dk; ++d) {
    for (int64_t j = 0; j < kBlockTokens; ++j) keys[d * kBlockTokens + j] = j < rows ? h.k[j * h.qk_stride + d] : 0.0f;
  }
  for (float* p = kk; p < faded; ++p) *p = 0.0f;  // kk, qk, u, qs
  accumulate(kk, kBlockTokens, zeros, h.k, h.qk_stride, 1, keys, kBlockTokens, rows, dk, kBlockTokens);
  accumulate(qk, kBlockTokens, zeros, h.q, h.qk_stride, 1, keys, kBlockTokens, rows, dk, kBlockTokens);
  accumulate(u, dv, zeros, h.k, h.qk_stride, 1, h.state, dv, rows, dk, dv);
  accumulate(qs, dv, zeros, h.q, h.qk_stride, 1, h.state, dv, rows, dk, dv);
  for (int64_t i = 0; i < rows; ++i) {
    const float beta = h.beta[i * h.gate_stride];
    for (int64_t j = 0; j <= i; ++j) decay[j] = static_cast<float>(sums[i] - sums[j]);
    exp(decay, i + 1);
    for (int64_t j = 0; j < kBlockTokens; ++j) {
      float &a = kk[i * kBlockTokens + j], &p = qk[i * kBlockTokens + j];
      a = j < i ? -beta * decay[j] * a : 0.0f;
      p = j <= i ? decay[j] * p : 0.0f;
    }
    for_lanes(dk, [&](int64_t d, int64_t lanes) {
      store_lanes(load_lanes(h.k + i * h.qk_stride + d, lanes) * Vec::set(fade[i]), faded + i * dk + d, lanes);
    });
    for_lanes(dv, [&](int64_t c, int64_t lanes) {
      const Vec predicted = Vec::set(gamma[i]) * load_lanes(u + i * dv + c, lanes);
      store_lanes(Vec::set(beta) * (load_lanes(h.v + i * h.v_stride + c, lanes) - predicted), u + i * dv + c, lanes);
    });
    accumulate(u + i * dv, dv, ones, kk + i * kBlockTokens, 0, 1, u, dv, 1, i, dv);
  }
  // Four rows at a time reach past their own diagonal, where qk is zero.
  for (int64_t i = 0; i < rows; i += 4) {
    const int64_t count = rows - i < 4 ? rows - i : 4;
    for (int64_t r = i; r < i + count; ++r) {
      for_lanes(dv, [&](int64_t c, int64_t lanes) {
        store_lanes(Vec::set(gamma[r]) * load_lanes(qs + r * dv + c, lanes), h.out + r * h.out_stride + c, lanes);
      });
    }
    accumulate(h.out + i * h.out_stride, h.out_stride, ones, qk + i * kBlockTokens, kBlockTokens, 1, u, dv, count,
               i + count, dv);
  }
  float* last = decay;  // reused: the state's decay, one factor for all of its rows
  for (int64_t i = 0; i < kBlockTokens; ++i) last[i] = gamma[rows - 1];
  for (int64_t d = 0; d < dk; d += kBlockTokens) {
    const int64_t count = dk - d < kBlockTokens ? dk - d : kBlockTokens;
    accumulate(h.state + d * dv, dv, last, faded + d, 1, dk, u, dv, count, rows, dv);
  }
}

// ---- attention ---------------------------------------------------------------------------------------------------------

template <DType kType>
inline Vec load_kv(const std::byte* data, int64_t i) {
  if constexpr (kType == DType::kF32) return Vec::load(reinterpret_cast<const float*>(data) + i);
  if constexpr (kType == DType::kBF16) return Vec::load_bf16(reinterpret_cast<const uint16_t*>(data) + i);
}

/// scores[r][j] = q[r] . key j, for kRows query rows and the 64 keys of a block.
template <DType kType, int kRows>
inline void block_scores(const float* const* q, const std::byte* keys, int64_t head_dim, float* scores) {
  constexpr int64_t kVecs = 4;
  for (int64_t j = 0; j < kBlockTokens; j += kVecs * Vec::kLanes) {
    Vec sum[kRows][kVecs];
    for (int r = 0; r < kRows; ++r) {
      for (int n = 0; n < kVecs; ++n) sum[r][n] = Vec::zero();
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      Vec key[kVecs];
      for (int n = 0; n < kVecs; ++n) key[n] = load_kv<kType>(keys, d * kBlockTokens + j + n * Vec::kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec factor = Vec::set(q[r][d]);
        for (int n = 0; n < kVecs; ++n) sum[r][n] = Vec::fma(factor, key[n], sum[r][n]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int n = 0; n < kVecs; ++n) sum[r][n].store(scores + r * kBlockTokens + j + n * Vec::kLanes);
    }
  }
}

/// Row r of o, times correction[r], += sum over keys j < count of p[r][j] * value j.
template <DType kType, int kRows, int kVecs>
inline void block_values_tile(const float* p, const float* correction, const std::byte* values, int64_t head_dim,
                              int64_t count, float* o, int64_t c) {
  Vec sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kVecs; ++n) {
      sum[r][n] = Vec::load(o + r * head_dim + c + n * Vec::kLanes) * Vec::set(correction[r]);
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    Vec value[kVecs];
    for (int n = 0; n < kVecs; ++n) value[n] = load_kv<kType>(values, j * head_dim + c + n * Vec::kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec factor = Vec::set(p[r * kBlockTokens + j]);
      for (int n = 0; n < kVecs; ++n) sum[r][n] = Vec::fma(factor, value[n], sum[r][n]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kVecs; ++n) sum[r][n].store(o + r * head_dim + c + n * Vec::kLanes);
  }
}

template <DType kType, int kRows>
inline void block_values(const float* p, const float* correction, const std::byte* values, int64_t head_dim, int64_t count,
                         float* o) {
  int64_t c = 0;
  for (; c + 4 * Vec::kLanes <= head_dim; c += 4 * Vec::kLanes) {
    block_values_tile<kType, kRows, 4>(p, correction, values, head_dim, count, o, c);
  }
  for (; c + Vec::kLanes <= head_dim; c += Vec::kLanes) {
    block_values_tile<kType, kRows, 1>(p, correction, values, head_dim, count, o, c);
  }
  for (; c < head_dim; ++c) {  // head dims that are no multiple of a vector
    for (int r = 0; r < kRows; ++r) {
      float sum = o[r * head_dim + c] * correction[r];
      for (int64_t j = 0; j < count; ++j) sum += p[r * kBlockTokens + j] * load_as_f32(values, kType, j * head_dim + c);
      o[r * head_dim + c] = sum;
    }
  }
}

template <DType kType, int kRows>
inline void attend_block(const float* const* q, const int64_t* position, const std::byte* keys, const std::byte* values,
                         int64_t head_dim, int64_t block_begin, float scale, SoftmaxState state, float* scores) {
  block_scores<kType, kRows>(q, keys, head_dim, scores);
  float correction[kRows];
  int64_t most = 0;
  for (int r = 0; r < kRows; ++r) {
    float* s = scores + r * kBlockTokens;
    const int64_t visible = position[r] + 1 - block_begin;
    const int64_t count = visible < 0 ? 0 : visible > kBlockTokens ? kBlockTokens : visible;
    most = count > most ? count : most;
    if (count == 0) {  // this row ends before the block
      correction[r] = 1.0f;
      for (int64_t j = 0; j < kBlockTokens; ++j) s[j] = 0.0f;
      continue;
    }
    for (int64_t j = count; j < kBlockTokens; ++j) s[j] = -INFINITY;
    Vec largest = Vec::set(-INFINITY);
    for (int64_t j = 0; j < kBlockTokens; j += Vec::kLanes) {
      const Vec scaled = Vec::load(s + j) * Vec::set(scale);
      scaled.store(s + j);
      largest = Vec::max(largest, scaled);
    }
    const float block_max = largest.max();
    const float m = block_max > state.m[r] ? block_max : state.m[r];
    correction[r] = std::exp(state.m[r] - m);
    Vec sum = Vec::zero();
    for (int64_t j = 0; j < kBlockTokens; j += Vec::kLanes) {
      const Vec p = exp(Vec::load(s + j) - Vec::set(m));
      p.store(s + j);
      sum = sum + p;
    }
    for (int64_t j = count; j < kBlockTokens; ++j) s[j] = 0.0f;  // keys not there yet: their memory is never weighed
    state.l[r] = state.l[r] * correction[r] + sum.sum();
    state.m[r] = m;
  }
  block_values<kType, kRows>(scores, correction, values, head_dim, most, state.o);
}

template <DType kType>
inline void attention_span_as(const float* const* q, const int64_t* position, int64_t rows, const KvView& kv,
                              const KvLayout& layout, int64_t kv_head, int64_t key_begin, int64_t key_end, float scale,
                              SoftmaxState state, float* scratch) {
  const int64_t head_bytes = layout.head_dim * kBlockTokens * dtype_size(kType);
  for (int64_t key = key_begin; key < key_end; key += kBlockTokens) {
    const std::byte* block = kv.blocks[key / kBlockTokens] + kv.layer_offset;
    const std::byte* keys = block + kv_head * head_bytes;
    const std::byte* values = block + (layout.heads + kv_head) * head_bytes;
    const auto at = [&](int64_t r) {
      return SoftmaxState{state.m + r, state.l + r, state.o + r * layout.head_dim};
    };
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {
      attend_block<kType, 4>(q + r, position + r, keys, values, layout.head_dim, key, scale, at(r), scratch);
    }
    for (; r < rows; ++r) {
      attend_block<kType, 1>(q + r, position + r, keys, values, layout.head_dim, key, scale, at(r), scratch);
    }
  }
}

void attention_span(const float* const* q, const int64_t* position, int64_t rows, const KvView& kv, const KvLayout& layout,
                    int64_t kv_head, int64_t key_begin, int64_t key_end, float scale, SoftmaxState state, float* scratch) {
  if (layout.dtype == DType::kBF16) {
    attention_span_as<DType::kBF16>(q, position, rows, kv, layout, kv_head, key_begin, key_end, scale, state, scratch);
  } else {
    attention_span_as<DType::kF32>(q, position, rows, kv, layout, kv_head, key_begin, key_end, scale, state, scratch);
  }
}

inline constexpr Kernels kTable{.isa = kIsa,
                                .matmul = matmul,
                                .expand_row = expand_row,
                                .add = add,
                                .scale_add = scale_add,
                                .all_finite = all_finite,
                                .exp = exp,
                                .rms_norm = rms_norm,
                                .gated_rms_norm = gated_rms_norm,
                                .l2_norm = l2_norm,
                                .silu_multiply = silu_multiply,
                                .sigmoid_multiply = sigmoid_multiply,
                                .rope = rope,
                                .causal_conv1d_silu = causal_conv1d_silu,
                                .gated_delta_step = gated_delta_step,
                                .gated_delta_chunk = gated_delta_chunk,
                                .attention_span = attention_span};
