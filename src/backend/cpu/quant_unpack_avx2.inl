// Included inside the target region of quant_avx2.cc: blocks to bytes in registers, columns in order, and their products.

/// 8-bit weights stay signed here: products take |w| and q with w's sign. The others are w + weight_offset, unsigned.
constexpr bool is_wide(DType t) { return t == DType::kQ8_0 || t == DType::kIQ4_NL || t == DType::kIQ4_XS; }
/// What is to be taken off: see Block::dot and dot_32.
constexpr int dot_offset(DType t) { return is_wide(t) ? 0 : weight_offset(t); }

inline __m256i broadcast16(const std::byte* p) { return _mm256_broadcastsi128_si256(load_xmm(p)); }
/// Nibbles of 16 bytes in the order of the 32-element types.
inline __m256i nibbles(const std::byte* p) {
  const __m128i x = load_xmm(p);
  return _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(x), _mm_srli_epi16(x, 4), 1), _mm256_set1_epi8(15));
}
inline __m256i look_up(__m128i table, __m256i index) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index);
}
inline __m256i iq4_values(__m256i index) {
  return look_up(_mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), index);
}
/// Left by n, or right by -n.
inline __m256i shift(__m256i v, int n) { return n >= 0 ? _mm256_slli_epi16(v, n) : _mm256_srli_epi16(v, -n); }

/// 32 columns to a vector: w + weight_offset, or w where is_wide().
struct KBytes {
  __m256i q[8];
};

template <DType kType>
inline void unpack(const std::byte* b, KBytes& o) {
  const __m256i low4 = _mm256_set1_epi8(15);
  if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const std::byte* qs = b + (kType == DType::kQ4_K ? 16 : 48);
    QNEXT_UNROLL
    for (int j = 0; j < 4; ++j) {
      const __m256i packed = load_ymm(qs + 32 * j);
      o.q[2 * j] = _mm256_and_si256(packed, low4);
      o.q[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), low4);
    }
    if constexpr (kType == DType::kQ5_K) {
      const __m256i qh = load_ymm(b + 16);
      QNEXT_UNROLL
      for (int s = 0; s < 8; ++s) {
        o.q[s] = _mm256_or_si256(o.q[s], _mm256_and_si256(shift(qh, 4 - s), _mm256_set1_epi8(16)));
      }
    }
  } else if constexpr (kType == DType::kQ6_K) {
    QNEXT_UNROLL
    for (int h = 0; h < 2; ++h) {
      const __m256i high = load_ymm(b + 128 + 32 * h);
      QNEXT_UNROLL
      for (int c = 0; c < 4; ++c) {
        const __m256i packed = load_ymm(b + 64 * h + 32 * (c % 2));
        const __m256i low = _mm256_and_si256(c < 2 ? packed : _mm256_srli_epi16(packed, 4), low4);
        o.q[4 * h + c] = _mm256_or_si256(low, _mm256_and_si256(shift(high, 4 - 2 * c), _mm256_set1_epi8(0x30)));
      }
    }
  } else if constexpr (kType == DType::kQ2_K || kType == DType::kQ3_K) {
    const std::byte* qs = b + (kType == DType::kQ2_K ? 16 : 32);
    QNEXT_UNROLL
    for (int s = 0; s < 8; ++s) {
      o.q[s] = _mm256_and_si256(_mm256_srli_epi16(load_ymm(qs + 32 * (s / 4)), 2 * (s % 4)), _mm256_set1_epi8(3));
      if constexpr (kType == DType::kQ3_K) {
        o.q[s] = _mm256_or_si256(o.q[s], _mm256_and_si256(shift(load_ymm(b), 2 - s), _mm256_set1_epi8(4)));
      }
    }
  } else {
    static_assert(kType == DType::kIQ4_XS);
    QNEXT_UNROLL
    for (int s = 0; s < 8; ++s) o.q[s] = iq4_values(nibbles(b + 8 + 16 * s));
  }
}

/// A block of 32.
template <DType kType>
inline __m256i unpack_32(const std::byte* b) {
  if constexpr (kType == DType::kQ8_0) {
    return load_ymm(b + 2);
  } else {
    constexpr int64_t kNibbles = bytes_per_block(kType) - 16;
    const __m256i q = nibbles(b + kNibbles);
    if constexpr (kType == DType::kIQ4_NL) return iq4_values(q);
    if constexpr (kType == DType::kMXFP4) return look_up(_mm_setr_epi8(16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4), q);
    if constexpr (kType == DType::kQ5_0 || kType == DType::kQ5_1) {
      // Byte i of the vector looks at bit i of the 32.
      const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(load32(b + kNibbles - 4)),
                                                _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2,
                                                                 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
      const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
      const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
      return _mm256_or_si256(q, _mm256_and_si256(set, _mm256_set1_epi8(16)));
    }
    return q;
  }
}

/// Products of pairs of columns, 16 bits: at most 63 * 127 * 2, or 128 * 127 * 2 of wide weights.
template <DType kType>
inline __m256i pair_products(__m256i w, __m256i q) {
  if constexpr (is_wide(kType)) return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
  return _mm256_maddubs_epi16(w, q);
}

/// A block of 256 ready for products.
template <DType kType>
struct Block {
  KBytes bytes;
  KScales k;
  __m256i scales;  ///< those of even sub-blocks of 16 in the low half, of odd ones in the high half

  explicit Block(const std::byte* b) : k(k_scales<kType>(b)) {
    unpack<kType>(b, bytes);
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3,
                                           6, 7, 10, 11, 14, 15);
    scales = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(k.scales, order), 0b11'01'10'00);
  }
  /// Sum over the columns of scale * (w + dot_offset) * q, in 8 parts.
  __m256i dot(const QuantUnit& u) const {
    __m256i sum = _mm256_setzero_si256();
    QNEXT_UNROLL
    for (int j = 0; j < 8; ++j) {
      const __m256i scale = _mm256_shuffle_epi8(scales, _mm256_set1_epi16(static_cast<short>(2 * j | (2 * j + 1) << 8)));
      const __m256i pairs = pair_products<kType>(bytes.q[j], load_ymm(u.q + 32 * j));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, scale));
    }
    return sum;
  }
};

template <DType kType, int kTokens>
inline void dot_four_32(const QuantUnit* const* x, int64_t stride, const std::byte* const* rows, int64_t cols, __m128* out) {
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
