// Included inside a target region by quant_avx2.cc and quant_avx512.cc. Few tokens: four rows of weights, far apart so that
// each is a stream of its own, are unpacked in registers and used at once for up to four tokens.

/// out[t][r] = x[t] . rows[r] for kTokens tokens and 4 rows. stride: units from one unit of a token to its next.
template <DType kType, int kTokens>
inline void dot_four_k(const QuantUnit* const* x, int64_t stride, const std::byte* const* rows, int64_t cols, __m128* out) {
  constexpr int64_t kBytes = bytes_per_block(kType);
  __m128 y[kTokens];
  QNEXT_UNROLL
  for (int t = 0; t < kTokens; ++t) y[t] = _mm_setzero_ps();
  for (int64_t k = 0; k < cols / 256; ++k) {
    __m256i sum1[kTokens][4], sum2[kTokens][4];
    const std::byte* block[4];
    QNEXT_UNROLL
    for (int r = 0; r < 4; ++r) {
      block[r] = rows[r] + k * kBytes;
      prefetch<kBytes>(block[r]);
      const Block<kType> w(block[r]);
      QNEXT_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const QuantUnit& u = x[t][k * stride];
        sum1[t][r] = w.dot(u);
        if constexpr (has_minima(kType)) sum2[t][r] = _mm256_madd_epi16(w.k.minima, load_ymm(u.sums));
        if constexpr (dot_offset(kType) != 0) {  // a power of two
          const __m256i offset = _mm256_madd_epi16(w.k.scales, load_ymm(u.sums));
          sum1[t][r] = _mm256_sub_epi32(sum1[t][r], _mm256_slli_epi32(offset, __builtin_ctz(dot_offset(kType))));
        }
      }
    }
    const __m128 d = four_halves(block, d_offset(kType));
    const __m128 dmin = has_minima(kType) ? four_halves(block, d_offset(kType) + 2) : _mm_setzero_ps();
    QNEXT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const __m128 s = _mm_set1_ps(x[t][k * stride].scale[0]);
      const __m128i total = sums_of_four(sum1[t][0], sum1[t][1], sum1[t][2], sum1[t][3]);
      y[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(total), _mm_mul_ps(d, s), y[t]);
      if constexpr (has_minima(kType)) {
        const __m128i minima = sums_of_four(sum2[t][0], sum2[t][1], sum2[t][2], sum2[t][3]);
        y[t] = _mm_fnmadd_ps(_mm_cvtepi32_ps(minima), _mm_mul_ps(dmin, s), y[t]);
      }
    }
  }
  QNEXT_UNROLL
  for (int t = 0; t < kTokens; ++t) out[t] = y[t];
}

template <DType kType, int kTokens>
inline void dot_four(const QuantUnit* const* x, int64_t stride, const std::byte* const* rows, int64_t cols, __m128* out) {
  if constexpr (is_k_type(kType)) {
    dot_four_k<kType, kTokens>(x, stride, rows, cols, out);
  } else {
    dot_four_32<kType, kTokens>(x, stride, rows, cols, out);
  }
}
