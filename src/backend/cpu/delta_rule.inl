// ---- gated delta rule ------------------------------------------------------------------------------------------------

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

/// Columns of a [64, 64] triangle that a tile of rows ending at `end` needs, in whole vectors.
inline int64_t triangle_columns(int64_t end) { return (end + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes; }

void gated_delta_products(const DeltaHead& h, int64_t rows, float* memory) {
  const int64_t dk = h.key_dim;
  const DeltaProducts p(memory, dk);
  // Copied together: in the layer's rows they are thousands of floats apart.
  for (int64_t i = 0; i < rows; ++i) {
    for_lanes(dk, [&](int64_t d, int64_t lanes) {
      store_lanes(load_lanes(h.k + i * h.qk_stride + d, lanes), p.k + i * dk + d, lanes);
      store_lanes(load_lanes(h.q + i * h.qk_stride + d, lanes), p.q + i * dk + d, lanes);
    });
  }
  for (int64_t d = 0; d < dk; ++d) {
    for (int64_t j = 0; j < kBlockTokens; ++j) p.keys[d * kBlockTokens + j] = j < rows ? p.k[j * dk + d] : 0.0f;
  }
  for (int64_t i = 0; i < rows; i += kQueryTile) {
    const int64_t count = rows - i < kQueryTile ? rows - i : kQueryTile, cols = triangle_columns(i + count);
    accumulate(p.kk + i * kBlockTokens, kBlockTokens, nullptr, p.k + i * dk, dk, 1, p.keys, kBlockTokens, count, dk, cols);
    accumulate(p.qk + i * kBlockTokens, kBlockTokens, nullptr, p.q + i * dk, dk, 1, p.keys, kBlockTokens, count, dk, cols);
  }
}

/// docs/model.md, "chunked form". With G the running sum of log decays in the chunk, gamma = exp(G), and
/// D_ij = exp(G_i - G_j) (taken from differences: exp(G_i) exp(-G_j) would overflow), row i of the new values is
///   u_i = beta_i (v_i - gamma_i Sᵀk_i) - sum over j < i of beta_i D_ij (k_i.k_j) u_j      (forward substitution)
///   o_i = gamma_i Sᵀq_i + sum over j <= i of D_ij (q_i.k_j) u_j
///   S  <- gamma_last S + sum of exp(G_last - G_i) k_i u_iᵀ
void gated_delta_chunk(const DeltaHead& h, int64_t rows, const float* products, float* scratch) {
  const int64_t dk = h.key_dim, dv = h.value_dim;
  const DeltaProducts p(const_cast<float*>(products), dk);
  float* kk = scratch;                           // a tile of rows of -beta_i D_ij k_i.k_j below the diagonal, else 0
  float* qk = kk + kBlockTokens * kBlockTokens;  // and of D_ij q_i.k_j up to the diagonal, else 0
  float* u = qk + kBlockTokens * kBlockTokens;   // [rows, V]
  float* qs = u + kBlockTokens * dv;             // [rows, V]
  float* faded = qs + kBlockTokens * dv;         // [rows, K] exp(G_last - G_i) k_i
  float* gamma = faded + kBlockTokens * dk;      // [64]
  float* fade = gamma + kBlockTokens;            // [64] exp(G_last - G_i)
  float* decay = fade + kBlockTokens;            // [64] D_ij of one row i
  float* ones = decay + kBlockTokens;            // [64]
  // In double: after one decay of -300, f32 would hold the sum of the next ones to 3e-5, and D of close rows no better.
  double sums[kBlockTokens];
  double running = 0.0;
  for (int64_t i = 0; i < rows; ++i) sums[i] = running += static_cast<double>(h.log_decay[i * h.gate_stride]);
  for (int64_t i = 0; i < kBlockTokens; ++i) {
    gamma[i] = i < rows ? static_cast<float>(sums[i]) : 0.0f;
    fade[i] = i < rows ? static_cast<float>(running - sums[i]) : 0.0f;
    ones[i] = 1.0f;
  }
  exp(gamma, kBlockTokens);
  exp(fade, kBlockTokens);
  accumulate(u, dv, nullptr, p.k, dk, 1, h.state, dv, rows, dk, dv);
  accumulate(qs, dv, nullptr, p.q, dk, 1, h.state, dv, rows, dk, dv);
  for (int64_t begin = 0; begin < rows; begin += kQueryTile) {
    const int64_t end = rows - begin < kQueryTile ? rows : begin + kQueryTile, cols = triangle_columns(end);
    for (int64_t i = begin; i < end; ++i) {
      const float beta = h.beta[i * h.gate_stride];
      for (int64_t j = 0; j <= i; ++j) decay[j] = static_cast<float>(sums[i] - sums[j]);
      for (int64_t j = i + 1; j < cols; ++j) decay[j] = -1000.0f;
      exp(decay, cols);  // exactly 0 after the diagonal
      for (int64_t j = 0; j < cols; j += Vec::kLanes) {
        const int64_t at = i * kBlockTokens + j;
        const Vec d = Vec::load(decay + j);
        (Vec::set(-beta) * d * Vec::load(p.kk + at)).store(kk + at);
        (d * Vec::load(p.qk + at)).store(qk + at);
      }
      for_lanes(dv, [&](int64_t c, int64_t lanes) {
        const Vec predicted = Vec::set(gamma[i]) * load_lanes(u + i * dv + c, lanes);
        store_lanes(Vec::set(beta) * (load_lanes(h.v + i * h.v_stride + c, lanes) - predicted), u + i * dv + c, lanes);
        store_lanes(Vec::set(gamma[i]) * load_lanes(qs + i * dv + c, lanes), h.out + i * h.out_stride + c, lanes);
      });
      for_lanes(dk, [&](int64_t d, int64_t lanes) {
        store_lanes(load_lanes(p.k + i * dk + d, lanes) * Vec::set(fade[i]), faded + i * dk + d, lanes);
      });
    }
    // Forward substitution: the earlier tiles' rows all at once, then this tile's one after another.
    float* tile = u + begin * dv;
    accumulate(tile, dv, ones, kk + begin * kBlockTokens, kBlockTokens, 1, u, dv, end - begin, begin, dv);
    for (int64_t i = begin + 1; i < end; ++i) {
      accumulate(u + i * dv, dv, ones, kk + i * kBlockTokens + begin, 0, 1, tile, dv, 1, i - begin, dv);
    }
    accumulate(h.out + begin * h.out_stride, h.out_stride, ones, qk + begin * kBlockTokens, kBlockTokens, 1, u, dv,
               end - begin, end, dv);
  }
  float* last = decay;  // reused: the state's decay, one factor for all of its rows
  for (int64_t i = 0; i < kBlockTokens; ++i) last[i] = gamma[rows - 1];
  for (int64_t d = 0; d < dk; d += kBlockTokens) {
    const int64_t count = dk - d < kBlockTokens ? dk - d : kBlockTokens;
    accumulate(h.state + d * dv, dv, last, faded + d, 1, dk, u, dv, count, rows, dv);
  }
}
