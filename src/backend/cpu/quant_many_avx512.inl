// Included inside the target region of quant_avx512.cc. Many tokens: 16 rows of weights times 256 columns are expanded once,
// transposed so that a lane is a row, and every token's bytes are broadcast against them.

/// In and out: 16 rows of 16 dwords.
inline void transpose(const __m512i* in, __m512i* out) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(in[i], in[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(in[i], in[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // b[i + c]: in each 128-bit lane, column 4 lane + c of rows i .. i + 3
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(b[c], b[4 + c], 0b10'00'10'00);       // lanes 0, 2 of both
    const __m512i odd = _mm512_shuffle_i32x4(b[c], b[4 + c], 0b11'01'11'01);       // lanes 1, 3
    const __m512i low2 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0b10'00'10'00);
    const __m512i odd2 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0b11'01'11'01);
    out[c] = _mm512_shuffle_i32x4(low, low2, 0b10'00'10'00);
    out[4 + c] = _mm512_shuffle_i32x4(odd, odd2, 0b10'00'10'00);
    out[8 + c] = _mm512_shuffle_i32x4(low, low2, 0b11'01'11'01);
    out[12 + c] = _mm512_shuffle_i32x4(odd, odd2, 0b11'01'11'01);
  }
}
inline void transpose_to(const __m512i* in, void* out) {
  __m512i columns[16];
  transpose(in, columns);
  for (int i = 0; i < 16; ++i) _mm512_store_si512(static_cast<std::byte*>(out) + 64 * i, columns[i]);
}

/// -128 * sum of the weights, per row: what the offset of the activations adds, over kColumns columns from `w`.
template <int kColumns>
inline __m512i offset_sum(const int8_t (*w)[64]) {
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(128));
  __m512i sum = _mm512_setzero_si512();
  for (int g = 0; g < kColumns / 4; ++g) sum = _mm512_dpbusd_epi32(sum, offset, _mm512_load_si512(w[g]));
  return sum;
}

/// rows: 16 pointers to their blocks of these 256 columns; blocks: of 32 columns that there are (K types: 8).
template <DType kType>
inline void expand_panel(const std::byte* const* rows, int64_t blocks, Panel& panel) {
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(weight_offset(kType)));
  __m512i bytes[4][16], scales[16], minima[16];
  alignas(64) uint16_t halves16[8][16], minima16[8][16];
  if constexpr (is_k_type(kType)) {
    for (int r = 0; r < 16; ++r) {
      KBlock b;
      unpack<kType>(rows[r], b);
      for (int j = 0; j < 4; ++j) bytes[j][r] = _mm512_sub_epi8(b.q[j], offset);
      if constexpr (has_minima(kType) && sub_block(kType) == 32) {  // both fit one row: 8 scales, 8 pairs of minima
        const __m256i scale = _mm256_and_si256(b.scales, _mm256_set1_epi32(0xFFFF));
        scales[r] = _mm512_inserti64x4(_mm512_castsi256_si512(scale), b.minima, 1);
      } else {
        scales[r] = _mm512_cvtepi16_epi32(b.scales);
        if constexpr (has_minima(kType)) minima[r] = _mm512_castsi256_si512(b.minima);
      }
      halves16[0][r] = load16(rows[r] + d_offset(kType));
      if constexpr (has_minima(kType)) minima16[0][r] = load16(rows[r] + d_offset(kType) + 2);
    }
    for (int j = 0; j < 4; ++j) transpose_to(bytes[j], panel.w[16 * j]);
    if constexpr (has_minima(kType) && sub_block(kType) == 32) {
      __m512i columns[16];
      transpose(scales, columns);
      for (int s = 0; s < 8; ++s) {
        _mm512_store_si512(panel.scale[s], columns[s]);
        _mm512_store_si512(panel.minima[s], columns[8 + s]);
      }
    } else if constexpr (sub_block(kType) == 32) {
      __m512i columns[16];
      transpose(scales, columns);
      for (int s = 0; s < 8; ++s) _mm512_store_si512(panel.scale[s], columns[2 * s]);
    } else {
      transpose_to(scales, panel.scale);
      if constexpr (has_minima(kType)) {
        __m512i columns[16];
        transpose(minima, columns);
        for (int s = 0; s < 8; ++s) _mm512_store_si512(panel.minima[s], columns[s]);
      }
    }
    __m512i init = _mm512_setzero_si512();
    constexpr int kSub = sub_block(kType);
    for (int s = 0; s < 256 / kSub; ++s) {
      init = _mm512_sub_epi32(init, _mm512_mullo_epi32(offset_sum<kSub>(panel.w + s * kSub / 4),
                                                       _mm512_load_si512(panel.scale[s])));
    }
    _mm512_store_si512(panel.init[0], init);
    _mm512_store_ps(panel.d[0], _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(halves16[0]))));
    if constexpr (has_minima(kType)) {
      _mm512_store_ps(panel.dmin[0], _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(minima16[0]))));
    }
  } else {
    constexpr int64_t kBytes = bytes_per_block(kType);
    for (int r = 0; r < 16; ++r) {
      for (int64_t b = 0; b < blocks; b += 2) {
        const std::byte* first = rows[r] + b * kBytes;
        bytes[b / 2][r] = _mm512_sub_epi8(unpack_pair<kType>(first, b + 1 < blocks ? first + kBytes : first), offset);
      }
      for (int64_t b = 0; b < blocks; ++b) {
        if constexpr (kType == DType::kMXFP4) {
          halves16[b][r] = static_cast<uint8_t>(rows[r][b * kBytes]);
        } else {
          halves16[b][r] = load16(rows[r] + b * kBytes);
        }
        if constexpr (has_minima(kType)) minima16[b][r] = load16(rows[r] + b * kBytes + 2);
      }
    }
    for (int64_t b = 0; b < blocks; b += 2) transpose_to(bytes[b / 2], panel.w[8 * b]);
    for (int64_t b = 0; b < blocks; ++b) {
      const __m256i half = _mm256_load_si256(reinterpret_cast<const __m256i*>(halves16[b]));
      if constexpr (kType == DType::kMXFP4) {
        const __m512i e = _mm512_cvtepu16_epi32(half);
        const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
        const __m512i tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
        const __mmask16 small = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
        _mm512_store_si512(panel.d[b], _mm512_mask_mov_epi32(normal, small, tiny));
      } else {
        _mm512_store_ps(panel.d[b], _mm512_cvtph_ps(half));
      }
      if constexpr (has_minima(kType)) {
        _mm512_store_ps(panel.dmin[b], _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(minima16[b]))));
      }
      _mm512_store_si512(panel.init[b], _mm512_sub_epi32(_mm512_setzero_si512(), offset_sum<32>(panel.w + 8 * b)));
    }
  }
}

inline __m512i broadcast4(const void* p) {
  int v;
  __builtin_memcpy(&v, p, sizeof v);
  return _mm512_set1_epi32(v);
}

/// y[t][0 .. 16 kGroups) += x[t] . panels, of 256 columns of a K type. y: kExpandRows floats from token to token.
template <int kSub, bool kMinima, int kTokens, int kGroups>
inline void tile_k(const Panel* panel, const QuantUnit* const* x, float* y) {
  __m512i total[kTokens][kGroups];
  for (int n = 0; n < kGroups; ++n) {
    const __m512i init = _mm512_load_si512(panel[n].init[0]);
    for (int t = 0; t < kTokens; ++t) total[t][n] = init;
  }
  for (int s = 0; s < 256 / kSub; ++s) {
    __m512i dots[kTokens][kGroups];
    for (int t = 0; t < kTokens; ++t) {
      for (int n = 0; n < kGroups; ++n) dots[t][n] = _mm512_setzero_si512();
    }
#pragma GCC unroll 8
    for (int g = s * kSub / 4; g < (s + 1) * kSub / 4; ++g) {
      __m512i w[kGroups];
      for (int n = 0; n < kGroups; ++n) w[n] = _mm512_load_si512(panel[n].w[g]);
      for (int t = 0; t < kTokens; ++t) {
        const __m512i q = broadcast4(x[t]->offset + 4 * g);
        for (int n = 0; n < kGroups; ++n) dots[t][n] = _mm512_dpbusd_epi32(dots[t][n], q, w[n]);
      }
    }
    for (int n = 0; n < kGroups; ++n) {
      const __m512i scale = _mm512_load_si512(panel[n].scale[s]);
      for (int t = 0; t < kTokens; ++t) {
        total[t][n] = _mm512_add_epi32(total[t][n], _mm512_mullo_epi32(dots[t][n], scale));
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    const __m512 scale = _mm512_set1_ps(x[t]->scale[0]);
    for (int n = 0; n < kGroups; ++n) {
      float* out = y + t * kExpandRows + 16 * n;
      __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[t][n]), _mm512_mul_ps(_mm512_load_ps(panel[n].d[0]), scale),
                                   _mm512_load_ps(out));
      if constexpr (kMinima) {
        __m512i minima = _mm512_setzero_si512();
        for (int p = 0; p < 8; ++p) {
          minima = _mm512_dpwssd_epi32(minima, _mm512_load_si512(panel[n].minima[p]), broadcast4(x[t]->sums + 2 * p));
        }
        sum = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(minima), _mm512_mul_ps(_mm512_load_ps(panel[n].dmin[0]), scale), sum);
      }
      _mm512_store_ps(out, sum);
    }
  }
}

/// The same of up to 8 blocks of 32 columns.
template <bool kMinima, int kTokens, int kGroups>
inline void tile_32(const Panel* panel, const QuantUnit* const* x, int64_t blocks, float* y) {
  __m512 sum[kTokens][kGroups];
  for (int t = 0; t < kTokens; ++t) {
    for (int n = 0; n < kGroups; ++n) sum[t][n] = _mm512_load_ps(y + t * kExpandRows + 16 * n);
  }
  for (int64_t b = 0; b < blocks; ++b) {
    __m512i dots[kTokens][kGroups];
    for (int n = 0; n < kGroups; ++n) {
      const __m512i init = _mm512_load_si512(panel[n].init[b]);
      for (int t = 0; t < kTokens; ++t) dots[t][n] = init;
    }
#pragma GCC unroll 8
    for (int64_t g = 8 * b; g < 8 * b + 8; ++g) {
      __m512i w[kGroups];
      for (int n = 0; n < kGroups; ++n) w[n] = _mm512_load_si512(panel[n].w[g]);
      for (int t = 0; t < kTokens; ++t) {
        const __m512i q = broadcast4(x[t]->offset + 4 * g);
        for (int n = 0; n < kGroups; ++n) dots[t][n] = _mm512_dpbusd_epi32(dots[t][n], q, w[n]);
      }
    }
    for (int n = 0; n < kGroups; ++n) {
      const __m512 d = _mm512_load_ps(panel[n].d[b]);
      for (int t = 0; t < kTokens; ++t) {
        sum[t][n] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[t][n]), _mm512_mul_ps(d, _mm512_set1_ps(x[t]->scale[b])), sum[t][n]);
        if constexpr (kMinima) {
          sum[t][n] = _mm512_fmadd_ps(_mm512_load_ps(panel[n].dmin[b]), _mm512_set1_ps(x[t]->scaled_sums[b]), sum[t][n]);
        }
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int n = 0; n < kGroups; ++n) _mm512_store_ps(y + t * kExpandRows + 16 * n, sum[t][n]);
  }
}

/// Tokens of a tile of many.
constexpr int kManyTokens = 4;

template <DType kType, int kTokens, int kGroups>
inline void tile(const Panel* panel, const QuantUnit* const* x, int64_t blocks, float* y) {
  if constexpr (is_k_type(kType)) {
    tile_k<sub_block(kType), has_minima(kType), kTokens, kGroups>(panel, x, y);
  } else {
    tile_32<has_minima(kType), kTokens, kGroups>(panel, x, blocks, y);
  }
}
