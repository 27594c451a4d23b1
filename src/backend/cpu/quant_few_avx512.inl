// Included inside the target region of quant_avx512.cc. Few tokens: four rows of weights, far apart so that each is a stream of
// its own, are unpacked in registers and used at once for up to four tokens.

/// From this many tokens on weights are expanded. The sums are the same.
template <DType kType>
constexpr int64_t kMany = 8;

/// In each 128-bit lane [sum of a's lane, of b's, of c's, of d's].
inline __m512i lane_sums(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/// A block of 256 ready for products: scales as products_of_block() wants them.
template <DType kType>
struct Block {
  KBytes bytes;
  KScales k;
  __m512i scales[4];

  explicit Block(const std::byte* b) : k(k_scales<kType>(b)) {
    unpack<kType>(b, bytes);
    if constexpr (kType == DType::kIQ4_XS) {  // of the 4 dots of 4 columns
      const __m512i scales32 = _mm512_cvtepi16_epi32(k.scales);
      QNEXT_UNROLL
      for (int j = 0; j < 4; ++j) {
        const __m512i lane = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
        scales[j] = _mm512_permutexvar_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(4 * j)), scales32);
      }
    } else {
      // packs() puts lane L of two chunks side by side: 4 dots of columns 16 L.. of the one, then 4 of the other.
      const __m512i lane = _mm512_set_epi16(7, 7, 7, 7, 3, 3, 3, 3, 6, 6, 6, 6, 2, 2, 2, 2, 5, 5, 5, 5, 1, 1, 1, 1, 4, 4, 4,
                                            4, 0, 0, 0, 0);
      const __m512i all = _mm512_castsi256_si512(k.scales);
      scales[0] = _mm512_permutexvar_epi16(lane, all);
      scales[1] = _mm512_permutexvar_epi16(_mm512_add_epi16(lane, _mm512_set1_epi16(8)), all);
    }
  }
  /// Sum over the columns of scale * (w + weight_offset) * q, in 8 parts.
  __m256i dot(const QuantUnit& u) const {
    const __m512i zero = _mm512_setzero_si512();
    __m512i dots[4], sum;
    QNEXT_UNROLL
    for (int j = 0; j < 4; ++j) dots[j] = _mm512_dpbusd_epi32(zero, bytes.q[j], load_zmm(u.q + 64 * j));
    if constexpr (kType == DType::kIQ4_XS) {  // dots of 4 need more than 16 bits
      sum = zero;
      QNEXT_UNROLL
      for (int j = 0; j < 4; ++j) sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(dots[j], scales[j]));
    } else {
      sum = _mm512_madd_epi16(_mm512_packs_epi32(dots[0], dots[1]), scales[0]);
      sum = _mm512_dpwssd_epi32(sum, _mm512_packs_epi32(dots[2], dots[3]), scales[1]);
    }
    return _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
  }
};
/// What weight_offset means for Block::dot and unpack_pair.
constexpr int dot_offset(DType t) { return weight_offset(t); }

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
inline void dot_four_32(const QuantUnit* const* x, int64_t stride, const std::byte* const* rows, int64_t cols, __m128* out) {
  constexpr int64_t kBytes = bytes_per_block(kType);
  const int64_t blocks = cols / 32;
  __m128 y[kTokens];
  QNEXT_UNROLL
  for (int t = 0; t < kTokens; ++t) y[t] = _mm_setzero_ps();
  for (int64_t b = 0; b < blocks; b += 2) {
    const int64_t a_offset = b * kBytes, b_offset = b + 1 < blocks ? a_offset + kBytes : a_offset;
    __m512i w[4];
    QNEXT_UNROLL
    for (int r = 0; r < 4; ++r) {
      prefetch<2 * kBytes>(rows[r] + a_offset);
      w[r] = unpack_pair<kType>(rows[r] + a_offset, rows[r] + b_offset);
    }
    const __m128 d0 = four_scales<kType>(rows, a_offset), d1 = four_scales<kType>(rows, b_offset);
    QNEXT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const QuantUnit& u = x[t][b / 8 * stride];
      const int64_t j = b % 8;
      const __m512i q = load_zmm(u.q + 32 * j), zero = _mm512_setzero_si512();
      __m512i dots[4];
      QNEXT_UNROLL
      for (int r = 0; r < 4; ++r) dots[r] = _mm512_dpbusd_epi32(zero, w[r], q);
      __m512i sums = lane_sums(dots[0], dots[1], dots[2], dots[3]);
      sums = _mm512_add_epi32(sums, _mm512_shuffle_i32x4(sums, sums, 0b10'11'00'01));
      __m128i sum0 = _mm512_castsi512_si128(sums), sum1 = _mm512_extracti32x4_epi32(sums, 2);
      if constexpr (weight_offset(kType) != 0) {
        sum0 = _mm_sub_epi32(sum0, _mm_set1_epi32(weight_offset(kType) * u.sums32[j]));
        sum1 = _mm_sub_epi32(sum1, _mm_set1_epi32(weight_offset(kType) * u.sums32[j + 1]));
      }
      y[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum0), _mm_mul_ps(d0, _mm_set1_ps(u.scale[j])), y[t]);
      if constexpr (has_minima(kType)) {
        y[t] = _mm_fmadd_ps(four_halves(rows, a_offset + 2), _mm_set1_ps(u.scaled_sums[j]), y[t]);
      }
      if (b + 1 == blocks) continue;
      y[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum1), _mm_mul_ps(d1, _mm_set1_ps(u.scale[j + 1])), y[t]);
      if constexpr (has_minima(kType)) {
        y[t] = _mm_fmadd_ps(four_halves(rows, b_offset + 2), _mm_set1_ps(u.scaled_sums[j + 1]), y[t]);
      }
    }
  }
  QNEXT_UNROLL
  for (int t = 0; t < kTokens; ++t) out[t] = y[t];
}
