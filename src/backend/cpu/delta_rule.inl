// ---- gated delta rule ------------------------------------------------------------------------------------------------

/// out[i][0..cols) = scale_i * out[i] + sum over m < inner of a[i * a_row + m * a_inner] * b[m], for kTile rows i.
template <int kTile, int kVecs>
inline void accumulate_tile(float* out, int64_t ldout, const float* scale, const float* a, int64_t a_row, int64_t a_inner,
                            const float* b, int64_t ldb, int64_t inner, int64_t column, int64_t lanes) {
  Vec sum[kTile][kVecs];
  QNEXT_UNROLL
  for (int i = 0; i < kTile; ++i) {
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) {
      sum[i][n] = load_lanes(out + i * ldout + column + n * Vec::kLanes, lanes) * Vec::set(scale[i]);
    }
  }
  for (int64_t m = 0; m < inner; ++m) {
    Vec row[kVecs];
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) row[n] = load_lanes(b + m * ldb + column + n * Vec::kLanes, lanes);
    QNEXT_UNROLL
    for (int i = 0; i < kTile; ++i) {
      const Vec factor = Vec::set(a[i * a_row + m * a_inner]);
      QNEXT_UNROLL
      for (int n = 0; n < kVecs; ++n) sum[i][n] = Vec::fma(factor, row[n], sum[i][n]);
    }
  }
  QNEXT_UNROLL
  for (int i = 0; i < kTile; ++i) {
    QNEXT_UNROLL
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
    QNEXT_UNROLL
    for (int n = 0; n < kCount; ++n) sk[n] = sq[n] = Vec::zero();
    for (int64_t d = 0; d < h.key_dim; ++d) {
      const Vec k = Vec::set(h.k[d]), q = Vec::set(h.q[d]);
      QNEXT_UNROLL
      for (int n = 0; n < kCount; ++n) {
        const Vec s = load_lanes(h.state + d * h.value_dim + c + n * Vec::kLanes, lanes);
        sk[n] = Vec::fma(k, s, sk[n]);
        sq[n] = Vec::fma(q, s, sq[n]);
      }
    }
    Vec u[kCount];
    const Vec decay = Vec::set(alpha);
    QNEXT_UNROLL
    for (int n = 0; n < kCount; ++n) {
      const Vec v = load_lanes(h.v + c + n * Vec::kLanes, lanes);
      u[n] = Vec::set(beta) * (v - decay * sk[n]);
      store_lanes(Vec::fma(Vec::set(kq), u[n], decay * sq[n]), h.out + c + n * Vec::kLanes, lanes);
    }
    for (int64_t d = 0; d < h.key_dim; ++d) {
      const Vec k = Vec::set(h.k[d]);
      QNEXT_UNROLL
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

