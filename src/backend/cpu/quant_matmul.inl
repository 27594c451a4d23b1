// Included inside a target region by quant_<isa>.cc after the kernels of that set: which rows and tokens they get.

template <DType kType, int kTokens>
inline void dot_four(const QuantUnit* const* x, int64_t stride, const std::byte* const* rows, int64_t cols, __m128* out) {
  if constexpr (is_k_type(kType)) {
    dot_four_k<kType, kTokens>(x, stride, rows, cols, out);
  } else {
    dot_four_32<kType, kTokens>(x, stride, rows, cols, out);
  }
}

/// y[y_index[t]][r] = x[x_index[t]] . w[r] for kTokens tokens from t and r in [begin, end).
template <DType kType, int kTokens>
inline void few_tokens(const QuantRows& x, const int32_t* x_index, int64_t t, const Matrix& w, int64_t begin, int64_t end,
                       float* y, int64_t ldy, const int32_t* y_index) {
  const QuantUnit* units[kTokens];
  float* out[kTokens];
  for (int m = 0; m < kTokens; ++m) {
    units[m] = x.units + (x_index == nullptr ? t + m : x_index[t + m]);
    out[m] = y + (y_index == nullptr ? t + m : y_index[t + m]) * ldy;
  }
  const int64_t row_bytes = w.cols / (is_k_type(kType) ? 256 : 32) * bytes_per_block(kType);
  const auto row = [&](int64_t r) {  // Matrix::row without its divisions, which short rows would feel
    const int64_t last = r < end ? r : end - 1;
    return w.data + (w.row_block == w.row_block_stride ? w.row_offset + last : w.physical_row(last)) * row_bytes;
  };
  const int64_t quarter = few_quarter(begin, end);
  for (int64_t i = begin; i < begin + quarter; ++i) {
    const std::byte* rows[4];
    for (int64_t j = 0; j < 4; ++j) rows[j] = row(i + j * quarter);
    __m128 sums[kTokens];
    dot_four<kType, kTokens>(units, x.rows, rows, x.cols, sums);
    for (int m = 0; m < kTokens; ++m) {
      float four[4];
      _mm_storeu_ps(four, sums[m]);
      for (int64_t j = 0; j < 4; ++j) {
        if (i + j * quarter < end) out[m][i + j * quarter] = four[j];
      }
    }
  }
}

/// Few tokens: rows r, r + quarter, ... of the panel are four streams. Further tokens find the panel in the second-level
/// cache; were all to use four rows before the next ones, these would find the tokens there, which are more.
template <DType kType>
inline void matmul_few(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin,
                       int64_t end, float* y, int64_t ldy, const int32_t* y_index) {
  for (int64_t t = 0; t < tokens; t += 4) {
    switch (tokens - t) {
      case 1: few_tokens<kType, 1>(x, x_index, t, w, begin, end, y, ldy, y_index); break;
      case 2: few_tokens<kType, 2>(x, x_index, t, w, begin, end, y, ldy, y_index); break;
      case 3: few_tokens<kType, 3>(x, x_index, t, w, begin, end, y, ldy, y_index); break;
      default: few_tokens<kType, 4>(x, x_index, t, w, begin, end, y, ldy, y_index); break;
    }
  }
}

template <DType kType, int kGroups>
inline void multiply_panel(const Panel* panel, const QuantRows& x, const int32_t* x_index, int64_t tokens, int64_t unit,
                           int64_t blocks, float* sums) {
  const QuantUnit* units = x.units + unit * x.rows;
  for (int64_t t = 0; t < tokens; t += kManyTokens) {
    const int64_t count = tokens - t < kManyTokens ? tokens - t : kManyTokens;
    const QuantUnit* xs[kManyTokens];
    for (int64_t m = 0; m < count; ++m) xs[m] = units + (x_index == nullptr ? t + m : x_index[t + m]);
    float* y = sums + t * kExpandRows;
    for (int64_t m = t + kManyTokens; m < t + 2 * kManyTokens && m < tokens; ++m) {  // what the next tile will read
      const auto* next = reinterpret_cast<const char*>(units + (x_index == nullptr ? m : x_index[m]));
      QNEXT_UNROLL
      for (int i = 0; i < 6; ++i) _mm_prefetch(next + 64 * i, _MM_HINT_T0);
    }
    switch (count) {
      case 1: tile<kType, 1, kGroups>(panel, xs, blocks, y); break;
      case 2: tile<kType, 2, kGroups>(panel, xs, blocks, y); break;
      case 3: tile<kType, 3, kGroups>(panel, xs, blocks, y); break;
      default: tile<kType, kManyTokens, kGroups>(panel, xs, blocks, y); break;
    }
  }
}

/// Many tokens: 32 rows times 256 columns at a time are expanded into the first-level cache and meet all tokens there; the
/// sums of the tokens wait in the second level.
template <DType kType>
inline void matmul_many(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin,
                        int64_t end, float* y, int64_t ldy, const int32_t* y_index, std::byte* scratch) {
  static_assert(kExpandRows == 32);
  Panel* panel = reinterpret_cast<Panel*>(scratch);
  float* sums = reinterpret_cast<float*>(scratch + kExpandedBytes);
  for (int64_t i = 0; i < tokens * kExpandRows; ++i) sums[i] = 0.0f;
  const int64_t columns_bytes = bytes_per_block(kType) * (is_k_type(kType) ? 1 : 8);
  const std::byte* rows[kExpandRows];
  for (int64_t r = 0; r < kExpandRows; ++r) rows[r] = w.row(begin + r < end ? begin + r : end - 1);
  for (int64_t u = 0; u < x.unit_count(); ++u) {
    const int64_t left = (x.cols - u * kUnitCols) / 32, blocks = left < 8 ? left : 8;
    // The next columns of these rows (or the first ones of the next rows) come while these are used.
    const int64_t ahead = u + 1 < x.unit_count() ? columns_bytes : kExpandRows * w.row_bytes() - u * columns_bytes;
    expand_panel<kType>(rows, blocks, ahead, panel[0]);
    if (end - begin > 16) {
      expand_panel<kType>(rows + 16, blocks, ahead, panel[1]);
      multiply_panel<kType, 2>(panel, x, x_index, tokens, u, blocks, sums);
    } else {
      multiply_panel<kType, 1>(panel, x, x_index, tokens, u, blocks, sums);
    }
    for (int64_t r = 0; r < kExpandRows; ++r) rows[r] += columns_bytes;
  }
  for (int64_t t = 0; t < tokens; ++t) {
    float* out = y + (y_index == nullptr ? t : y_index[t]) * ldy;
    for (int64_t r = begin; r < end; ++r) out[r] = sums[t * kExpandRows + r - begin];
  }
}

template <DType kType>
void matmul_as(const QuantRows& x, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin, int64_t end,
               float* y, int64_t ldy, const int32_t* y_index, std::byte* scratch) {
  if (tokens < kMany<kType>) return matmul_few<kType>(x, x_index, tokens, w, begin, end, y, ldy, y_index);
  for (int64_t r = begin; r < end; r += kExpandRows) {
    matmul_many<kType>(x, x_index, tokens, w, r, r + kExpandRows < end ? r + kExpandRows : end, y, ldy, y_index, scratch);
  }
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
