// Part of gemm.inl: operands rounded to bf16, and products of such panels by the instructions for them.
//
// A panel is 16 rows of a, or 16 columns of b, in tiles of 32 inner indices, a KiB each, as AMX wants them:
// [16 rows][32] of a, [16 pairs][16 columns][2] of b. With a pair of inner indices as the unit either is the other
// transposed, so there are two ways in: lines along the inner dimension are rows of a's tile, two lines across it are
// a row of pairs of b's. Past the end of the inner dimension, and past the last row or column, there are zeros.
//
// TileUnit (tdpbf16ps) and PairUnit (vdpbf16ps) read the same panels. Both are written over the registers they use,
// real ones in gemm_bf16_avx512.cc or the emulations below.

namespace gemm {

inline constexpr int64_t kTileLines = 16, kTileInner = 32, kTileElements = kTileLines * kTileInner;

// ---- rounding

#if QNEXT_ISA_WIDTH == 1
inline void round_floats(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = bf16_to_f32(f32_to_bf16(x[i]));
}
/// to[32]: n of them from a line, then zeros.
inline void round_line(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < kTileInner; ++i) to[i] = i < n ? f32_to_bf16(from[i]) : 0;
}
/// to[16][2]: n pairs from two lines, then zeros. A null line is one of zeros.
inline void interleave(const float* even, const float* odd, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < kTileLines; ++i) {
    to[2 * i] = i < n && even != nullptr ? f32_to_bf16(even[i]) : 0;
    to[2 * i + 1] = i < n && odd != nullptr ? f32_to_bf16(odd[i]) : 0;
  }
}
inline void transpose_tile(const uint16_t* in, uint16_t* out) {
  for (int64_t r = 0; r < kTileLines; ++r) {
    for (int64_t c = 0; c < kTileLines; ++c) {
      __builtin_memcpy(out + (c * kTileLines + r) * 2, in + (r * kTileLines + c) * 2, 2 * sizeof(uint16_t));
    }
  }
}
#else
#if QNEXT_ISA_WIDTH == 16
using Bits = __m512i;
/// The nearest bf16, ties to even, in the upper halves; the lower ones are anything. NaN stays NaN.
inline Bits rounded(Vec x) {
  const Bits bits = _mm512_castps_si512(x.v);
  const Bits odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const Bits sum = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7FFF));
  return _mm512_mask_or_epi32(sum, _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
}
inline Bits upper_half(Bits x) { return _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))); }
inline Vec as_floats(Bits x) { return {_mm512_castsi512_ps(upper_half(x))}; }
inline void store_pairs(Bits even, Bits odd, uint16_t* to) {
  _mm512_storeu_si512(to, _mm512_or_si512(_mm512_srli_epi32(even, 16), upper_half(odd)));
}
/// 16 in order.
inline void store_line(const Bits* x, uint16_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_srli_epi32(x[0], 16)));
}
#else
using Bits = __m256i;
inline Bits rounded(Vec x) {
  const Bits bits = _mm256_castps_si256(x.v);
  const Bits odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const Bits sum = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7FFF));
  const Bits quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  return _mm256_blendv_epi8(sum, quiet, _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q)));
}
inline Bits upper_half(Bits x) { return _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xFFFF0000))); }
inline Vec as_floats(Bits x) { return {_mm256_castsi256_ps(upper_half(x))}; }
inline void store_pairs(Bits even, Bits odd, uint16_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_or_si256(_mm256_srli_epi32(even, 16), upper_half(odd)));
}
inline void store_line(const Bits* x, uint16_t* to) {
  const __m256i mixed = _mm256_packus_epi32(_mm256_srli_epi32(x[0], 16), _mm256_srli_epi32(x[1], 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(mixed, 0xD8));
}
#endif

/// Lanes from i on of a line of n, zeros after it.
inline Vec lanes_at(const float* line, int64_t i, int64_t n) {
  if (i + Vec::kLanes <= n) return Vec::load(line + i);
  return i < n ? Vec::partial_load(line + i, n - i) : Vec::zero();
}

inline void round_floats(float* x, int64_t n) {
  for_lanes(
      n, [&](int64_t i, int64_t lanes) { store_lanes(as_floats(rounded(load_lanes(x + i, lanes))), x + i, lanes); });
}
inline void round_line(const float* from, int64_t n, uint16_t* to) {
  QNEXT_UNROLL
  for (int64_t i = 0; i < kTileInner; i += 16) {
    Bits bits[16 / Vec::kLanes];
    QNEXT_UNROLL
    for (int64_t k = 0; k < 16 / Vec::kLanes; ++k) bits[k] = rounded(lanes_at(from, i + k * Vec::kLanes, n));
    store_line(bits, to + i);
  }
}
inline void interleave(const float* even, const float* odd, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < kTileLines; i += Vec::kLanes) {
    const Vec first = even == nullptr ? Vec::zero() : lanes_at(even, i, n),
              second = odd == nullptr ? Vec::zero() : lanes_at(odd, i, n);
    store_pairs(rounded(first), rounded(second), to + 2 * i);
  }
}
inline void transpose_tile(const uint16_t* in, uint16_t* out) {
  for (int r = 0; r < kTileLines; r += kSquare) {
    for (int c = 0; c < kTileLines; c += kSquare) {
      const float* from[kSquare];
      float* to[kSquare];
      QNEXT_UNROLL
      for (int k = 0; k < kSquare; ++k) {  // as floats for the shuffles alone, which look at no value
        from[k] = reinterpret_cast<const float*>(in + (r + k) * kTileInner);
        to[k] = reinterpret_cast<float*>(out + (c + k) * kTileInner);
      }
      transpose_square(from, c, to, r);
    }
  }
}
#endif

// ---- packing

/// For pack_tiles: lines of a panel, or two lines across a block of columns.
inline constexpr int64_t kTileInnerBlock = 512, kTileBlockRows = 256, kTileBlockCols = 512;
inline constexpr int64_t kTileTempFloats = kTileLines * (kTileInnerBlock + 2 * kLongestBlock);
static_assert(2 * (kTileBlockCols + 2 * kLongestBlock) <= kTileTempFloats);

inline int64_t tiles_of(int64_t inner) { return (inner + kTileInner - 1) / kTileInner; }

/// Rows (kColumns: columns) [first, first + count), inner indices [begin, begin + inner), as panels. An operand that
/// is not f32 has at most kTileInnerBlock inner indices and kTileBlockCols rows or columns.
template <bool kColumns>
void pack_tiles(const GemmOperand& o, int64_t first, int64_t count, int64_t begin, int64_t inner, uint16_t* out,
                float* temp) {
  const int64_t steps = tiles_of(inner), panel = steps * kTileElements;
  alignas(64) uint16_t turned[kTileElements];
  if (!o.inner_lines) {
    for (int64_t i = 0; i < count; i += kTileLines, out += panel) {
      const float* lines[kTileLines];
      const int64_t have = count - i < kTileLines ? count - i : kTileLines;
      for (int64_t n = 0; n < have; ++n) {
        lines[n] = line(o, first + i + n, begin, inner, temp + n * (kTileInnerBlock + 2 * kLongestBlock));
      }
      for (int64_t s = 0; s < steps; ++s) {
        uint16_t* to = kColumns ? turned : out + s * kTileElements;
        const int64_t l = s * kTileInner, n = inner - l < kTileInner ? inner - l : kTileInner;
        for (int64_t r = 0; r < have; ++r) round_line(lines[r] + l, n, to + r * kTileInner);
        __builtin_memset(to + have * kTileInner, 0,
                         static_cast<size_t>((kTileLines - have) * kTileInner) * sizeof(uint16_t));
        if (kColumns) transpose_tile(turned, out + s * kTileElements);
      }
    }
    return;
  }
  float* const temp_odd = temp + kTileTempFloats / 2;
  for (int64_t l = 0; l < steps * kTileInner; l += 2) {
    const float* even = l < inner ? line(o, begin + l, first, count, temp) : nullptr;
    const float* odd = l + 1 < inner ? line(o, begin + l + 1, first, count, temp_odd) : nullptr;
    uint16_t* to = out + l / kTileInner * kTileElements + l % kTileInner / 2 * kTileInner;
    for (int64_t i = 0; i < count; i += kTileLines, to += panel) {
      interleave(even == nullptr ? nullptr : even + i, odd == nullptr ? nullptr : odd + i,
                 count - i < kTileLines ? count - i : kTileLines, to);
    }
  }
  if (kColumns) return;
  for (int64_t i = 0; i < count; i += kTileLines) {
    for (int64_t s = 0; s < steps; ++s, out += kTileElements) {
      __builtin_memcpy(turned, out, sizeof turned);
      transpose_tile(turned, out);
    }
  }
}

// ---- products of panels

/// A tile of c as 16 rows of 16 floats at one distance: in its place, or a copy, where the tile is cut or its rows
/// have an index.
struct Window {
  float* at;
  int64_t ld;
  alignas(64) float copy[kTileLines * kTileLines];

  void open(const Out& c, int64_t i, int64_t j, int64_t rows, int64_t cols, bool zero) {
    const bool whole = c.index == nullptr && rows == kTileLines && cols == kTileLines;
    at = whole ? c.data + i * c.ld + j : copy;
    ld = whole ? c.ld : kTileLines;
    if (whole || zero) return;
    __builtin_memset(copy, 0, sizeof copy);
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = c.data + (c.index == nullptr ? i + r : c.index[i + r]) * c.ld + j;
      for (int64_t n = 0; n < cols; ++n) copy[r * kTileLines + n] = from[n];
    }
  }
  void close(const Out& c, int64_t i, int64_t j, int64_t rows, int64_t cols) const {
    if (at != copy) return;
    for (int64_t r = 0; r < rows; ++r) {
      float* to = c.data + (c.index == nullptr ? i + r : c.index[i + r]) * c.ld + j;
      for (int64_t n = 0; n < cols; ++n) to[n] = copy[r * kTileLines + n];
    }
  }
};

/// What a unit is given: up to two panels of a and of b over `steps` tiles, and the tiles of c.
struct TileJob {
  const uint16_t *a, *b;
  int64_t a_panel, b_panel, steps;
  Window (*c)[2];
  bool zero;
};

/// C of 2 x 2 tiles in registers 0 to 3, a in 4 and 5, b in 6 and 7: four products for four loads.
template <typename Tiles>
struct TileUnit {
  Tiles tiles;
  template <int kR, int kC>
  void run(const TileJob& job) {
    constexpr int64_t kRowBytes = kTileInner * static_cast<int64_t>(sizeof(uint16_t));
    const auto begin = [&]<int kT>(std::integral_constant<int, kT>, const Window& c) {
      if (job.zero)
        tiles.template zero<kT>();
      else
        tiles.template load<kT>(c.at, c.ld * static_cast<int64_t>(sizeof(float)));
    };
    const auto end = [&]<int kT>(std::integral_constant<int, kT>, const Window& c) {
      tiles.template store<kT>(c.at, c.ld * static_cast<int64_t>(sizeof(float)));
    };
    const auto each = [&](auto&& body) {
      body(std::integral_constant<int, 0>{}, job.c[0][0]);
      if constexpr (kC == 2) body(std::integral_constant<int, 1>{}, job.c[0][1]);
      if constexpr (kR == 2) body(std::integral_constant<int, 2>{}, job.c[1][0]);
      if constexpr (kR == 2 && kC == 2) body(std::integral_constant<int, 3>{}, job.c[1][1]);
    };
    each(begin);
    const uint16_t *a = job.a, *b = job.b;
    for (int64_t s = 0; s < job.steps; ++s, a += kTileElements, b += kTileElements) {
      tiles.template load<4>(a, kRowBytes);
      tiles.template load<6>(b, kRowBytes);
      tiles.template dot<0, 4, 6>();
      if constexpr (kC == 2) {
        tiles.template load<7>(b + job.b_panel, kRowBytes);
        tiles.template dot<1, 4, 7>();
      }
      if constexpr (kR == 2) {
        tiles.template load<5>(a + job.a_panel, kRowBytes);
        tiles.template dot<2, 5, 6>();
      }
      if constexpr (kR == 2 && kC == 2) tiles.template dot<3, 5, 7>();
    }
    each(end);
  }
};

/// 8 rows by 16 or 32 columns of c in registers.
template <typename Lanes>
struct PairUnit {
  template <int kC>
  __attribute__((noinline)) static void half(const uint16_t* a, const TileJob& job, const Window* c, int64_t first) {
    constexpr int kRowsOfHalf = 8;
    Lanes sum[kRowsOfHalf][kC];
    QNEXT_UNROLL
    for (int i = 0; i < kRowsOfHalf; ++i) {
      QNEXT_UNROLL
      for (int n = 0; n < kC; ++n)
        sum[i][n] = job.zero ? Lanes::zero() : Lanes::load(c[n].at + (first + i) * c[n].ld);
    }
    const uint16_t* b = job.b;
    for (int64_t s = 0; s < job.steps;
         ++s, a += kTileElements - kTileInner) {  // a pair at a time through a row of a tile of a
      for (int64_t p = 0; p < kTileInner; p += 2, a += 2, b += kTileInner) {
        typename Lanes::Pairs line[kC];
        QNEXT_UNROLL
        for (int n = 0; n < kC; ++n) line[n] = Lanes::pairs(b + n * job.b_panel);
        QNEXT_UNROLL
        for (int i = 0; i < kRowsOfHalf; ++i) {
          const typename Lanes::Pairs factor = Lanes::same_pair(a + i * kTileInner);
          QNEXT_UNROLL
          for (int n = 0; n < kC; ++n) sum[i][n] = Lanes::dot(factor, line[n], sum[i][n]);
        }
      }
    }
    QNEXT_UNROLL
    for (int i = 0; i < kRowsOfHalf; ++i) {
      QNEXT_UNROLL
      for (int n = 0; n < kC; ++n) sum[i][n].store(c[n].at + (first + i) * c[n].ld);
    }
  }
  template <int kR, int kC>
  void run(const TileJob& job) {
    for (int r = 0; r < kR; ++r) {
      for (int64_t first = 0; first < kTileLines; first += 8) {
        half<kC>(job.a + r * job.a_panel + first * kTileInner, job, job.c[r], first);
      }
    }
  }
};

/// Both instructions count numbers too small for full precision as zero, with their sign, and give none.
inline float without_subnormal(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }
inline float multiply_add(uint16_t a, uint16_t b, float c) {
  return without_subnormal(
      __builtin_fmaf(without_subnormal(bf16_to_f32(a)), without_subnormal(bf16_to_f32(b)), without_subnormal(c)));
}

/// The registers of AMX in plain C++.
struct EmulatedTiles {
  alignas(64) uint16_t tile[8][kTileLines][kTileInner];
  EmulatedTiles() { __builtin_memset(tile, 0x55, sizeof tile); }
  template <int kT>
  void zero() {
    __builtin_memset(tile[kT], 0, sizeof tile[kT]);
  }
  template <int kT>
  void load(const void* p, int64_t stride) {
    for (int64_t r = 0; r < kTileLines; ++r)
      __builtin_memcpy(tile[kT][r], static_cast<const char*>(p) + r * stride, sizeof tile[kT][r]);
  }
  template <int kT>
  void store(void* p, int64_t stride) {
    for (int64_t r = 0; r < kTileLines; ++r)
      __builtin_memcpy(static_cast<char*>(p) + r * stride, tile[kT][r], sizeof tile[kT][r]);
  }
  template <int kC, int kA, int kB>
  void dot() {
    float c[kTileLines][kTileLines];
    __builtin_memcpy(c, tile[kC], sizeof c);
    for (int64_t m = 0; m < kTileLines; ++m) {
      float even[kTileLines] = {}, odd[kTileLines] = {};
      for (int64_t p = 0; p < kTileLines; ++p) {
        const uint16_t *a = tile[kA][m] + 2 * p, *b = tile[kB][p];
        for (int64_t n = 0; n < kTileLines; ++n) {
          even[n] = multiply_add(a[0], b[2 * n], even[n]);
          odd[n] = multiply_add(a[1], b[2 * n + 1], odd[n]);
        }
      }
      for (int64_t n = 0; n < kTileLines; ++n) {
        c[m][n] = without_subnormal(without_subnormal(c[m][n]) + without_subnormal(even[n] + odd[n]));
      }
    }
    __builtin_memcpy(tile[kC], c, sizeof c);
  }
};

/// 16 lanes of vdpbf16ps in plain C++.
struct EmulatedLanes {
  float v[kTileLines];
  struct Pairs {
    uint16_t v[kTileInner];
  };
  static EmulatedLanes zero() { return {}; }
  static EmulatedLanes load(const float* p) {
    EmulatedLanes x;
    __builtin_memcpy(x.v, p, sizeof x.v);
    return x;
  }
  void store(float* p) const { __builtin_memcpy(p, v, sizeof v); }
  static Pairs pairs(const uint16_t* p) {
    Pairs x;
    __builtin_memcpy(x.v, p, sizeof x.v);
    return x;
  }
  static Pairs same_pair(const uint16_t* p) {
    Pairs x;
    for (int64_t n = 0; n < kTileInner; ++n) x.v[n] = p[n % 2];
    return x;
  }
  static EmulatedLanes dot(const Pairs& a, const Pairs& b, EmulatedLanes c) {
    for (int64_t n = 0; n < kTileLines; ++n) {
      c.v[n] = multiply_add(a.v[2 * n], b.v[2 * n], multiply_add(a.v[2 * n + 1], b.v[2 * n + 1], c.v[n]));
    }
    return c;
  }
};

/// How multiply and the experts see operands: panels of kRowTile rows of a or kColTile columns of b, lines of
/// `Element`; inner index l of a panel is at l * kRowTile (kColTile), where l is a multiple of kInnerBlock.
///
/// Here: tiles of bf16, by the unit.
template <typename Unit>
struct TilePanels {
  using Element = uint16_t;
  static constexpr int64_t kRowTile = kTileLines, kColTile = kTileLines, kInnerBlock = kTileInnerBlock;
  static constexpr int64_t kBlockRows = kTileBlockRows, kBlockCols = kTileBlockCols, kTemp = kTileTempFloats;
  static constexpr int64_t kTaskRows = 2 * kTileLines, kTaskCols = 2 * kTileLines;

  static constexpr int64_t elements(int64_t lines, int64_t inner) {
    return (lines + kTileLines - 1) / kTileLines * ((inner + kTileInner - 1) / kTileInner) * kTileElements;
  }
  static constexpr int64_t row_elements(int64_t rows, int64_t inner) { return elements(rows, inner); }
  static constexpr int64_t col_elements(int64_t cols, int64_t inner) { return elements(cols, inner); }
  static void pack_rows(const GemmOperand& o, int64_t first, int64_t count, int64_t begin, int64_t inner,
                        Element* out, float* temp) {
    pack_tiles<false>(o, first, count, begin, inner, out, temp);
  }
  static void pack_cols(const GemmOperand& o, int64_t first, int64_t count, int64_t begin, int64_t inner,
                        Element* out, float* temp) {
    pack_tiles<true>(o, first, count, begin, inner, out, temp);
  }
  /// c = (zero ? 0 : c) + a b over `inner` indices of panels that hold a_inner and b_inner.
  static void block(const Element* a, int64_t a_inner, const Element* b, int64_t b_inner, int64_t m, int64_t n,
                    int64_t inner, const Out& c, bool zero) {
    Unit unit;
    Window windows[2][2];
    TileJob job{a,       b,   tiles_of(a_inner) * kTileElements, tiles_of(b_inner) * kTileElements, tiles_of(inner),
                windows, zero};
    for (int64_t j = 0; j < n; j += 2 * kTileLines) {
      for (int64_t i = 0; i < m; i += 2 * kTileLines) {
        const auto each = [&](auto&& body) {
          for (int64_t r = 0; r < 2; ++r) {
            for (int64_t s = 0; s < 2; ++s) {
              const int64_t row = i + r * kTileLines, col = j + s * kTileLines;
              if (row >= m || col >= n) continue;
              body(windows[r][s], row, col, m - row < kTileLines ? m - row : kTileLines,
                   n - col < kTileLines ? n - col : kTileLines);
            }
          }
        };
        each([&](Window& w, int64_t row, int64_t col, int64_t rows, int64_t cols) {
          w.open(c, row, col, rows, cols, zero);
        });
        job.a = a + i / kTileLines * job.a_panel;
        job.b = b + j / kTileLines * job.b_panel;
        const bool two_rows = m - i > kTileLines, two_cols = n - j > kTileLines;
        if (two_rows && two_cols)
          unit.template run<2, 2>(job);
        else if (two_rows)
          unit.template run<2, 1>(job);
        else if (two_cols)
          unit.template run<1, 2>(job);
        else
          unit.template run<1, 1>(job);
        each([&](Window& w, int64_t row, int64_t col, int64_t rows, int64_t cols) {
          w.close(c, row, col, rows, cols);
        });
      }
    }
  }
};

/// Floats, rounded to bf16 or as they are, in the register tiles of gemm.inl.
template <bool kRound>
struct FloatPanels {
  using Element = float;
  static constexpr int64_t kRowTile = kRows, kColTile = kCols, kInnerBlock = kInner;
  static constexpr int64_t kBlockRows = 168;  // of a, in the second-level cache; a multiple of every kRows
  static constexpr int64_t kBlockCols = 512, kTemp = kTempFloats;
  static constexpr int64_t kTaskRows = kRows, kTaskCols = kCols;

  static constexpr int64_t row_elements(int64_t rows, int64_t inner) {
    return (rows + kRows - 1) / kRows * kRows * inner + kSlack;
  }
  static constexpr int64_t col_elements(int64_t cols, int64_t inner) {
    return (cols + kCols - 1) / kCols * kCols * inner + kSlack;
  }
  static void pack_rows(const GemmOperand& o, int64_t first, int64_t count, int64_t begin, int64_t inner,
                        Element* out, float* temp) {
    pack<kRows>(o, first, count, begin, inner, out, temp);
    if constexpr (kRound) round_floats(out, row_elements(count, inner) - kSlack);
  }
  static void pack_cols(const GemmOperand& o, int64_t first, int64_t count, int64_t begin, int64_t inner,
                        Element* out, float* temp) {
    pack<kCols>(o, first, count, begin, inner, out, temp);
    if constexpr (kRound) round_floats(out, col_elements(count, inner) - kSlack);
  }
  static void block(const Element* a, int64_t a_inner, const Element* b, int64_t b_inner, int64_t m, int64_t n,
                    int64_t inner, const Out& c, bool zero) {
    gemm::block(panels(a, a_inner), b, kCols * b_inner, m, n, inner, {c.data, c.ld, kCols, c.index}, zero);
  }
};

}  // namespace gemm
