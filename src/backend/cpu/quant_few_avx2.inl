// Included inside the target region of quant_avx2.cc. Few tokens: four rows of weights, far apart so that each is a
// stream of its own, are unpacked in registers and used at once for up to four tokens.

/// From this many tokens on weights are expanded. The sums are the same.
template <DType kType>
constexpr int64_t kMany = is_k_type(kType) || kType == DType::kQ8_0 ? 9 : 8;

/// Keeps a running sum in its register: g++ would add the parts in another order, later, and keep them all in memory.
inline void keep(__m256i& sum) { __asm__("" : "+x"(sum)); }

/// Scales of a block of 256 in four rows, ready for products of pairs of columns.
template <DType kType>
struct FourScales {
  static constexpr bool kSub32 = sub_block(kType) == 32;
  /// Sub-blocks of 32: each scale twice, as 16 bits. In memory, for a load can broadcast, and the vector units are
  /// what is short. Scale s of row r: dwords[(r & 1) + 2 * (s >> 2)][(r & 2) * 2 + (s & 3)], or, where rows come
  /// alone, [r][s].
  alignas(32) int32_t dwords[4][8];
  __m256i lanes[4];   ///< sub-blocks of 16: those of even ones in the low half, of odd ones in the high half
  __m256i scales[4];  ///< sub-blocks of 16: in order
  __m256i minima[4];  ///< Q4_K and Q5_K: [0] of rows 0 and 2, [1] of rows 1 and 3, 8 of 32 columns each
  __m128 d, dmin;

  explicit FourScales(const std::byte* const* block) {
    if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
      // d, dmin, then 12 bytes: k4_scale() of blocks.h, of two rows at once.
      const __m256i x[2] = {two_headers(block[0], block[2]), two_headers(block[1], block[3])};
      QNEXT_UNROLL
      for (int p = 0; p < 2; ++p) {
        const __m256i low_shift = _mm256_setr_epi32(0, 0, 0, 4, 0, 0, 0, 4);
        const __m256i low_mask = _mm256_setr_epi32(0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F,
                                                   0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F);
        const __m256i high_mask = _mm256_setr_epi32(0, 0x30303030, 0, 0x30303030, 0, 0x30303030, 0, 0x30303030);
        const __m256i low =
            _mm256_and_si256(_mm256_srlv_epi32(_mm256_shuffle_epi32(x[p], 0b11'10'11'01), low_shift), low_mask);
        const __m256i high =
            _mm256_and_si256(_mm256_srli_epi32(_mm256_shuffle_epi32(x[p], 0b10'00'01'00), 2), high_mask);
        const __m256i bytes = _mm256_or_si256(low, high);  // in each half 8 scales, 8 minima
        const __m256i twice = _mm256_unpacklo_epi8(bytes, bytes), zero = _mm256_setzero_si256();
        _mm256_store_si256(reinterpret_cast<__m256i*>(dwords[p]), _mm256_unpacklo_epi8(twice, zero));
        _mm256_store_si256(reinterpret_cast<__m256i*>(dwords[p + 2]), _mm256_unpackhi_epi8(twice, zero));
        minima[p] = _mm256_unpackhi_epi8(bytes, zero);
      }
      // Halves: [d0 m0 d1 m1 | d2 m2 d3 m3] to [d0 d1 d2 d3 | m0 m1 m2 m3].
      const __m256i firsts = _mm256_unpacklo_epi32(x[0], x[1]);
      const __m128i all = _mm_unpacklo_epi64(_mm256_castsi256_si128(firsts), _mm256_extracti128_si256(firsts, 1));
      const __m256 floats =
          _mm256_cvtph_ps(_mm_shuffle_epi8(all, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
      d = _mm256_castps256_ps128(floats);
      dmin = _mm256_extractf128_ps(floats, 1);
    } else {
      QNEXT_UNROLL
      for (int r = 0; r < 4; ++r) {
        const KScales k = k_scales<kType>(block[r]);
        if constexpr (kSub32) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(dwords[r]), k.scales);
        } else {
          const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8,
                                                 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
          lanes[r] = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(k.scales, order), 0b11'01'10'00);
          scales[r] = k.scales;
          if constexpr (has_minima(kType)) minima[r] = k.minima;
        }
      }
      d = four_halves(block, d_offset(kType));
      dmin = has_minima(kType) ? four_halves(block, d_offset(kType) + 2) : _mm_setzero_ps();
    }
    if constexpr (kSub32)
      __asm__ volatile("" : : "r"(dwords) : "memory");  // else g++ shuffles what it has in registers
  }

  /// Of row r and 32 columns from 32 * j, one for each pair.
  __m256i of(int r, int j) const {
    if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
      return _mm256_set1_epi32(dwords[(r & 1) + 2 * (j >> 2)][(r & 2) * 2 + (j & 3)]);
    } else if constexpr (kSub32) {
      return _mm256_set1_epi32(dwords[r][j]);
    } else {
      return _mm256_shuffle_epi8(lanes[r], _mm256_set1_epi16(static_cast<short>(2 * j | (2 * j + 1) << 8)));
    }
  }

  /// Sum of min * (sum of q), of the four rows.
  __m128i minima_sums(const QuantUnit& u) const {
    if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
      const __m256i sums = _mm256_broadcastsi128_si256(load_xmm(u.sums32));
      const __m256i a = _mm256_madd_epi16(minima[0], sums), b = _mm256_madd_epi16(minima[1], sums);
      const __m256i two = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
      const __m256i one =
          _mm256_add_epi32(two, _mm256_shuffle_epi32(two, 0b10'11'00'01));  // row 0, 0, 1, 1 | 2, 2, 3, 3
      return _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(_mm256_castsi256_si128(one)),
                                             _mm_castsi128_ps(_mm256_extracti128_si256(one, 1)), 0b10'00'10'00));
    } else {
      const __m256i sums = load_ymm(u.sums);
      return sums_of_four(_mm256_madd_epi16(minima[0], sums), _mm256_madd_epi16(minima[1], sums),
                          _mm256_madd_epi16(minima[2], sums), _mm256_madd_epi16(minima[3], sums));
    }
  }

 private:
  static __m256i two_headers(const std::byte* a, const std::byte* b) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_xmm(a)), load_xmm(b), 1);
  }
};

/// out[t][r] = x[t] . rows[r] for kTokens tokens and 4 rows. stride: units from one unit of a token to its next.
template <DType kType, int kTokens>
inline void dot_four_k(const QuantUnit* const* x, int64_t stride, const std::byte* const* rows, int64_t cols,
                       __m128* out) {
  constexpr int64_t kBytes = bytes_per_block(kType);
  constexpr int kRows = kTokens <= 2 ? 4 : 2;  // whose sums fit the registers
  __m128 y[kTokens];
  QNEXT_UNROLL
  for (int t = 0; t < kTokens; ++t) y[t] = _mm_setzero_ps();
  for (int64_t k = 0; k < cols / 256; ++k) {
    const std::byte* block[4];
    QNEXT_UNROLL
    for (int r = 0; r < 4; ++r) {
      block[r] = rows[r] + k * kBytes;
      prefetch<kBytes>(block[r]);
    }
    const FourScales<kType> scales(block);
    __m256i sum[kTokens][4];
    QNEXT_UNROLL
    for (int first = 0; first < 4; first += kRows) {
      QNEXT_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        QNEXT_UNROLL
        for (int r = first; r < first + kRows; ++r) sum[t][r] = _mm256_setzero_si256();
      }
      QNEXT_UNROLL
      for (int pair = 0; pair < 4; ++pair) {
        const int j = pair_columns<kType>(pair);
        QNEXT_UNROLL
        for (int r = first; r < first + kRows; ++r) {
          const KPair w = unpack_pair<kType>(block[r], pair);
          const __m256i a = scales.of(r, j), b = scales.of(r, j + kApart<kType>);
          QNEXT_UNROLL
          for (int t = 0; t < kTokens; ++t) {
            const QuantUnit& u = x[t][k * stride];
            const __m256i pa = pair_products<kType>(w.a, load_ymm(u.q + 32 * j));
            const __m256i pb = pair_products<kType>(w.b, load_ymm(u.q + 32 * (j + kApart<kType>)));
            sum[t][r] = _mm256_add_epi32(sum[t][r], _mm256_madd_epi16(pa, a));
            keep(sum[t][r]);
            sum[t][r] = _mm256_add_epi32(sum[t][r], _mm256_madd_epi16(pb, b));
            keep(sum[t][r]);
          }
        }
      }
    }
    QNEXT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const QuantUnit& u = x[t][k * stride];
      if constexpr (dot_offset(kType) != 0) {  // a power of two
        QNEXT_UNROLL
        for (int r = 0; r < 4; ++r) {
          const __m256i offset = _mm256_madd_epi16(scales.scales[r], load_ymm(u.sums));
          sum[t][r] = _mm256_sub_epi32(sum[t][r], _mm256_slli_epi32(offset, __builtin_ctz(dot_offset(kType))));
        }
      }
      const __m128 s = _mm_set1_ps(u.scale[0]);
      const __m128i total = sums_of_four(sum[t][0], sum[t][1], sum[t][2], sum[t][3]);
      y[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(total), _mm_mul_ps(scales.d, s), y[t]);
      if constexpr (has_minima(kType)) {
        y[t] = _mm_fnmadd_ps(_mm_cvtepi32_ps(scales.minima_sums(u)), _mm_mul_ps(scales.dmin, s), y[t]);
      }
    }
  }
  QNEXT_UNROLL
  for (int t = 0; t < kTokens; ++t) out[t] = y[t];
}

/// The same of blocks of 32 columns.
template <DType kType, int kTokens>
inline void dot_four_32(const QuantUnit* const* x, int64_t stride, const std::byte* const* rows, int64_t cols,
                        __m128* out) {
  constexpr int64_t kBytes = bytes_per_block(kType);
  __m128 y[kTokens];
  QNEXT_UNROLL
  for (int t = 0; t < kTokens; ++t) y[t] = _mm_setzero_ps();
  for (int64_t b = 0; b < cols / 32; ++b) {
    __m256i w[4];
    QNEXT_UNROLL
    for (int r = 0; r < 4; ++r) {
      prefetch<kBytes>(rows[r] + b * kBytes);
      w[r] = unpack_32<kType>(rows[r] + b * kBytes);
    }
    const __m128 d = four_scales<kType>(rows, b * kBytes);
    const __m128 m = has_minima(kType) ? four_halves(rows, b * kBytes + 2) : _mm_setzero_ps();
    QNEXT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const QuantUnit& u = x[t][b / 8 * stride];
      const int64_t j = b % 8;
      const __m256i q = load_ymm(u.q + 32 * j), one = _mm256_set1_epi16(1);
      __m256i dots[4];
      QNEXT_UNROLL
      for (int r = 0; r < 4; ++r) dots[r] = _mm256_madd_epi16(pair_products<kType>(w[r], q), one);
      __m128i sum = sums_of_four(dots[0], dots[1], dots[2], dots[3]);
      if constexpr (dot_offset(kType) != 0) sum = _mm_sub_epi32(sum, _mm_set1_epi32(dot_offset(kType) * u.sums32[j]));
      y[t] = _mm_fmadd_ps(_mm_cvtepi32_ps(sum), _mm_mul_ps(d, _mm_set1_ps(u.scale[j])), y[t]);
      if constexpr (has_minima(kType)) y[t] = _mm_fmadd_ps(m, _mm_set1_ps(u.scaled_sums[j]), y[t]);
    }
  }
  QNEXT_UNROLL
  for (int t = 0; t < kTokens; ++t) out[t] = y[t];
}
