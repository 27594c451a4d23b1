// Included inside the target region of quant_avx2.cc. Many tokens: as quant_many_avx512.inl, with rows in two halves of 8 and
// 16-bit sums of as many products as cannot overflow. Panel::scale holds each scale twice, as 16 bits.

/// 8 rows of 8 dwords to columns, each stored 64 bytes after the other.
inline void transpose_to(const __m256i* in, std::byte* out) {
  __m256i a[8], b[8];
  QNEXT_UNROLL
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_epi32(in[i], in[i + 1]);
    a[i + 1] = _mm256_unpackhi_epi32(in[i], in[i + 1]);
  }
  QNEXT_UNROLL
  for (int i = 0; i < 8; i += 4) {  // b[i + c]: in each half, column 4 half + c of rows i .. i + 3
    b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  QNEXT_UNROLL
  for (int c = 0; c < 4; ++c) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 64 * c), _mm256_permute2x128_si256(b[c], b[4 + c], 0x20));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 64 * (4 + c)), _mm256_permute2x128_si256(b[c], b[4 + c], 0x31));
  }
}

/// Groups of 4 columns whose products (two at a time, activations up to 255) fit 16 bits together.
constexpr int groups_per_sum(DType t) {
  switch (t) {
    case DType::kQ2_K: case DType::kQ3_K: case DType::kQ4_0: return 8;                        // |w| <= 8
    case DType::kQ4_K: case DType::kQ4_1: case DType::kQ5_0: case DType::kMXFP4: return 4;  // |w| <= 16
    case DType::kQ5_K: case DType::kQ5_1: case DType::kQ6_K: return 2;                        // |w| <= 32
    default: return 1;
  }
}

inline __m256i broadcast4(const void* p) {
  int v;
  __builtin_memcpy(&v, p, sizeof v);
  return _mm256_set1_epi32(v);
}
inline __m256i load_half(const void* p, int half) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(static_cast<const std::byte*>(p) + 32 * half));
}
inline void store_half(void* p, int half, __m256i v) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(static_cast<std::byte*>(p) + 32 * half), v);
}

/// 128 * sum of the 32 columns' weights times `scales` (pairs of 16 bits), per row.
inline __m256i offset_sum(const int8_t (*w)[64], int half, int groups, __m256i scales) {
  __m256i sum = _mm256_setzero_si256();
  for (int g = 0; g < groups; ++g) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_set1_epi8(1), load_half(w[g], half)));
  }
  return _mm256_slli_epi32(_mm256_madd_epi16(sum, scales), 7);
}

/// rows: 16 pointers to their blocks of these 256 columns; blocks: of 32 columns that there are (K types: 8); ahead: bytes to
/// what will be expanded next, asked for at the pace of this.
template <DType kType>
inline void expand_panel(const std::byte* const* rows, int64_t blocks, int64_t ahead, Panel& panel) {
  constexpr int64_t kBytes = bytes_per_block(kType) * (is_k_type(kType) ? 1 : 8);
  const __m256i offset = _mm256_set1_epi8(static_cast<char>(dot_offset(kType)));
  for (int half = 0; half < 2; ++half) {
    __m256i bytes[8][8], scales[2][8], minima[8];
    alignas(32) uint16_t halves16[8][8], minima16[8][8];
    const std::byte* const* half_rows = rows + 8 * half;
    for (int r = 0; r < 8; ++r) {
      const std::byte* row = half_rows[r];
      for (int64_t i = 0; i < kBytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(row + ahead + i), _MM_HINT_T0);
      if constexpr (is_k_type(kType)) {
        KBytes b;
        unpack<kType>(row, b);
        QNEXT_UNROLL
        for (int j = 0; j < 8; ++j) bytes[j][r] = _mm256_sub_epi8(b.q[j], offset);
        const KScales k = k_scales<kType>(row);
        if constexpr (sub_block(kType) == 32) {
          scales[0][r] = k.scales;  // every scale twice already
        } else {
          scales[0][r] = _mm256_unpacklo_epi16(k.scales, k.scales);  // 0 to 3 and 8 to 11
          scales[1][r] = _mm256_unpackhi_epi16(k.scales, k.scales);
        }
        if constexpr (has_minima(kType)) minima[r] = k.minima;
        halves16[0][r] = load16(row + d_offset(kType));
        if constexpr (has_minima(kType)) minima16[0][r] = load16(row + d_offset(kType) + 2);
      } else {
        constexpr int64_t kBlock = bytes_per_block(kType);
        for (int64_t b = 0; b < blocks; ++b) {
          bytes[b][r] = _mm256_sub_epi8(unpack_32<kType>(row + b * kBlock), offset);
          halves16[b][r] = kType == DType::kMXFP4 ? static_cast<uint16_t>(row[b * kBlock]) : load16(row + b * kBlock);
          if constexpr (has_minima(kType)) minima16[b][r] = load16(row + b * kBlock + 2);
        }
      }
    }
    const auto shift_half = [&](void* p) { return static_cast<std::byte*>(p) + 32 * half; };
    for (int64_t b = 0; b < blocks; ++b) transpose_to(bytes[b], shift_half(panel.w[8 * b]));
    const auto to_floats = [&](const uint16_t* h, float* out) {
      const __m128i eight = _mm_load_si128(reinterpret_cast<const __m128i*>(h));
      if constexpr (kType == DType::kMXFP4) {
        _mm_store_ps(out, mxfp4_scales(_mm_cvtepu16_epi32(eight)));
        _mm_store_ps(out + 4, mxfp4_scales(_mm_cvtepu16_epi32(_mm_srli_si128(eight, 8))));
      } else {
        _mm256_store_ps(out, _mm256_cvtph_ps(eight));
      }
    };
    if constexpr (is_k_type(kType)) {
      if constexpr (sub_block(kType) == 32) {
        transpose_to(scales[0], shift_half(panel.scale));
      } else {
        alignas(64) std::byte columns[2][8 * 64];
        for (int part = 0; part < 2; ++part) {
          transpose_to(scales[part], columns[part]);
          for (int c = 0; c < 8; ++c) {
            store_half(panel.scale[4 * part + c % 4 + 8 * (c / 4)], half, load_half(columns[part] + 64 * c, 0));
          }
        }
      }
      if constexpr (has_minima(kType)) transpose_to(minima, shift_half(panel.minima));
      __m256i init = _mm256_setzero_si256();
      if constexpr (!is_wide(kType)) {
        constexpr int kGroupsOfSub = sub_block(kType) / 4;
        for (int s = 0; s < 64 / kGroupsOfSub; ++s) {
          init = _mm256_sub_epi32(
              init, offset_sum(panel.w + s * kGroupsOfSub, half, kGroupsOfSub, load_half(panel.scale[s], half)));
        }
      }
      store_half(panel.init[0], half, init);
      to_floats(halves16[0], panel.d[0] + 8 * half);
      if constexpr (has_minima(kType)) to_floats(minima16[0], panel.dmin[0] + 8 * half);
    } else {
      for (int64_t b = 0; b < blocks; ++b) {
        __m256i init = _mm256_setzero_si256();
        if constexpr (!is_wide(kType)) init = _mm256_sub_epi32(init, offset_sum(panel.w + 8 * b, half, 8, _mm256_set1_epi16(1)));
        store_half(panel.init[b], half, init);
        to_floats(halves16[b], panel.d[b] + 8 * half);
        if constexpr (has_minima(kType)) to_floats(minima16[b], panel.dmin[b] + 8 * half);
      }
    }
  }
}

/// total[t][half] += scale * sum over kColumns columns from column c.
template <DType kType, int kColumns, int kTokens>
inline void add_products(const Panel& panel, const QuantUnit* const* x, int64_t c, const __m256i* scale,
                         __m256i (*total)[2]) {
  constexpr int kSum = groups_per_sum(kType) < kColumns / 4 ? groups_per_sum(kType) : kColumns / 4;
  QNEXT_UNROLL
  for (int first = 0; first < kColumns / 4; first += kSum) {
    __m256i sum[kTokens][2];
    QNEXT_UNROLL
    for (int i = 0; i < kSum; ++i) {
      const int64_t g = c / 4 + first + i;
      const __m256i w[2] = {load_half(panel.w[g], 0), load_half(panel.w[g], 1)};
      QNEXT_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        QNEXT_UNROLL
        for (int half = 0; half < 2; ++half) {
          const __m256i products = is_wide(kType) ? pair_products<kType>(w[half], broadcast4(x[t]->q + 4 * g))
                                                  : _mm256_maddubs_epi16(broadcast4(x[t]->offset + 4 * g), w[half]);
          sum[t][half] = i == 0 ? products : _mm256_add_epi16(sum[t][half], products);
        }
      }
    }
    QNEXT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      QNEXT_UNROLL
      for (int half = 0; half < 2; ++half) {
        total[t][half] = _mm256_add_epi32(total[t][half], _mm256_madd_epi16(sum[t][half], scale[half]));
      }
    }
  }
}

/// y[t][0 .. 16) += x[t] . panel.
template <DType kType, int kTokens>
inline void tile_group(const Panel& panel, const QuantUnit* const* x, int64_t blocks, float* y) {
  if constexpr (is_k_type(kType)) {
    __m256i total[kTokens][2];
    QNEXT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      total[t][0] = load_half(panel.init[0], 0);
      total[t][1] = load_half(panel.init[0], 1);
    }
    constexpr int kSub = sub_block(kType);
    for (int s = 0; s < 256 / kSub; ++s) {
      const __m256i scale[2] = {load_half(panel.scale[s], 0), load_half(panel.scale[s], 1)};
      add_products<kType, kSub, kTokens>(panel, x, s * kSub, scale, total);
    }
    QNEXT_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const __m256 scale = _mm256_set1_ps(x[t]->scale[0]);
      QNEXT_UNROLL
      for (int half = 0; half < 2; ++half) {
        float* out = y + t * kExpandRows + 8 * half;
        __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[t][half]),
                                     _mm256_mul_ps(_mm256_load_ps(panel.d[0] + 8 * half), scale), _mm256_load_ps(out));
        if constexpr (has_minima(kType)) {
          __m256i minima = _mm256_setzero_si256();
          QNEXT_UNROLL
          for (int p = 0; p < 8; ++p) {
            minima = _mm256_add_epi32(minima, _mm256_madd_epi16(load_half(panel.minima[p], half), broadcast4(x[t]->sums + 2 * p)));
          }
          sum = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(minima), _mm256_mul_ps(_mm256_load_ps(panel.dmin[0] + 8 * half), scale), sum);
        }
        _mm256_store_ps(out, sum);
      }
    }
  } else {
    const __m256i one[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
    for (int64_t b = 0; b < blocks; ++b) {
      __m256i total[kTokens][2];
      QNEXT_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        total[t][0] = load_half(panel.init[b], 0);
        total[t][1] = load_half(panel.init[b], 1);
      }
      add_products<kType, 32, kTokens>(panel, x, 32 * b, one, total);
      QNEXT_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const __m256 scale = _mm256_set1_ps(x[t]->scale[b]), m = _mm256_set1_ps(x[t]->scaled_sums[b]);
        QNEXT_UNROLL
        for (int half = 0; half < 2; ++half) {
          float* out = y + t * kExpandRows + 8 * half;
          __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[t][half]),
                                       _mm256_mul_ps(_mm256_load_ps(panel.d[b] + 8 * half), scale), _mm256_load_ps(out));
          if constexpr (has_minima(kType)) sum = _mm256_fmadd_ps(_mm256_load_ps(panel.dmin[b] + 8 * half), m, sum);
          _mm256_store_ps(out, sum);
        }
      }
    }
  }
}

/// Tokens of a tile of many.
constexpr int kManyTokens = 3;

template <DType kType, int kTokens, int kGroups>
inline void tile(const Panel* panel, const QuantUnit* const* x, int64_t blocks, float* y) {
  for (int n = 0; n < kGroups; ++n) tile_group<kType, kTokens>(panel[n], x, blocks, y + 16 * n);
}
