// Included inside the target region of quant_avx512.cc: blocks to bytes in registers, columns in order. Loads stay inside
// the block.

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
inline __m512i load_zmm(const void* p) { return _mm512_loadu_si512(p); }
/// The same 32 bytes in both halves.
inline __m512i twice(const std::byte* p) { return _mm512_broadcast_i64x4(load_ymm(p)); }
/// 16-bit counts: one for the low half, one for the high half.
inline __m512i halves(short low, short high) {
  return _mm512_inserti64x4(_mm512_set1_epi16(low), _mm256_set1_epi16(high), 1);
}
/// [a, a, b, b] of two times 16 bytes, nibbles in the order of the 32-element types.
inline __m512i nibble_pair(__m128i a, __m128i b) {
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_broadcastsi128_si256(a)),
                                          _mm256_broadcastsi128_si256(b), 1);
  const __m512i counts = _mm512_set_epi64(0x0004000400040004, 0x0004000400040004, 0, 0, 0x0004000400040004,
                                          0x0004000400040004, 0, 0);
  return _mm512_and_si512(_mm512_srlv_epi16(both, counts), _mm512_set1_epi8(15));
}
inline __m512i iq4_offset_values(__m512i nibbles) {  // kIq4Values + 128
  const __m128i table = _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, static_cast<char>(129), static_cast<char>(141),
                                      static_cast<char>(153), static_cast<char>(166), static_cast<char>(181),
                                      static_cast<char>(197), static_cast<char>(217), static_cast<char>(241));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), nibbles);
}

/// Scales of Q4_K and Q5_K: 16-bit [8 scales, 8 minima] of the first 16 bytes of the block.
inline __m256i k4_scales(const std::byte* block) {
  const __m128i x = load_xmm(block);
  const __m128i low = _mm_and_si128(_mm_srlv_epi32(_mm_shuffle_epi32(x, 0b11'10'11'01), _mm_setr_epi32(0, 0, 0, 4)),
                                    _mm_setr_epi32(0x3F3F3F3F, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F));
  const __m128i high = _mm_and_si128(_mm_srli_epi32(_mm_shuffle_epi32(x, 0b10'00'01'00), 2),
                                     _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
  return _mm256_cvtepu8_epi16(_mm_or_si128(low, high));
}
/// Element i / 2 of the low (or high) half in element i.
inline __m256i twice_each(__m256i v, bool high) {
  const __m256i low_index = _mm256_setr_epi16(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm256_permutexvar_epi16(high ? _mm256_add_epi16(low_index, _mm256_set1_epi16(8)) : low_index, v);
}

/// A block of 256: bytes w + weight_offset, scale and minimum (16-bit) of every 16 columns.
struct KBlock {
  __m512i q[4];
  __m256i scales, minima;
};

template <DType kType>
inline void unpack(const std::byte* b, KBlock& o) {
  const __m512i low4 = _mm512_set1_epi8(15);
  if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const std::byte* qs = b + (kType == DType::kQ4_K ? 16 : 48);
    const __m512i counts = halves(0, 4);
    for (int j = 0; j < 4; ++j) o.q[j] = _mm512_and_si512(_mm512_srlv_epi16(twice(qs + 32 * j), counts), low4);
    if constexpr (kType == DType::kQ5_K) {
      const __m512i qh = twice(b + 16);
      for (int j = 0; j < 4; ++j) {
        const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << 2 * j)),
                                                _mm256_set1_epi8(static_cast<char>(2 << 2 * j)), 1);
        o.q[j] = _mm512_mask_add_epi8(o.q[j], _mm512_test_epi8_mask(qh, bits), o.q[j], _mm512_set1_epi8(16));
      }
    }
    const __m256i scales = k4_scales(b);
    o.scales = twice_each(scales, false);
    o.minima = twice_each(scales, true);
  } else if constexpr (kType == DType::kQ6_K) {
    for (int h = 0; h < 2; ++h) {
      const __m512i low = load_zmm(b + 64 * h), high = twice(b + 128 + 32 * h);
      const __m512i mask = _mm512_set1_epi8(0x30);
      o.q[2 * h] = _mm512_or_si512(_mm512_and_si512(low, low4),
                                   _mm512_and_si512(_mm512_sllv_epi16(high, halves(4, 2)), mask));
      o.q[2 * h + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(low, 4), low4),
                                       _mm512_and_si512(_mm512_srlv_epi16(high, halves(0, 2)), mask));
    }
    o.scales = _mm256_cvtepi8_epi16(load_xmm(b + 192));
  } else if constexpr (kType == DType::kQ2_K || kType == DType::kQ3_K) {
    const std::byte* qs = b + (kType == DType::kQ2_K ? 16 : 32);
    const __m512i two = _mm512_set1_epi8(3);
    for (int h = 0; h < 2; ++h) {
      const __m512i packed = twice(qs + 32 * h);
      o.q[2 * h] = _mm512_and_si512(_mm512_srlv_epi16(packed, halves(0, 2)), two);
      o.q[2 * h + 1] = _mm512_and_si512(_mm512_srlv_epi16(packed, halves(4, 6)), two);
    }
    if constexpr (kType == DType::kQ2_K) {
      const __m128i s = load_xmm(b);
      o.scales = _mm256_cvtepu8_epi16(_mm_and_si128(s, _mm_set1_epi8(15)));
      o.minima = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(s, 4), _mm_set1_epi8(15)));
    } else {
      const __m512i hmask = twice(b);
      for (int j = 0; j < 4; ++j) {
        const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << 2 * j)),
                                                _mm256_set1_epi8(static_cast<char>(2 << 2 * j)), 1);
        o.q[j] = _mm512_mask_add_epi8(o.q[j], _mm512_test_epi8_mask(hmask, bits), o.q[j], _mm512_set1_epi8(4));
      }
      const __m128i low = _mm_and_si128(_mm_srlv_epi64(_mm_set1_epi64x(load64(b + 96)), _mm_set_epi64x(4, 0)),
                                        _mm_set1_epi8(15));
      const __m128i high = _mm_and_si128(_mm_srlv_epi32(_mm_set1_epi32(load32(b + 104)), _mm_setr_epi32(0, 2, 4, 6)),
                                         _mm_set1_epi8(3));
      o.scales = _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_or_si128(low, _mm_slli_epi16(high, 4))), _mm256_set1_epi16(32));
    }
  } else {
    static_assert(kType == DType::kIQ4_XS);
    for (int j = 0; j < 4; ++j) o.q[j] = iq4_offset_values(nibble_pair(load_xmm(b + 8 + 32 * j), load_xmm(b + 24 + 32 * j)));
    const __m256i shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    const __m256i low = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(load32(b + 4)), _mm256_slli_epi32(shifts, 1)),
                                         _mm256_set1_epi32(15));
    const __m256i high = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(load16(b + 2)), shifts), _mm256_set1_epi32(3));
    const __m256i scale = _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(high, 4)), _mm256_set1_epi32(32));
    o.scales = _mm256_or_si256(_mm256_and_si256(scale, _mm256_set1_epi32(0xFFFF)), _mm256_slli_epi32(scale, 16));
  }
}

/// Offset of d in a block of 256; dmin follows.
constexpr int64_t d_offset(DType t) {
  return t == DType::kQ2_K ? 80 : t == DType::kQ3_K ? 108 : t == DType::kQ6_K ? 208 : 0;
}

/// Two blocks of 32: bytes w + weight_offset.
template <DType kType>
inline __m512i unpack_pair(const std::byte* a, const std::byte* b) {
  if constexpr (kType == DType::kQ8_0) {
    const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(load_ymm(a + 2)), load_ymm(b + 2), 1);
    return _mm512_xor_si512(q, _mm512_set1_epi8(static_cast<char>(0x80)));
  } else {
    constexpr int64_t kNibbles = bytes_per_block(kType) - 16;
    const __m512i q = nibble_pair(load_xmm(a + kNibbles), load_xmm(b + kNibbles));
    if constexpr (kType == DType::kIQ4_NL) return iq4_offset_values(q);
    if constexpr (kType == DType::kMXFP4) {
      const __m128i table = _mm_setr_epi8(16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4);
      return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), q);
    }
    if constexpr (kType == DType::kQ5_0 || kType == DType::kQ5_1) {
      const auto low = static_cast<uint32_t>(load32(a + kNibbles - 4)), high = static_cast<uint32_t>(load32(b + kNibbles - 4));
      const __mmask64 fifth = low | static_cast<uint64_t>(high) << 32;
      return _mm512_mask_add_epi8(q, fifth, q, _mm512_set1_epi8(16));
    }
    return q;
  }
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
