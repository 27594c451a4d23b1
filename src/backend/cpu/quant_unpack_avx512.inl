// Included inside the target region of quant_avx512.cc: blocks to bytes in registers, columns in order.

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

/// The bytes w + weight_offset of a block of 256.
struct KBytes {
  __m512i q[4];
};

template <DType kType>
inline void unpack(const std::byte* b, KBytes& o) {
  const __m512i low4 = _mm512_set1_epi8(15);
  if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const std::byte* qs = b + (kType == DType::kQ4_K ? 16 : 48);
    const __m512i counts = halves(0, 4);
    QNEXT_UNROLL
    for (int j = 0; j < 4; ++j) o.q[j] = _mm512_and_si512(_mm512_srlv_epi16(twice(qs + 32 * j), counts), low4);
    if constexpr (kType == DType::kQ5_K) {
      const __m512i qh = twice(b + 16);
      QNEXT_UNROLL
      for (int j = 0; j < 4; ++j) {
        const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << 2 * j)),
                                                _mm256_set1_epi8(static_cast<char>(2 << 2 * j)), 1);
        o.q[j] = _mm512_mask_add_epi8(o.q[j], _mm512_test_epi8_mask(qh, bits), o.q[j], _mm512_set1_epi8(16));
      }
    }
  } else if constexpr (kType == DType::kQ6_K) {
    QNEXT_UNROLL
    for (int h = 0; h < 2; ++h) {
      const __m512i low = load_zmm(b + 64 * h), high = twice(b + 128 + 32 * h);
      const __m512i mask = _mm512_set1_epi8(0x30);
      o.q[2 * h] = _mm512_or_si512(_mm512_and_si512(low, low4),
                                   _mm512_and_si512(_mm512_sllv_epi16(high, halves(4, 2)), mask));
      o.q[2 * h + 1] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(low, 4), low4),
                                       _mm512_and_si512(_mm512_srlv_epi16(high, halves(0, 2)), mask));
    }
  } else if constexpr (kType == DType::kQ2_K || kType == DType::kQ3_K) {
    const std::byte* qs = b + (kType == DType::kQ2_K ? 16 : 32);
    const __m512i two = _mm512_set1_epi8(3);
    QNEXT_UNROLL
    for (int h = 0; h < 2; ++h) {
      const __m512i packed = twice(qs + 32 * h);
      o.q[2 * h] = _mm512_and_si512(_mm512_srlv_epi16(packed, halves(0, 2)), two);
      o.q[2 * h + 1] = _mm512_and_si512(_mm512_srlv_epi16(packed, halves(4, 6)), two);
    }
    if constexpr (kType == DType::kQ3_K) {
      const __m512i hmask = twice(b);
      QNEXT_UNROLL
      for (int j = 0; j < 4; ++j) {
        const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << 2 * j)),
                                                _mm256_set1_epi8(static_cast<char>(2 << 2 * j)), 1);
        o.q[j] = _mm512_mask_add_epi8(o.q[j], _mm512_test_epi8_mask(hmask, bits), o.q[j], _mm512_set1_epi8(4));
      }
    }
  } else {
    static_assert(kType == DType::kIQ4_XS);
    QNEXT_UNROLL
    for (int j = 0; j < 4; ++j) o.q[j] = iq4_offset_values(nibble_pair(load_xmm(b + 8 + 32 * j), load_xmm(b + 24 + 32 * j)));
  }
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
