// Part of gemm.inl: operands of any type and layout become panels.

namespace gemm {

inline constexpr int kColVecs = Vec::kLanes == 1 ? 4 : 2;
inline constexpr int64_t kCols = kColVecs * Vec::kLanes;
inline constexpr int kRows = Vec::kLanes == 16 ? 14 : Vec::kLanes == 8 ? 6 : 4;
inline constexpr int64_t kInner = 256;  // a multiple of every block of weights
inline constexpr int64_t kSlack = 16;   // floats that the last store of a panel may write past it
inline constexpr int64_t kLongestBlock = 256;
/// Expanded weights: the lines of a panel, or a line across a block of columns.
inline constexpr int64_t kTempFloats = kCols * (kInner + 2 * kLongestBlock);

/// Elements [begin, begin + count) of a row of weights that are not f32. temp: count + 2 * kLongestBlock.
inline const float* expand(const Matrix& w, int64_t r, int64_t begin, int64_t count, float* temp) {
  const std::byte* row = w.row(r);
  if (is_block_type(w.dtype)) {
    const int64_t size = block_elements(w.dtype), first = begin / size * size;
    const int64_t last = (begin + count + size - 1) / size * size;
    decode(w.dtype, row + bytes_of(w.dtype, first), last - first, temp);
    return temp + (begin - first);
  }
  int64_t c = 0;
  if (w.dtype == DType::kBF16 || w.dtype == DType::kF16) {
    const auto* half = reinterpret_cast<const uint16_t*>(row) + begin;
    for (; c + Vec::kLanes <= count; c += Vec::kLanes) {
      (w.dtype == DType::kBF16 ? Vec::load_bf16(half + c) : Vec::load_f16(half + c)).store(temp + c);
    }
  }
  const float* scales = w.block_scales == nullptr ? nullptr : w.block_scales + w.physical_row(r) / 128 * w.scale_cols;
  for (; c < count; ++c) {
    const float value = load_as_f32(row, w.dtype, begin + c);
    temp[c] = scales == nullptr ? value : value * scales[(begin + c) / 128];
  }
  return temp;
}

void expand_row(const Matrix& w, int64_t r, float* out) {
  const float* from =
      w.dtype == DType::kF32 ? reinterpret_cast<const float*>(w.row(r)) : expand(w, r, 0, w.cols, out);
  if (from == out) return;
  for (int64_t c = 0; c < w.cols; ++c) out[c] = from[c];
}

inline const float* line(const GemmOperand& o, int64_t j, int64_t begin, int64_t count, float* temp) {
  if (o.matrix == nullptr) return o.data + (o.index == nullptr ? j : o.index[j]) * o.stride + begin;
  if (o.matrix->dtype == DType::kF32) return reinterpret_cast<const float*>(o.matrix->row(j)) + begin;
  return expand(*o.matrix, j, begin, count, temp);
}

#if QNEXT_ISA_WIDTH == 1
inline constexpr int kSquare = 1;
inline void transpose_square(const float* const* in, int64_t at, float* const* out, int64_t to) {
  out[0][to] = in[0][at];
}
#else
inline constexpr int kSquare = 8;
/// out[r][to + i] = in[i][at + r] for i, r < 8. Stores in the order of r.
__attribute__((always_inline)) inline void transpose_square(const float* const* in, int64_t at, float* const* out,
                                                            int64_t to) {
  __m256 a[8], b[8];
  QNEXT_UNROLL
  for (int i = 0; i < 8; i += 2) {
    const __m256 x = _mm256_loadu_ps(in[i] + at), y = _mm256_loadu_ps(in[i + 1] + at);
    a[i] = _mm256_unpacklo_ps(x, y);
    a[i + 1] = _mm256_unpackhi_ps(x, y);
  }
  QNEXT_UNROLL
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
  QNEXT_UNROLL
  for (int r = 0; r < 4; ++r) _mm256_storeu_ps(out[r] + to, _mm256_permute2f128_ps(b[r], b[r + 4], 0x20));
  QNEXT_UNROLL
  for (int r = 0; r < 4; ++r) _mm256_storeu_ps(out[r + 4] + to, _mm256_permute2f128_ps(b[r], b[r + 4], 0x31));
}
#endif

/// A panel of kTile lines: out[l][i] = lines[i][l]. May write kSlack floats past the panel's end.
template <int kTile>
inline void transpose_lines(const float* const* lines, int64_t inner, float* out) {
  int64_t l = 0;
  for (; l + kSquare <= inner; l += kSquare) {
    float* to[kSquare];
    QNEXT_UNROLL
    for (int r = 0; r < kSquare; ++r) to[r] = out + (l + r) * kTile;
    QNEXT_UNROLL
    for (int i = 0; i < kTile; i += kSquare) {
      // The last square overlaps the one before it; a panel narrower than a square runs into its next row, which
      // follows.
      const int first = i + kSquare <= kTile ? i : kTile > kSquare ? kTile - kSquare : 0;
      transpose_square(lines + first, l, to, first);
    }
  }
  for (; l < inner; ++l) {
    for (int i = 0; i < kTile; ++i) out[l * kTile + i] = lines[i][l];
  }
}

/// Rows (or columns) [first, first + count), inner indices [begin, begin + inner), as panels of kTile. What is past
/// `count` in the last panel are finite numbers where those of the operand are.
template <int kTile>
inline void pack(const GemmOperand& o, int64_t first, int64_t count, int64_t begin, int64_t inner, float* out,
                 float* temp) {
  if (!o.inner_lines) {
    for (int64_t i = 0; i < count; i += kTile) {
      const float* lines[kTile < kSquare ? kSquare : kTile];
      constexpr int kLines = static_cast<int>(sizeof lines / sizeof lines[0]);
      const int64_t have = count - i < kTile ? count - i : kTile;
      for (int n = 0; n < kLines; ++n) {
        lines[n] =
            n < have ? line(o, first + i + n, begin, inner, temp + n * (kInner + 2 * kLongestBlock)) : lines[0];
      }
      transpose_lines<kTile>(lines, inner, out + i * inner);
    }
    return;
  }
  for (int64_t l = 0; l < inner; ++l) {
    const float* from = line(o, begin + l, first, count, temp);
    float* to = out + l * kTile;
    int64_t i = 0;
    for (; i + kTile <= count; i += kTile) __builtin_memcpy(to + i * inner, from + i, sizeof(float) * kTile);
    if (i == count) continue;
    for (int64_t n = 0; n < kTile; ++n) to[i * inner + n] = i + n < count ? from[i + n] : 0.0f;
  }
}

}  // namespace gemm
