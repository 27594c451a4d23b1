// Part of training_kernels.inl: gradients of the convolution, the gated delta rule and its norm.

namespace delta_gradient {

inline float inner_product(const float* x, const float* y, int64_t n) {
  Vec sum = Vec::zero();
  for_lanes(
      n, [&](int64_t i, int64_t lanes) { sum = Vec::fma(load_lanes(x + i, lanes), load_lanes(y + i, lanes), sum); });
  return sum.sum();
}

inline void copy_row(const float* x, float* y, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) { store_lanes(load_lanes(x + i, lanes), y + i, lanes); });
}

inline void scale_row(const float* x, float scale, float* y, int64_t n) {
  const Vec factor = Vec::set(scale);
  for_lanes(n, [&](int64_t i, int64_t lanes) { store_lanes(factor * load_lanes(x + i, lanes), y + i, lanes); });
}

#if QNEXT_ISA_WIDTH > 1
inline void transpose_8x8(const float* in, int64_t ldin, float* out, int64_t ldout) {
  __m256 row[8], pair[8], four[8];
  QNEXT_UNROLL
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(in + i * ldin);
  QNEXT_UNROLL
  for (int i = 0; i < 4; ++i) {
    pair[2 * i] = _mm256_unpacklo_ps(row[2 * i], row[2 * i + 1]);
    pair[2 * i + 1] = _mm256_unpackhi_ps(row[2 * i], row[2 * i + 1]);
  }
  QNEXT_UNROLL
  for (int i = 0; i < 2; ++i) {
    four[4 * i] = _mm256_shuffle_ps(pair[4 * i], pair[4 * i + 2], 0x44);
    four[4 * i + 1] = _mm256_shuffle_ps(pair[4 * i], pair[4 * i + 2], 0xEE);
    four[4 * i + 2] = _mm256_shuffle_ps(pair[4 * i + 1], pair[4 * i + 3], 0x44);
    four[4 * i + 3] = _mm256_shuffle_ps(pair[4 * i + 1], pair[4 * i + 3], 0xEE);
  }
  QNEXT_UNROLL
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * ldout, _mm256_permute2f128_ps(four[i], four[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * ldout, _mm256_permute2f128_ps(four[i], four[i + 4], 0x31));
  }
}
#endif

/// out[c][r] = in[r][c].
inline void transpose(const float* in, int64_t ldin, int64_t rows, int64_t cols, float* out, int64_t ldout) {
  int64_t r = 0;
#if QNEXT_ISA_WIDTH > 1
  for (; r + 8 <= rows; r += 8) {
    int64_t c = 0;
    for (; c + 8 <= cols; c += 8) transpose_8x8(in + r * ldin + c, ldin, out + c * ldout + r, ldout);
    for (; c < cols; ++c) {
      for (int64_t i = r; i < r + 8; ++i) out[c * ldout + i] = in[i * ldin + c];
    }
  }
#endif
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out[c * ldout + r] = in[r * ldin + c];
  }
}

// ---- gated delta rule
// ------------------------------------------------------------------------------------------------

/// Columns of a triangle that a tile of rows ending at `end` needs, in whole vectors.
inline int64_t whole_vectors(int64_t end) { return (end + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes; }

/// body(first row, last row + 1, columns) over the row tiles of a lower triangle of n rows.
template <typename Body>
inline void for_triangle_tiles(int64_t n, Body&& body) {
  for (int64_t begin = 0; begin < n; begin += kQueryTile) {
    const int64_t end = n - begin < kQueryTile ? n : begin + kQueryTile;
    body(begin, end, whole_vectors(end));
  }
}

/// [cols, 64] from [rows, cols]; the missing rows become zero columns up to a whole vector.
inline void transpose_rows(const float* in, int64_t ldin, int64_t rows, int64_t cols, float* out, int64_t ldout) {
  transpose(in, ldin, rows, cols, out, ldout);
  const int64_t end = whole_vectors(rows);
  for (int64_t c = 0; c < cols && rows < end; ++c) {
    for (int64_t r = rows; r < end; ++r) out[c * ldout + r] = 0.0f;
  }
}

/// With G the running sum of log decays: exp(G_i), exp(G_last - G_i), and row by row D_ij = exp(G_i - G_j).
/// In double: after one decay of -300, f32 would hold the sum of the next ones to 3e-5, and D of close rows no
/// better.
struct ChunkDecays {
  double sums[kBlockTokens];
  float gamma[kBlockTokens], fade[kBlockTokens];
  explicit ChunkDecays(Rows log_decay) {
    const int64_t n = log_decay.rows;
    double running = 0.0;
    for (int64_t i = 0; i < n; ++i) sums[i] = running += static_cast<double>(log_decay.row(i)[0]);
    for (int64_t i = 0; i < kBlockTokens; ++i) {
      gamma[i] = i < n ? static_cast<float>(sums[i]) : 0.0f;
      fade[i] = i < n ? static_cast<float>(running - sums[i]) : 0.0f;
    }
    for (int64_t i = 0; i < kBlockTokens; i += Vec::kLanes) {
      exp(Vec::load(gamma + i)).store(gamma + i);
      exp(Vec::load(fade + i)).store(fade + i);
    }
  }
  void row(int64_t i, int64_t cols, float* out) const {
    for (int64_t j = 0; j <= i; ++j) out[j] = static_cast<float>(sums[i] - sums[j]);
    for (int64_t j = i + 1; j < cols; ++j) out[j] = -1000.0f;
    for (int64_t j = 0; j < cols; j += Vec::kLanes) exp(Vec::load(out + j)).store(out + j);  // 0 after the diagonal
  }
};

void delta_products(Rows q, Rows k, const DeltaGradientChunk& chunk, float* scratch) {
  const int64_t n = q.rows, dk = q.cols, ldk = chunk.key_row, ld = chunk.square_row;
  for (int64_t i = 0; i < n; ++i) {
    copy_row(q.row(i), chunk.q + i * ldk, dk);
    copy_row(k.row(i), chunk.k + i * ldk, dk);
  }
  float* keys = scratch;  // [K, 64]
  transpose_rows(chunk.k, ldk, n, dk, keys, ld);
  for_triangle_tiles(n, [&](int64_t begin, int64_t end, int64_t cols) {
    accumulate(chunk.kk + begin * ld, ld, nullptr, chunk.k + begin * ldk, ldk, 1, keys, ld, end - begin, dk, cols);
    accumulate(chunk.qk + begin * ld, ld, nullptr, chunk.q + begin * ldk, ldk, 1, keys, ld, end - begin, dk, cols);
  });
}

/// r_i = v_i - gamma_i Sᵀk_i - sum over j < i of D_ij (k_i.k_j) u_j, u_i = beta_i r_i (forward substitution)
/// S  <- gamma_last S + sum of exp(G_last - G_i) k_i u_iᵀ
void delta_forward(const DeltaGradientHead& h, const DeltaGradientChunk& chunk, float* scratch) {
  const int64_t n = h.v.rows, dk = h.key_dim, dv = h.value_dim;
  const int64_t ldk = chunk.key_row, ldv = chunk.value_row, ld = chunk.square_row;
  float* nkk = scratch;                // [64, 64] -D_ij k_i.k_j
  float* u = nkk + kBlockTokens * ld;  // [64, V]
  float* last = u + kBlockTokens * ldv;
  float* r = chunk.residual;
  const ChunkDecays decays(h.log_decay);
  float ones[kBlockTokens];
  for (float& one : ones) one = 1.0f;
  if (h.has_state) accumulate(r, ldv, nullptr, chunk.k, ldk, 1, chunk.state, ldv, n, dk, dv);
  for_triangle_tiles(n, [&](int64_t begin, int64_t end, int64_t cols) {
    for (int64_t i = begin; i < end; ++i) {
      float* row = nkk + i * ld;
      decays.row(i, cols, row);
      for (int64_t j = 0; j < cols; j += Vec::kLanes) {
        (Vec::zero() - Vec::load(row + j) * Vec::load(chunk.kk + i * ld + j)).store(row + j);
      }
      const Vec gamma = Vec::set(decays.gamma[i]);
      for_lanes(dv, [&](int64_t c, int64_t lanes) {
        const Vec v = load_lanes(h.v.row(i) + c, lanes);
        store_lanes(h.has_state ? v - gamma * load_lanes(r + i * ldv + c, lanes) : v, r + i * ldv + c, lanes);
      });
    }
    // The earlier tiles' rows all at once, then this tile's one after another.
    if (begin > 0) accumulate(r + begin * ldv, ldv, ones, nkk + begin * ld, ld, 1, u, ldv, end - begin, begin, dv);
    for (int64_t i = begin; i < end; ++i) {
      if (i > begin)
        accumulate(r + i * ldv, ldv, ones, nkk + i * ld + begin, 0, 1, u + begin * ldv, ldv, 1, i - begin, dv);
      scale_row(r + i * ldv, h.beta.row(i)[0], u + i * ldv, dv);
    }
  });
  if (h.next == nullptr) return;
  for (int64_t i = 0; i < n; ++i) scale_row(u + i * ldv, decays.fade[i], u + i * ldv, dv);
  for (int64_t d = 0; d < dk; ++d) {
    last[d] = decays.gamma[n - 1];
    if (h.has_state) copy_row(chunk.state + d * ldv, h.next + d * ldv, dv);
  }
  accumulate(h.next, ldv, h.has_state ? last : nullptr, chunk.k, 1, ldk, u, ldv, dk, n, dv);
}

/// docs/model.md, "chunked form", backwards. With N_ij = D_ij k_i.k_j (j < i), P_ij = D_ij q_i.k_j (j <= i), o =
/// gamma Q S + P u, and dS that of the state after the chunk:
///   x_i = (Pᵀ dO + fade K dS)_i - sum over j > i of N_ji z_j, z_i = beta_i x_i   (backward substitution: x = du, z =
///   dv) dbeta_i = x_i.r_i, dP = lower(dO uᵀ), dN = -strict_lower(z uᵀ) dQ = (gamma dO) Sᵀ + (dP D) K dK = -(gamma z)
///   Sᵀ + (fade u) dSᵀ + (dP D)ᵀ Q + (dN D) K + (dN D)ᵀ K dS <- gamma_last dS + Qᵀ (gamma dO) - Kᵀ (gamma z)
/// The log decay of row t is in exp(G_i) of the rows i >= t, in exp(G_last - G_i) of the rows i < t and in D_ij of
/// the pairs j < t <= i; their terms are summed as they are, for a running sum of the gradients of G would cancel.
void delta_backward(const DeltaGradientHead& h, const DeltaGradientChunk& chunk, float* scratch) {
  const int64_t n = h.v.rows, dk = h.key_dim, dv = h.value_dim;
  const int64_t ldk = chunk.key_row, ldv = chunk.value_row, ld = chunk.square_row;
  float* decay = scratch;                           // [64, 64] D
  float* p = decay + kBlockTokens * ld;             // [64, 64] P
  float* nkk = p + kBlockTokens * ld;               // [64, 64] -N
  float* dp = nkk + kBlockTokens * ld;              // [64, 64] dP, then dP D
  float* dn = dp + kBlockTokens * ld;               // [64, 64] z uᵀ, then dN D
  float* u = dn + kBlockTokens * ld;                // [64, V]
  float* x = u + kBlockTokens * ldv;                // [64, V]
  float* z = x + kBlockTokens * ldv;                // [64, V]
  float* d_out = z + kBlockTokens * ldv;            // [64, V]
  float* faded = d_out + kBlockTokens * ldv;        // [64, V] fade u
  float* reads = faded + kBlockTokens * ldv;        // [2 n, V] gamma dO, then -gamma z: what meets S, for q and for k
  float* dqk = reads + 2 * kBlockTokens * ldv;      // [2 n, K] dQ, then dK
  float* u_columns = dqk + 2 * kBlockTokens * ldk;  // [V, 64]
  float* transposed = u_columns + dv * ld;          // [V, K] Sᵀ, then dSᵀ
  float* last = transposed + dv * ldk;              // [K]
  float *dq = dqk, *d_keys = dqk + n * ldk;
  const ChunkDecays decays(h.log_decay);
  const float *gamma = decays.gamma, *fade = decays.fade;
  float ones[kBlockTokens];
  for (float& one : ones) one = 1.0f;
  double base = 0.0, exponent_up[kBlockTokens], exponent_down[kBlockTokens], pairs[kBlockTokens];

  for (int64_t i = 0; i < n; ++i) {
    copy_row(h.d_out.row(i), d_out + i * ldv, dv);
    scale_row(h.d_out.row(i), gamma[i], reads + i * ldv, dv);
    scale_row(chunk.residual + i * ldv, h.beta.row(i)[0], u + i * ldv, dv);
    scale_row(u + i * ldv, fade[i], faded + i * ldv, dv);
  }
  for_triangle_tiles(n, [&](int64_t begin, int64_t end, int64_t cols) {
    for (int64_t i = begin; i < end; ++i) {
      decays.row(i, cols, decay + i * ld);
      for (int64_t j = 0; j < cols; j += Vec::kLanes) {
        const Vec d = Vec::load(decay + i * ld + j);
        (d * Vec::load(chunk.qk + i * ld + j)).store(p + i * ld + j);
        (Vec::zero() - d * Vec::load(chunk.kk + i * ld + j)).store(nkk + i * ld + j);
      }
      nkk[i * ld + i] = 0.0f;
    }
  });

  // x and z.
  if (h.has_d_state) accumulate(x, ldv, nullptr, chunk.k, ldk, 1, h.d_state, ldv, n, dk, dv);
  for (int64_t i = 0; i < n; ++i) {
    exponent_down[i] = h.has_d_state ? static_cast<double>(inner_product(faded + i * ldv, x + i * ldv, dv)) : 0.0;
  }
  for_triangle_tiles(
      n, [&](int64_t begin, int64_t end, int64_t) {  // Pᵀ: columns [begin, end) of the rows from begin on
        accumulate(x + begin * ldv, ldv, h.has_d_state ? fade + begin : nullptr, p + begin * ld + begin, 1, ld,
                   d_out + begin * ldv, ldv, end - begin, n - begin, dv);
      });
  for (int64_t begin = (n - 1) / kQueryTile * kQueryTile; begin >= 0; begin -= kQueryTile) {
    const int64_t end = n - begin < kQueryTile ? n : begin + kQueryTile;
    if (end < n) {
      accumulate(x + begin * ldv, ldv, ones, nkk + end * ld + begin, 1, ld, z + end * ldv, ldv, end - begin, n - end,
                 dv);
    }
    for (int64_t i = end - 1; i >= begin; --i) {
      if (i + 1 < end) {
        accumulate(x + i * ldv, ldv, ones, nkk + (i + 1) * ld + i, 0, ld, z + (i + 1) * ldv, ldv, 1, end - i - 1, dv);
      }
      scale_row(x + i * ldv, h.beta.row(i)[0], z + i * ldv, dv);
      scale_row(z + i * ldv, -gamma[i], reads + (n + i) * ldv, dv);
      copy_row(z + i * ldv, h.d_v.row(i), dv);
      h.d_beta.row(i)[0] = inner_product(x + i * ldv, chunk.residual + i * ldv, dv);
    }
  }

  // dP and dN.
  transpose_rows(u, ldv, n, dv, u_columns, ld);
  for_triangle_tiles(n, [&](int64_t begin, int64_t end, int64_t cols) {
    accumulate(dp + begin * ld, ld, nullptr, d_out + begin * ldv, ldv, 1, u_columns, ld, end - begin, dv, cols);
    accumulate(dn + begin * ld, ld, nullptr, z + begin * ldv, ldv, 1, u_columns, ld, end - begin, dv, cols);
  });
  float run[kBlockTokens] = {};  // of each column j: the pairs (i, j) of the rows i so far
  for (int64_t i = n - 1; i >= 0; --i) {
    Vec sum = Vec::zero();
    for (int64_t j = 0; j < whole_vectors(i + 1); j += Vec::kLanes) {
      const Vec d_p = Vec::load(dp + i * ld + j), zu = Vec::load(dn + i * ld + j), d = Vec::load(decay + i * ld + j);
      Vec pair = Vec::fma(d_p, Vec::load(p + i * ld + j), zu * Vec::load(nkk + i * ld + j));
      (pair + Vec::load(run + j)).store(run + j);
      (d_p * d).store(dp + i * ld + j);
      (Vec::zero() - zu * d).store(dn + i * ld + j);
    }
    for (int64_t j = whole_vectors(i + 1); j < whole_vectors((i / kQueryTile + 1) * kQueryTile) && j < kBlockTokens;
         j += Vec::kLanes) {
      Vec::zero().store(dp + i * ld + j);
      Vec::zero().store(dn + i * ld + j);
    }
    dn[i * ld + i] = 0.0f;
    run[i] = 0.0f;
    for (int64_t j = 0; j < whole_vectors(i + 1); j += Vec::kLanes) sum = sum + Vec::load(run + j);
    pairs[i] = static_cast<double>(sum.sum());
  }

  // dQ and dK.
  if (h.has_state) {
    transpose(chunk.state, ldv, dk, dv, transposed, ldk);
    accumulate(dqk, ldk, nullptr, reads, ldv, 1, transposed, ldk, 2 * n, dv, dk);
  }
  for (int64_t i = 0; i < n; ++i) {
    exponent_up[i] = 0.0;
    if (!h.has_state) continue;
    exponent_up[i] = static_cast<double>(inner_product(chunk.q + i * ldk, dq + i * ldk, dk)) +
                     static_cast<double>(inner_product(chunk.k + i * ldk, d_keys + i * ldk, dk));
  }
  const float* carried = h.has_state ? ones : nullptr;
  for_triangle_tiles(n, [&](int64_t begin, int64_t end, int64_t) {
    const int64_t rows = end - begin, at = begin * ld + begin;
    accumulate(dq + begin * ldk, ldk, carried, dp + begin * ld, ld, 1, chunk.k, ldk, rows, end, dk);
    float* out = d_keys + begin * ldk;
    accumulate(out, ldk, carried, dp + at, 1, ld, chunk.q + begin * ldk, ldk, rows, n - begin, dk);
    accumulate(out, ldk, ones, dn + begin * ld, ld, 1, chunk.k, ldk, rows, end, dk);
    accumulate(out, ldk, ones, dn + at, 1, ld, chunk.k + begin * ldk, ldk, rows, n - begin, dk);
  });
  if (h.has_d_state) {
    transpose(h.d_state, ldv, dk, dv, transposed, ldk);
    accumulate(d_keys, ldk, ones, faded, ldv, 1, transposed, ldk, n, dv, dk);
  }
  for (int64_t i = 0; i < n; ++i) {
    const auto give = [&](const float* from, float* to) {
      for_lanes(dk, [&](int64_t d, int64_t lanes) {
        const Vec value = load_lanes(from + d, lanes);
        store_lanes(h.add ? load_lanes(to + d, lanes) + value : value, to + d, lanes);
      });
    };
    give(dq + i * ldk, h.d_q.row(i));
    give(d_keys + i * ldk, h.d_k.row(i));
  }

  // The log decays; then dS, which they still need.
  if (h.has_state && h.has_d_state) {
    for (int64_t d = 0; d < dk; ++d) {
      base += static_cast<double>(inner_product(chunk.state + d * ldv, h.d_state + d * ldv, dv));
    }
    base *= static_cast<double>(gamma[n - 1]);
  }
  double later = 0.0;
  for (int64_t i = n - 1; i >= 0; --i) pairs[i] += later += exponent_up[i];
  double earlier = base;
  for (int64_t i = 0; i < n; ++i) {
    h.d_log_decay.row(i)[0] = static_cast<float>(pairs[i] + earlier);
    earlier += exponent_down[i];
  }
  if (!h.has_earlier) return;
  for (int64_t d = 0; d < dk; ++d) last[d] = gamma[n - 1];
  accumulate(h.d_state, ldv, h.has_d_state ? last : nullptr, chunk.q, 1, ldk, reads, ldv, dk, 2 * n, dv);
}

// ---- norm
// ----------------------------------------------------------------------------------------------------------------

void gated_rms_norm_backward(const float* x, const float* z, const float* gain, float eps, const float* d_out,
                             float* d_x, float* d_z, float* d_gain, float* scratch, int64_t n) {
  Vec squares = Vec::zero(), products = Vec::zero();  // sum of x², of x u where u = d_out gain silu(z)
  const Vec one = Vec::set(1.0f);
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec value = load_lanes(x + i, lanes), gate = load_lanes(z + i, lanes), s = sigmoid(gate);
    store_lanes(s, scratch + i, lanes);
    squares = Vec::fma(value, value, squares);
    products = Vec::fma(load_lanes(d_out + i, lanes) * load_lanes(gain + i, lanes) * (gate * s), value, products);
  });
  const float mean = squares.sum() / static_cast<float>(n) + eps;
  const Vec scale = Vec::set(1.0f / std::sqrt(mean)), along = Vec::set(products.sum() / static_cast<float>(n) / mean);
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec value = load_lanes(x + i, lanes), gate = load_lanes(z + i, lanes), s = load_lanes(scratch + i, lanes);
    const Vec g = load_lanes(gain + i, lanes), dy = load_lanes(d_out + i, lanes);
    const Vec bent = gate * s, normed = value * scale;
    if (d_gain != nullptr) store_lanes(Vec::fma(dy * normed, bent, load_lanes(d_gain + i, lanes)), d_gain + i, lanes);
    store_lanes(scale * (dy * g * bent - value * along), d_x + i, lanes);
    store_lanes(dy * normed * g * (s + bent * (one - s)), d_z + i, lanes);
  });
}

// ---- causal convolution
// --------------------------------------------------------------------------------------------------

/// p[i] = sum of taps[m] x[i + m], and its sigmoid, for one strip. kKernel: the kernel, or 0 for any.
template <int kKernel>
inline void conv_sums(const float* x, const float* taps, int64_t kernel, int64_t rows, int64_t width, float* p, float* gate) {
  for_lanes(width, [&](int64_t c, int64_t lanes) {
    constexpr int kSize = kKernel == 0 ? 1 : kKernel;
    [[maybe_unused]] Vec tap[kSize], window[kSize];
    if constexpr (kKernel > 0) {
      QNEXT_UNROLL
      for (int m = 0; m < kKernel; ++m) tap[m] = load_lanes(taps + m * width + c, lanes);
      QNEXT_UNROLL
      for (int m = 0; m + 1 < kKernel; ++m) window[m + 1] = load_lanes(x + m * width + c, lanes);
    }
    for (int64_t i = 0; i < rows; ++i) {
      Vec sum = Vec::zero();
      if constexpr (kKernel > 0) {
        QNEXT_UNROLL
        for (int m = 0; m + 1 < kKernel; ++m) window[m] = window[m + 1];
        window[kKernel - 1] = load_lanes(x + (i + kKernel - 1) * width + c, lanes);
        QNEXT_UNROLL
        for (int m = 0; m < kKernel; ++m) sum = Vec::fma(tap[m], window[m], sum);
      } else {
        for (int64_t m = 0; m < kernel; ++m) {
          sum = Vec::fma(load_lanes(taps + m * width + c, lanes), load_lanes(x + (i + m) * width + c, lanes), sum);
        }
      }
      store_lanes(sum, p + i * width + c, lanes);
      store_lanes(sigmoid(sum), gate + i * width + c, lanes);
    }
  });
}

/// d_x[i] = sum of taps[m] d[i + kernel - 1 - m], d_taps[m] += sum of d[i] x[i + m], for one strip.
template <int kKernel>
inline void conv_gradients(const float* x, const float* d, const float* taps, int64_t kernel, Rows d_x, float* d_taps) {
  const int64_t width = d_x.cols;
  for_lanes(width, [&](int64_t c, int64_t lanes) {
    const auto tap_at = [&](int64_t m) { return load_lanes(taps + m * width + c, lanes); };
    const auto x_at = [&](int64_t i) { return load_lanes(x + i * width + c, lanes); };
    const auto d_at = [&](int64_t i) { return load_lanes(d + i * width + c, lanes); };
    const auto give = [&](int64_t m, Vec sum) {
      float* to = d_taps + m * width + c;
      store_lanes(load_lanes(to, lanes) + sum, to, lanes);
    };
    if constexpr (kKernel > 0) {
      Vec tap[kKernel], sums[kKernel], window[kKernel];
      QNEXT_UNROLL
      for (int m = 0; m < kKernel; ++m) tap[m] = tap_at(m), sums[m] = Vec::zero();
      QNEXT_UNROLL
      for (int m = 0; m + 1 < kKernel; ++m) window[m + 1] = d_at(m);
      for (int64_t i = 0; i < d_x.rows; ++i) {
        QNEXT_UNROLL
        for (int m = 0; m + 1 < kKernel; ++m) window[m] = window[m + 1];
        window[kKernel - 1] = d_at(i + kKernel - 1);
        Vec sum = Vec::zero();
        QNEXT_UNROLL
        for (int m = 0; m < kKernel; ++m) {
          sum = Vec::fma(tap[m], window[kKernel - 1 - m], sum);
          sums[m] = Vec::fma(window[0], x_at(i + m), sums[m]);
        }
        store_lanes(sum, d_x.row(i) + c, lanes);
      }
      QNEXT_UNROLL
      for (int m = 0; m < kKernel; ++m) give(m, sums[m]);
    } else {
      for (int64_t i = 0; i < d_x.rows; ++i) {
        Vec sum = Vec::zero();
        for (int64_t m = 0; m < kernel; ++m) sum = Vec::fma(tap_at(m), d_at(i + kernel - 1 - m), sum);
        store_lanes(sum, d_x.row(i) + c, lanes);
      }
      for (int64_t m = 0; m < kernel; ++m) {
        Vec sum = Vec::zero();
        for (int64_t i = 0; i < d_x.rows; ++i) sum = Vec::fma(d_at(i), x_at(i + m), sum);
        give(m, sum);
      }
    }
  });
}

void conv_backward(const ConvGradient& conv, float* scratch) {
  const int64_t width = conv.end - conv.begin, kernel = conv.kernel, past = kernel - 1, channels = conv.x.cols;
  float* x = scratch;                              // [kernel - 1 + strip, width] inputs
  float* p = x + (past + kConvStrip) * width;      // [strip, width] sums of the convolution
  float* gate = p + kConvStrip * width;            // [strip, width] their sigmoids
  float* dp = gate + kConvStrip * width;           // [strip + kernel - 1, width]
  float* taps = dp + (kConvStrip + past) * width;  // [kernel, width]
  float* d_taps = taps + kernel * width;           // [kernel, width] of a segment
  float* d_taps_all = d_taps + kernel * width;
  for (int64_t m = 0; m < kernel; ++m) {
    for (int64_t c = 0; c < width; ++c) {
      taps[m * width + c] = conv.taps[(conv.begin + c) * kernel + m];
      d_taps_all[m * width + c] = 0.0f;
    }
  }
  const Vec one = Vec::set(1.0f);
  // silu'(p) times d: dp.
  const auto bend = [&](Vec sum, Vec s, Vec d) { return d * (s + sum * s * (one - s)); };
  for (const ConvSegment& segment : conv.segments) {
    if (segment.rows == 0) continue;
    for (int64_t i = 0; i < kernel * width; ++i) d_taps[i] = 0.0f;
    for (int64_t i = 0; i < past * width; ++i) dp[kConvStrip * width + i] = 0.0f;  // nothing comes after the segment
    // From the last strip to the first: the inputs' gradients need the kernel - 1 rows of dp that follow.
    for (int64_t first = (segment.rows - 1) / kConvStrip * kConvStrip; first >= 0; first -= kConvStrip) {
      const int64_t rows = segment.rows - first < kConvStrip ? segment.rows - first : kConvStrip;
      // dp of the strip ends where that of the next one begins.
      float* d = dp + (kConvStrip - rows) * width;
      for (int64_t i = -past; i < rows; ++i) {
        const int64_t t = first + i;  // in the segment
        float* to = x + (past + i) * width;
        if (t >= 0) {
          copy_row(conv.x.row(segment.row + t) + conv.begin, to, width);
        } else if (segment.state != nullptr) {
          copy_row(segment.state + (past + t) * channels + conv.begin, to, width);
        } else {
          for (int64_t c = 0; c < width; ++c) to[c] = 0.0f;
        }
      }
      if (kernel == 4) {
        conv_sums<4>(x, taps, 4, rows, width, p, gate);
      } else {
        conv_sums<0>(x, taps, kernel, rows, width, p, gate);
      }
      for (int64_t i = 0; i < rows; ++i) {
        const float* d_out = conv.d_out.row(segment.row + first + i) + conv.begin;
        const float *sums = p + i * width, *gates = gate + i * width;
        int64_t plain = 0;  // channels up to here are done
        const auto plain_until = [&](int64_t end) {
          for_lanes(end - plain, [&](int64_t at, int64_t lanes) {
            const int64_t c = plain + at;
            store_lanes(bend(load_lanes(sums + c, lanes), load_lanes(gates + c, lanes), load_lanes(d_out + c, lanes)),
                        d + i * width + c, lanes);
          });
          plain = end;
        };
        for (const UnitNorm& norm : conv.norms) {  // in the order of their channels
          const int64_t begin = (norm.begin > conv.begin ? norm.begin : conv.begin) - conv.begin;
          const int64_t end = (norm.end < conv.end ? norm.end : conv.end) - conv.begin;
          if (begin >= end) continue;
          plain_until(begin);
          for (int64_t head = begin; head < end; head += norm.head_dim) {
            Vec squares = Vec::zero(), products = Vec::zero();
            for_lanes(norm.head_dim, [&](int64_t at, int64_t lanes) {
              const int64_t c = head + at;
              const Vec s = load_lanes(sums + c, lanes) * load_lanes(gates + c, lanes);
              squares = Vec::fma(s, s, squares);
              products = Vec::fma(s, load_lanes(d_out + c, lanes), products);
            });
            const float length2 = squares.sum() + 1e-6f;
            const Vec scale = Vec::set(norm.scale / std::sqrt(length2)), along = Vec::set(products.sum() / length2);
            for_lanes(norm.head_dim, [&](int64_t at, int64_t lanes) {
              const int64_t c = head + at;
              const Vec sum = load_lanes(sums + c, lanes), s = load_lanes(gates + c, lanes);
              const Vec d_silu = scale * (load_lanes(d_out + c, lanes) - sum * s * along);
              store_lanes(bend(sum, s, d_silu), d + i * width + c, lanes);
            });
          }
          plain = end;
        }
        plain_until(width);
      }
      const Rows d_x{conv.d_x.row(segment.row + first) + conv.begin, rows, width, conv.d_x.stride};
      if (kernel == 4) {
        conv_gradients<4>(x, d, taps, 4, d_x, d_taps);
      } else {
        conv_gradients<0>(x, d, taps, kernel, d_x, d_taps);
      }
      for (int64_t i = past - 1; i >= 0; --i) copy_row(d + i * width, dp + (kConvStrip + i) * width, width);
    }
    for (int64_t i = 0; i < kernel * width; ++i) d_taps_all[i] += d_taps[i];
  }
  if (conv.d_taps == nullptr) return;
  for (int64_t c = 0; c < width; ++c) {
    for (int64_t m = 0; m < kernel; ++m) conv.d_taps[(conv.begin + c) * kernel + m] += d_taps_all[m * width + c];
  }
}

}  // namespace delta_gradient

inline constexpr DeltaGradientKernels kDeltaGradient{
    .conv_backward = delta_gradient::conv_backward,
    .delta_products = delta_gradient::delta_products,
    .delta_forward = delta_gradient::delta_forward,
    .delta_backward = delta_gradient::delta_backward,
    .gated_rms_norm_backward = delta_gradient::gated_rms_norm_backward};
