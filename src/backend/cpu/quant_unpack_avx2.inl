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

/// Two times 32 columns of a block of 256, columns [32 j, 32 j + 32) and those kApart times 32 after them.
struct KPair {
  __m256i a, b;
};
template <DType kType>
constexpr int kApart = kType == DType::kQ6_K ? 2 : 1;
/// The j of one of the four pairs of a block.
template <DType kType>
constexpr int pair_columns(int pair) {
  return kType == DType::kQ6_K ? 4 * (pair / 2) + pair % 2 : 2 * pair;
}

/// w + weight_offset, or w where is_wide().
template <DType kType>
inline KPair unpack_pair(const std::byte* b, int pair) {
  const __m256i low4 = _mm256_set1_epi8(15);
  if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const __m256i packed = load_ymm(b + (kType == DType::kQ4_K ? 16 : 48) + 32 * pair);
    KPair w{_mm256_and_si256(packed, low4), _mm256_and_si256(_mm256_srli_epi16(packed, 4), low4)};
    if constexpr (kType == DType::kQ5_K) {
      const __m256i qh = load_ymm(b + 16), fifth = _mm256_set1_epi8(16);
      w.a = _mm256_or_si256(w.a, _mm256_and_si256(shift(qh, 4 - 2 * pair), fifth));
      w.b = _mm256_or_si256(w.b, _mm256_and_si256(shift(qh, 3 - 2 * pair), fifth));
    }
    return w;
  } else if constexpr (kType == DType::kQ6_K) {
    const int half = pair / 2, c = pair % 2;
    const __m256i packed = load_ymm(b + 64 * half + 32 * c), high = load_ymm(b + 128 + 32 * half);
    const __m256i high2 = _mm256_set1_epi8(0x30);
    return {_mm256_or_si256(_mm256_and_si256(packed, low4), _mm256_and_si256(shift(high, 4 - 2 * c), high2)),
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(packed, 4), low4), _mm256_and_si256(shift(high, -2 * c), high2))};
  } else if constexpr (kType == DType::kQ2_K || kType == DType::kQ3_K) {
    const __m256i packed = load_ymm(b + (kType == DType::kQ2_K ? 16 : 32) + 32 * (pair / 2)), two = _mm256_set1_epi8(3);
    KPair w{_mm256_and_si256(shift(packed, -4 * (pair % 2)), two), _mm256_and_si256(shift(packed, -4 * (pair % 2) - 2), two)};
    if constexpr (kType == DType::kQ3_K) {
      const __m256i high = load_ymm(b), third = _mm256_set1_epi8(4);
      w.a = _mm256_or_si256(w.a, _mm256_and_si256(shift(high, 2 - 2 * pair), third));
      w.b = _mm256_or_si256(w.b, _mm256_and_si256(shift(high, 1 - 2 * pair), third));
    }
    return w;
  } else {
    static_assert(kType == DType::kIQ4_XS);
    return {iq4_values(nibbles(b + 8 + 32 * pair)), iq4_values(nibbles(b + 24 + 32 * pair))};
  }
}

/// All 256 columns, 32 to a vector.
struct KBytes {
  __m256i q[8];
};
template <DType kType>
inline void unpack(const std::byte* b, KBytes& o) {
  QNEXT_UNROLL
  for (int pair = 0; pair < 4; ++pair) {
    const KPair w = unpack_pair<kType>(b, pair);
    o.q[pair_columns<kType>(pair)] = w.a;
    o.q[pair_columns<kType>(pair) + kApart<kType>] = w.b;
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
