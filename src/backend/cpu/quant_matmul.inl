// Included inside a target region by quant_<isa>.cc after the kernels of that set: which rows and tokens they get.

/// Few tokens: rows r, r + quarter, ... of the panel are four streams; all tokens use them while they are in cache.
template <DType kType>
inline void matmul_few(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin,
                       int64_t end, float* y, int64_t ldy, const int32_t* y_index) {
  const int64_t quarter = (end - begin + 3) / 4;
  for (int64_t i = 0; i < quarter; ++i) {
    const std::byte* rows[4];
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t r = begin + j * quarter + i;
      rows[j] = w.row(r < end ? r : end - 1);
    }
    for (int64_t t = 0; t < tokens; t += 4) {
      const int64_t count = tokens - t < 4 ? tokens - t : 4;
      const QuantUnit* units[4];
      for (int64_t m = 0; m < count; ++m) units[m] = x.units + (x_index == nullptr ? t + m : x_index[t + m]);
      __m128 sums[4];
      switch (count) {
        case 1: dot_four<kType, 1>(units, x.rows, rows, x.cols, sums); break;
        case 2: dot_four<kType, 2>(units, x.rows, rows, x.cols, sums); break;
        case 3: dot_four<kType, 3>(units, x.rows, rows, x.cols, sums); break;
        default: dot_four<kType, 4>(units, x.rows, rows, x.cols, sums); break;
      }
      for (int64_t m = 0; m < count; ++m) {
        float* out = y + (y_index == nullptr ? t + m : y_index[t + m]) * ldy;
        float four[4];
        _mm_storeu_ps(four, sums[m]);
        for (int64_t j = 0; j < 4; ++j) {
          const int64_t r = begin + j * quarter + i;
          if (r < end) out[r] = four[j];
        }
      }
    }
  }
}

template <DType kType>
void matmul_as(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin, int64_t end,
               float* y, int64_t ldy, const int32_t* y_index, std::byte* scratch) {
  (void)scratch;
  matmul_few<kType>(x, x_index, tokens, w, begin, end, y, ldy, y_index);
}

void matmul(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin, int64_t end,
            float* y, int64_t ldy, const int32_t* y_index, std::byte* scratch) {
  switch (w.dtype) {
    case DType::kQ8_0: return matmul_as<DType::kQ8_0>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ4_0: return matmul_as<DType::kQ4_0>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ4_1: return matmul_as<DType::kQ4_1>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ5_0: return matmul_as<DType::kQ5_0>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ5_1: return matmul_as<DType::kQ5_1>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kIQ4_NL: return matmul_as<DType::kIQ4_NL>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kMXFP4: return matmul_as<DType::kMXFP4>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ2_K: return matmul_as<DType::kQ2_K>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ3_K: return matmul_as<DType::kQ3_K>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ4_K: return matmul_as<DType::kQ4_K>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ5_K: return matmul_as<DType::kQ5_K>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kQ6_K: return matmul_as<DType::kQ6_K>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kIQ4_XS: return matmul_as<DType::kIQ4_XS>(x, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    default: return;  // plain types have their own kernels
  }
}

constexpr QuantKernels kTable{kIsa, round_row, matmul};
