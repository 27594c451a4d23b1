// Included inside a target region by quant_avx2.cc and quant_avx512.cc: rounding of activations.

/// 32 columns times `inverse`, as 32 bytes.
inline __m256i round_32(const float* x, float inverse) {
  const __m256 factor = _mm256_set1_ps(inverse);
  __m256i part[4];
  QNEXT_UNROLL
  for (int i = 0; i < 4; ++i) part[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), factor));
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(part[0], part[1]), _mm256_packs_epi32(part[2], part[3]));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));  // packs() works on halves
}

/// Bits of the largest magnitude of 32 columns: floats compare as integers; NaN is above infinity.
inline __m256i largest_of_32(const float* x, __m256i largest) {
  QNEXT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + 8 * i)), _mm256_set1_epi32(0x7FFFFFFF));
    largest = _mm256_max_epi32(largest, magnitude);
  }
  return largest;
}
inline int largest_lane(__m256i v) {
  __m128i x = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0b01'00'11'10));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0b10'11'00'01)));
}

void round_row(const float* x, int64_t cols, int64_t group, QuantUnit* units, int64_t stride) {
  for (int64_t c = 0; c < cols; c += kUnitCols, units += stride, x += kUnitCols) {
    QuantUnit& u = *units;
    const int64_t n = cols - c < kUnitCols ? cols - c : kUnitCols;
    for (int64_t g = 0; g < kUnitCols; g += group) {
      __m256i largest = _mm256_setzero_si256();
      for (int64_t i = g; i < g + group && i < n; i += 32) largest = largest_of_32(x + i, largest);
      const int bits = largest_lane(largest);
      const bool finite = bits < 0x7F800000, zero = !finite || bits < (7 << 23);  // 2^-120
      const float magnitude = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
      u.scale[g / group] = !finite ? std::numeric_limits<float>::quiet_NaN() : zero ? 0.0f : magnitude / 127.0f;
      const float inverse = zero ? 0.0f : 127.0f / magnitude;
      for (int64_t i = g; i < g + group; i += 32) {
        const __m256i q = zero || i >= n ? _mm256_setzero_si256() : round_32(x + i, inverse);
        _mm256_store_si256(reinterpret_cast<__m256i*>(u.q + i), q);
        _mm256_store_si256(reinterpret_cast<__m256i*>(u.offset + i),
                           _mm256_xor_si256(q, _mm256_set1_epi8(static_cast<char>(0x80))));
        // Sums of 16 columns: bytes to the sums of pairs, then of four pairs of pairs ...
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
        const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        const __m256i eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0b10'11'00'01));
        const __m256i all = _mm256_add_epi32(eights, _mm256_shuffle_epi32(eights, 0b01'00'11'10));
        const int low = _mm256_extract_epi32(all, 0), high = _mm256_extract_epi32(all, 4);
        u.sums[i / 16] = static_cast<int16_t>(low);
        u.sums[i / 16 + 1] = static_cast<int16_t>(high);
        u.sums32[i / 32] = static_cast<int16_t>(low + high);
        if (group == 32) u.scaled_sums[i / 32] = u.scale[i / 32] * static_cast<float>(low + high);
      }
    }
  }
}
