// Included inside a target region by quant_avx2.cc and quant_avx512.cc: what their kernels share. Loads stay inside the block.

inline uint16_t load16(const std::byte* p) {
  uint16_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline int load32(const std::byte* p) {
  int v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline long long load64(const std::byte* p) {
  long long v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline __m128i load_xmm(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load_ymm(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

/// Scale and minimum (16-bit, of every 16 columns) of blocks of 256 columns.
struct KScales {
  __m256i scales, minima;
};

template <DType kType>
inline KScales k_scales(const std::byte* b) {
  KScales o;
  if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {  // d, dmin, then 12 bytes: k4_scale() of blocks.h
    const __m128i x = load_xmm(b);
    const __m128i low = _mm_and_si128(_mm_srlv_epi32(_mm_shuffle_epi32(x, 0b11'10'11'01), _mm_setr_epi32(0, 0, 0, 4)),
                                      _mm_setr_epi32(0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F));
    const __m128i high = _mm_and_si128(_mm_srli_epi32(_mm_shuffle_epi32(x, 0b10'00'01'00), 2),
                                       _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
    const __m128i bytes = _mm_or_si128(low, high);  // 8 scales, 8 minima
    o.scales = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes));
    o.minima = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(bytes, bytes));
  } else if constexpr (kType == DType::kQ6_K) {
    o.scales = _mm256_cvtepi8_epi16(load_xmm(b + 192));
  } else if constexpr (kType == DType::kQ2_K) {
    const __m128i s = load_xmm(b);
    o.scales = _mm256_cvtepu8_epi16(_mm_and_si128(s, _mm_set1_epi8(15)));
    o.minima = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(s, 4), _mm_set1_epi8(15)));
  } else if constexpr (kType == DType::kQ3_K) {  // q3_scale() of blocks.h
    const __m128i low = _mm_and_si128(_mm_srlv_epi64(_mm_set1_epi64x(load64(b + 96)), _mm_set_epi64x(4, 0)),
                                      _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srlv_epi32(_mm_set1_epi32(load32(b + 104)), _mm_setr_epi32(0, 2, 4, 6)),
                                       _mm_set1_epi8(3));
    o.scales = _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_or_si128(low, _mm_slli_epi16(high, 4))), _mm256_set1_epi16(32));
  } else {
    static_assert(kType == DType::kIQ4_XS);
    const __m256i shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    const __m256i low = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(load32(b + 4)), _mm256_slli_epi32(shifts, 1)),
                                         _mm256_set1_epi32(15));
    const __m256i high = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(load16(b + 2)), shifts), _mm256_set1_epi32(3));
    const __m256i scale = _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32));
    o.scales = _mm256_or_si256(_mm256_and_si256(scale, _mm256_set1_epi32(0xFFFF)), _mm256_slli_epi32(scale, 16));
  }
  return o;
}

/// Offset of d in a block of 256; dmin follows.
constexpr int64_t d_offset(DType t) {
  return t == DType::kQ2_K ? 80 : t == DType::kQ3_K ? 108 : t == DType::kQ6_K ? 208 : 0;
}

/// Half-precision numbers at the same offset in four rows.
inline __m128 four_halves(const std::byte* const* rows, int64_t offset) {
  __m128i h = _mm_cvtsi32_si128(load16(rows[0] + offset));
  h = _mm_insert_epi16(h, load16(rows[1] + offset), 1);
  h = _mm_insert_epi16(h, load16(rows[2] + offset), 2);
  h = _mm_insert_epi16(h, load16(rows[3] + offset), 3);
  return _mm_cvtph_ps(h);
}
/// 2^(e - 128) of four bytes; subnormal for e = 0 and 1.
inline __m128 mxfp4_scales(__m128i e) {
  const __m128i normal = _mm_slli_epi32(_mm_sub_epi32(e, _mm_set1_epi32(1)), 23);
  const __m128i tiny = _mm_sllv_epi32(_mm_set1_epi32(0x00200000), e);
  return _mm_castsi128_ps(_mm_blendv_epi8(normal, tiny, _mm_cmpgt_epi32(_mm_set1_epi32(2), e)));
}
template <DType kType>
inline __m128 four_scales(const std::byte* const* rows, int64_t offset) {
  if constexpr (kType == DType::kMXFP4) {
    return mxfp4_scales(_mm_setr_epi32(static_cast<int>(rows[0][offset]), static_cast<int>(rows[1][offset]),
                                       static_cast<int>(rows[2][offset]), static_cast<int>(rows[3][offset])));
  } else {
    return four_halves(rows, offset);
  }
}

/// [sum of a, sum of b, sum of c, sum of d].
inline __m128i sums_of_four(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
  const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
  const __m256i all = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}
template <int64_t kBytes>
inline void prefetch(const std::byte* p) {
  QNEXT_UNROLL
  for (int64_t i = 0; i < kBytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(p + kAhead + i), _MM_HINT_T0);
}

