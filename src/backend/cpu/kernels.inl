// The kernels, written once over Vec (simd.h) and compiled for each instruction set by kernels_<isa>.cc inside its
// target region and namespace.

// ---- matrix product --------------------------------------------------------------------------------------------

/// A row of a weight matrix; scales: its fp8 scales, one per 128 columns.
struct WeightRow {
  const std::byte* data;
  const float* scales;
};

inline WeightRow weight_row(const Matrix& w, int64_t r) {
  return {w.row(r), w.block_scales == nullptr ? nullptr : w.block_scales + w.physical_row(r) / 128 * w.scale_cols};
}

/// kLanes weights from column c, exactly converted; fp8 times its scale.
template <DType kType>
inline Vec load_weights(const WeightRow& row, int64_t c) {
  if constexpr (kType == DType::kF32) return Vec::load(reinterpret_cast<const float*>(row.data) + c);
  if constexpr (kType == DType::kBF16) return Vec::load_bf16(reinterpret_cast<const uint16_t*>(row.data) + c);
  if constexpr (kType == DType::kF16) return Vec::load_f16(reinterpret_cast<const uint16_t*>(row.data) + c);
  if constexpr (kType == DType::kF8E4M3) {
    const Vec value = Vec::load_f8(reinterpret_cast<const uint8_t*>(row.data) + c);
    return row.scales == nullptr ? value : (value * Vec::set(row.scales[c / 128])).rounded();
  }
}

template <DType kType>
inline Vec partial_load_weights(const WeightRow& row, int64_t c, int64_t n) {
  float lanes[Vec::kLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    const float value = load_as_f32(row.data, kType, c + i);
    lanes[i] = kType == DType::kF8E4M3 && row.scales != nullptr ? value * row.scales[(c + i) / 128] : value;
  }
  return Vec::load(lanes);
}

/// y[m][r + n] = x[m] . w[n]. Each sum runs over the columns in one accumulator, so its value does not depend on
/// kTokens or kRows.
template <DType kType, int kTokens, int kRows>
inline void dot_tile(const float* const* x, const WeightRow* w, int64_t cols, float* const* y, int64_t r) {
  Vec sum[kTokens][kRows];
  QNEXT_UNROLL
  for (int m = 0; m < kTokens; ++m) {
    QNEXT_UNROLL
    for (int n = 0; n < kRows; ++n) sum[m][n] = Vec::zero();
  }
  int64_t c = 0;
  for (; c + Vec::kLanes <= cols; c += Vec::kLanes) {
    Vec xs[kTokens];
    QNEXT_UNROLL
    for (int m = 0; m < kTokens; ++m) xs[m] = Vec::load(x[m] + c);
    QNEXT_UNROLL
    for (int n = 0; n < kRows; ++n) {
      const Vec weights = load_weights<kType>(w[n], c);
      QNEXT_UNROLL
      for (int m = 0; m < kTokens; ++m) sum[m][n] = Vec::fma(xs[m], weights, sum[m][n]);
    }
  }
  if (c < cols) {
    Vec xs[kTokens];
    QNEXT_UNROLL
    for (int m = 0; m < kTokens; ++m) xs[m] = Vec::partial_load(x[m] + c, cols - c);
    QNEXT_UNROLL
    for (int n = 0; n < kRows; ++n) {
      const Vec weights = partial_load_weights<kType>(w[n], c, cols - c);
      QNEXT_UNROLL
      for (int m = 0; m < kTokens; ++m) sum[m][n] = Vec::fma(xs[m], weights, sum[m][n]);
    }
  }
  QNEXT_UNROLL
  for (int m = 0; m < kTokens; ++m) {
    QNEXT_UNROLL
    for (int n = 0; n < kRows; ++n) y[m][r + n] = sum[m][n].sum();
  }
}

template <DType kType, int kTokens>
inline void dot_rows(const float* const* x, const Matrix& w, int64_t begin, int64_t end, float* const* y) {
  constexpr int kRows = kTokens == 1 ? 8 : 4;  // independent sums in flight
  WeightRow rows[kRows];
  int64_t r = begin;
  for (; r + kRows <= end; r += kRows) {
    for (int n = 0; n < kRows; ++n) rows[n] = weight_row(w, r + n);
    dot_tile<kType, kTokens, kRows>(x, rows, w.cols, y, r);
  }
  for (; r < end; ++r) {
    rows[0] = weight_row(w, r);
    dot_tile<kType, kTokens, 1>(x, rows, w.cols, y, r);
  }
}

template <DType kType>
inline void expand_row_as(const Matrix& w, int64_t r, float* out) {
  const WeightRow row = weight_row(w, r);
  int64_t c = 0;
  for (; c + Vec::kLanes <= w.cols; c += Vec::kLanes) load_weights<kType>(row, c).store(out + c);
  if (c < w.cols) partial_load_weights<kType>(row, c, w.cols - c).partial_store(out + c, w.cols - c);
}

template <DType kType>
inline void matmul_as(const float* x, int64_t ldx, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin,
                      int64_t end, float* y, int64_t ldy, const int32_t* y_index, float* scratch) {
  // Many tokens: expand the panel once, then every tile works on floats. Exact, so the sums are those of few tokens.
  if (kType != DType::kF32 && tokens >= 8) {
    Matrix panel{.dtype = DType::kF32, .rows = end - begin, .cols = w.cols,
                 .data = reinterpret_cast<const std::byte*>(scratch)};
    for (int64_t r = begin; r < end; ++r) expand_row_as<kType>(w, r, scratch + (r - begin) * w.cols);
    return matmul_as<DType::kF32>(x, ldx, x_index, tokens, panel, 0, end - begin, y + begin, ldy, y_index, nullptr);
  }
  constexpr int kTile = 4;
  const float* xs[kTile];
  float* ys[kTile];
  for (int64_t t = 0; t < tokens; t += kTile) {
    const int64_t count = tokens - t < kTile ? tokens - t : kTile;
    for (int64_t m = 0; m < count; ++m) {
      xs[m] = x + (x_index == nullptr ? t + m : x_index[t + m]) * ldx;
      ys[m] = y + (y_index == nullptr ? t + m : y_index[t + m]) * ldy;
    }
    switch (count) {
      case 1: dot_rows<kType, 1>(xs, w, begin, end, ys); break;
      case 2: dot_rows<kType, 2>(xs, w, begin, end, ys); break;
      case 3: dot_rows<kType, 3>(xs, w, begin, end, ys); break;
      default: dot_rows<kType, 4>(xs, w, begin, end, ys); break;
    }
  }
}

void expand_row(const Matrix& w, int64_t row, float* out) {
  switch (w.dtype) {
    case DType::kF32: return expand_row_as<DType::kF32>(w, row, out);
    case DType::kBF16: return expand_row_as<DType::kBF16>(w, row, out);
    case DType::kF16: return expand_row_as<DType::kF16>(w, row, out);
    case DType::kF8E4M3: return expand_row_as<DType::kF8E4M3>(w, row, out);
    default: return decode(w.dtype, w.row(row), w.cols, out);
  }
}

void matmul(const float* x, int64_t ldx, const int32_t* x_index, int64_t tokens, const Matrix& w, int64_t begin, int64_t end,
            float* y, int64_t ldy, const int32_t* y_index, float* scratch) {
  switch (w.dtype) {
    case DType::kF32: return matmul_as<DType::kF32>(x, ldx, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kBF16: return matmul_as<DType::kBF16>(x, ldx, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kF16: return matmul_as<DType::kF16>(x, ldx, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    case DType::kF8E4M3:
      return matmul_as<DType::kF8E4M3>(x, ldx, x_index, tokens, w, begin, end, y, ldy, y_index, scratch);
    default: break;
  }
  // Block types against activations in f32: expanded whatever the number of tokens.
  const Matrix panel{.dtype = DType::kF32, .rows = end - begin, .cols = w.cols,
                     .data = reinterpret_cast<const std::byte*>(scratch)};
  for (int64_t r = begin; r < end; ++r) expand_row(w, r, scratch + (r - begin) * w.cols);
  matmul_as<DType::kF32>(x, ldx, x_index, tokens, panel, 0, end - begin, y + begin, ldy, y_index, nullptr);
}

// ---- element by element, and row norms ---------------------------------------------------------------------------

void add(const float* x, const float* y, float* out, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(load_lanes(x + i, lanes) + load_lanes(y + i, lanes), out + i, lanes);
  });
}

void scale_add(float* y, const float* x, float scale, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(Vec::fma(Vec::set(scale), load_lanes(x + i, lanes), load_lanes(y + i, lanes)), y + i, lanes);
  });
}

bool all_finite(const float* x, int64_t n) {
  // x * 0 is 0 for finite x and NaN otherwise.
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) { sum = Vec::fma(load_lanes(x + i, lanes), Vec::zero(), sum); });
  return sum.sum() == 0.0f;
}

void exp(float* x, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) { store_lanes(exp(load_lanes(x + i, lanes)), x + i, lanes); });
}

inline float sum_of_squares(const float* x, int64_t n) {
  Vec sum = Vec::zero();
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec value = load_lanes(x + i, lanes);
    sum = Vec::fma(value, value, sum);
  });
  return sum.sum();
}

void rms_norm(const float* x, const float* gain, float gain_offset, float eps, float* out, int64_t n) {
  const Vec scale = Vec::set(1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  const Vec offset = Vec::set(gain_offset);
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(load_lanes(x + i, lanes) * scale * (load_lanes(gain + i, lanes) + offset), out + i, lanes);
  });
}

void gated_rms_norm(const float* x, const float* z, const float* gain, float eps, float* out, int64_t n) {
  const Vec scale = Vec::set(1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps));
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    const Vec normed = load_lanes(x + i, lanes) * scale * load_lanes(gain + i, lanes);
    store_lanes(normed * silu(load_lanes(z + i, lanes)), out + i, lanes);
  });
}

void l2_norm(float* x, float scale, int64_t n) {
  const Vec factor = Vec::set(scale / std::sqrt(sum_of_squares(x, n) + 1e-6f));
  for_lanes(n, [&](int64_t i, int64_t lanes) { store_lanes(load_lanes(x + i, lanes) * factor, x + i, lanes); });
}

void silu_multiply(float* gate, const float* up, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(silu(load_lanes(gate + i, lanes)) * load_lanes(up + i, lanes), gate + i, lanes);
  });
}

void sigmoid_multiply(float* x, const float* gate, int64_t n) {
  for_lanes(n, [&](int64_t i, int64_t lanes) {
    store_lanes(load_lanes(x + i, lanes) * sigmoid(load_lanes(gate + i, lanes)), x + i, lanes);
  });
}

void rope(float* x, const float* cos, const float* sin, int64_t pairs) {
  for_lanes(pairs, [&](int64_t i, int64_t lanes) {
    const Vec a = load_lanes(x + i, lanes), b = load_lanes(x + pairs + i, lanes);
    const Vec c = load_lanes(cos + i, lanes), s = load_lanes(sin + i, lanes);
    store_lanes(a * c - b * s, x + i, lanes);
    store_lanes(b * c + a * s, x + pairs + i, lanes);
  });
}

// ---- causal convolution --------------------------------------------------------------------------------------------

/// `rows` rows of kVecs vectors of channels, kernel 4; past: the three inputs before the first row, updated to the last
/// three. Every input is loaded once, before its place is written, so out may be x.
template <int kVecs>
inline void conv4_columns(const float* x, int64_t ldx, int64_t rows, const float* taps, float* past, int64_t ldpast, float* out,
                          int64_t ldout) {
  Vec tap[kVecs][4], window[kVecs][3];
  QNEXT_UNROLL
  for (int n = 0; n < kVecs; ++n) {
    Vec::load_by_4(taps + n * 4 * Vec::kLanes, tap[n]);  // stored channel by channel
    QNEXT_UNROLL
    for (int m = 0; m < 3; ++m) window[n][m] = Vec::load(past + m * ldpast + n * Vec::kLanes);
  }
  for (int64_t t = 0; t < rows; ++t) {
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) {
      const Vec now = Vec::load(x + t * ldx + n * Vec::kLanes);
      Vec sum = tap[n][0] * window[n][0];
      sum = Vec::fma(tap[n][1], window[n][1], sum);
      sum = Vec::fma(tap[n][2], window[n][2], sum);
      sum = Vec::fma(tap[n][3], now, sum);
      window[n][0] = window[n][1];
      window[n][1] = window[n][2];
      window[n][2] = now;
      silu(sum).store(out + t * ldout + n * Vec::kLanes);
    }
  }
  QNEXT_UNROLL
  for (int n = 0; n < kVecs; ++n) {
    QNEXT_UNROLL
    for (int m = 0; m < 3; ++m) window[n][m].store(past + m * ldpast + n * Vec::kLanes);
  }
}

/// The same for `lanes` channels and any kernel.
inline void conv_lanes(const float* x, int64_t ldx, int64_t rows, const float* taps, int64_t kernel, float* past,
                       int64_t ldpast, int64_t lanes, float* out, int64_t ldout) {
  Vec tap[kMaxConvKernel], window[kMaxConvKernel];
  for (int64_t m = 0; m < kernel; ++m) {
    float column[Vec::kLanes] = {};
    for (int64_t lane = 0; lane < lanes; ++lane) column[lane] = taps[lane * kernel + m];
    tap[m] = Vec::load(column);
    if (m + 1 < kernel) window[m] = load_lanes(past + m * ldpast, lanes);
  }
  for (int64_t t = 0; t < rows; ++t) {
    window[kernel - 1] = load_lanes(x + t * ldx, lanes);
    Vec sum = Vec::zero();
    for (int64_t m = 0; m < kernel; ++m) sum = Vec::fma(tap[m], window[m], sum);
    for (int64_t m = 0; m + 1 < kernel; ++m) window[m] = window[m + 1];
    store_lanes(silu(sum), out + t * ldout, lanes);
  }
  for (int64_t m = 0; m + 1 < kernel; ++m) store_lanes(window[m], past + m * ldpast, lanes);
}

void causal_conv1d_silu(const ConvSegment& segment, const float* x, int64_t ldx, const float* taps, int64_t kernel,
                        int64_t channels, int64_t begin, int64_t end, std::span<const UnitNorm> norms, float* out,
                        int64_t ldout) {
  constexpr int64_t kStrip = 16;  // rows that stay in cache until their heads are normalised
  for (int64_t t = segment.row; t < segment.row + segment.rows; t += kStrip) {
    const int64_t rows = segment.row + segment.rows - t < kStrip ? segment.row + segment.rows - t : kStrip;
    int64_t c = begin;
    if (kernel == 4) {
      for (; c + 2 * Vec::kLanes <= end; c += 2 * Vec::kLanes) {
        conv4_columns<2>(x + t * ldx + c, ldx, rows, taps + c * kernel, segment.state + c, channels, out + t * ldout + c,
                         ldout);
      }
    }
    for (; c < end; c += Vec::kLanes) {
      const int64_t lanes = end - c < Vec::kLanes ? end - c : Vec::kLanes;
      conv_lanes(x + t * ldx + c, ldx, rows, taps + c * kernel, kernel, segment.state + c, channels, lanes,
                 out + t * ldout + c, ldout);
    }
    for (const UnitNorm& norm : norms) {
      const int64_t first = norm.begin > begin ? norm.begin : begin, last = norm.end < end ? norm.end : end;
      for (int64_t r = t; r < t + rows; ++r) {
        for (int64_t h = first; h < last; h += norm.head_dim) l2_norm(out + r * ldout + h, norm.scale, norm.head_dim);
      }
    }
  }
}

#include "backend/cpu/small_product.inl"
#include "backend/cpu/attention.inl"
#include "backend/cpu/delta_rule.inl"

inline constexpr Kernels kTable{.isa = kIsa,
                                .matmul = matmul,
                                .expand_row = expand_row,
                                .add = add,
                                .scale_add = scale_add,
                                .all_finite = all_finite,
                                .exp = exp,
                                .rms_norm = rms_norm,
                                .gated_rms_norm = gated_rms_norm,
                                .l2_norm = l2_norm,
                                .silu_multiply = silu_multiply,
                                .sigmoid_multiply = sigmoid_multiply,
                                .rope = rope,
                                .causal_conv1d_silu = causal_conv1d_silu,
                                .gated_delta_step = gated_delta_step,
                                .gated_delta_products = gated_delta_products,
                                .gated_delta_chunk = gated_delta_chunk,
                                .attention_span = attention_span};
