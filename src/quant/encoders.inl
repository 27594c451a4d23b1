// Included inside a target region, after search.h. Deliberately without an include guard.
//
// One block each: the search, then the packing (layouts: tensor/blocks.h). x and w hold the block's values and
// weights.

inline int nearest_int(float y, int low, int high) {
  const float bounded = y > static_cast<float>(low) ? (y < static_cast<float>(high) ? y : static_cast<float>(high))
                                                    : static_cast<float>(low);
  return static_cast<int>(std::lrintf(bounded));
}
inline float half_float(uint16_t bits) { return f16_to_f32(bits); }
/// The nearest half-precision number; finite for what encode() accepts.
inline uint16_t to_half(float value) {
  return f32_to_f16(value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value);
}

inline int nearest_index(const int8_t* ascending, int count, float y) {
  int index = 0;
  while (index + 1 < count && y > 0.5f * static_cast<float>(ascending[index] + ascending[index + 1])) ++index;
  return index;
}

/// Half-precision scales about s: eight neighbours, the nearest among them.
inline void half_neighbours(float s, float* scales) {
  const uint16_t nearest = to_half(s);
  const int magnitude = nearest & 0x7FFF;
  for (int k = 0; k < 8; ++k) {
    int m = magnitude + k - 4;
    m = m < 1 ? 1 : m > 0x7BFF ? 0x7BFF : m;
    scales[k] = half_float(static_cast<uint16_t>((nearest & 0x8000) | m));
  }
}

/// The half-precision scale of a block without minimum, or 0 when that is best.
template <typename Grid>
float block_scale(const float* x, const float* w, int n, const Grid& grid, float t_low, float t_high, int count) {
  const Scale free = search_scale(x, w, n, grid, t_low, t_high, count, true);
  if (free.s == 0) return 0;
  ScaleTrial trial;
  float scales[8], zero_error = 0;
  half_neighbours(free.s, scales);
  try_scales(x, w, n, scales, grid, trial);
  for (int i = 0; i < n; ++i) zero_error += w[i] * x[i] * x[i];
  int best = 0;
  for (int k = 1; k < 8; ++k) best = trial.error[k] < trial.error[best] ? k : best;
  return trial.error[best] < zero_error ? scales[best] : 0;
}

inline void encode_q8_0(const float* x, const float* w, BlockQ8_0& out) {
  const float d = block_scale(x, w, 32, UniformGrid(-127, 127), 124, 128, 16);
  out.d = to_half(d);
  const float inverse = d == 0 ? 0 : 1 / d;
  for (int i = 0; i < 32; ++i) out.qs[i] = static_cast<int8_t>(nearest_int(x[i] * inverse, -127, 127));
}

inline void pack_nibbles(const uint8_t* q, uint8_t* qs) {
  for (int i = 0; i < 16; ++i) qs[i] = static_cast<uint8_t>((q[i] & 15) | q[i + 16] << 4);
}
inline void pack_fifth_bits(const uint8_t* q, uint8_t* qh) {
  for (int i = 0; i < 4; ++i) qh[i] = 0;
  for (int i = 0; i < 32; ++i) qh[i / 8] = static_cast<uint8_t>(qh[i / 8] | (q[i] >> 4) << (i % 8));
}

inline void encode_q4_0(const float* x, const float* w, BlockQ4_0& out) {
  const float d = block_scale(x, w, 32, UniformGrid(-8, 7), 5, 10, 40);
  out.d = to_half(d);
  const float inverse = d == 0 ? 0 : 1 / d;
  uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(nearest_int(x[i] * inverse, -8, 7) + 8);
  pack_nibbles(q, out.qs);
}

inline void encode_q5_0(const float* x, const float* w, BlockQ5_0& out) {
  const float d = block_scale(x, w, 32, UniformGrid(-16, 15), 12, 18, 48);
  out.d = to_half(d);
  const float inverse = d == 0 ? 0 : 1 / d;
  uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(nearest_int(x[i] * inverse, -16, 15) + 16);
  pack_nibbles(q, out.qs);
  pack_fifth_bits(q, out.qh);
}

/// Scale and minimum in half precision, and the numbers 0..top, of a block with both.
inline void encode_affine(const float* x, const float* w, int top, float cut, uint16_t& d, uint16_t& m, uint8_t* q) {
  const Affine free = search_affine(x, w, 32, static_cast<float>(top), cut, 8, false);
  float scales[8], offsets[8], sum_w = 0, best_error = 0;
  for (int i = 0; i < 32; ++i) sum_w += w[i];
  half_neighbours(free.s, scales);
  for (int k = 0; k < 8; ++k) offsets[k] = half_float(to_half(free.b));
  AffineTrial trial;
  d = to_half(0);
  m = to_half(free.b);
  for (int i = 0; i < 32; ++i) best_error += w[i] * (x[i] - half_float(m)) * (x[i] - half_float(m));
  for (int round = 0; round < 2; ++round) {  // then with the minimum that suits each scale
    try_affine(x, w, 32, scales, offsets, static_cast<float>(top), trial);
    for (int k = 0; k < 8; ++k) {
      if (trial.error[k] < best_error) {
        best_error = trial.error[k];
        d = to_half(scales[k]);
        m = to_half(offsets[k]);
      }
      offsets[k] = half_float(to_half(offsets[k] + trial.wr[k] / sum_w));
    }
  }
  const float scale = half_float(d), offset = half_float(m), inverse = scale == 0 ? 0 : 1 / scale;
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(nearest_int((x[i] - offset) * inverse, 0, top));
}

inline void encode_q4_1(const float* x, const float* w, BlockQ4_1& out) {
  uint8_t q[32];
  uint16_t d, m;
  encode_affine(x, w, 15, 0.2f, d, m, q);
  out.d = d;
  out.m = m;
  pack_nibbles(q, out.qs);
}

inline void encode_q5_1(const float* x, const float* w, BlockQ5_1& out) {
  uint8_t q[32];
  uint16_t d, m;
  encode_affine(x, w, 31, 0.1f, d, m, q);
  out.d = d;
  out.m = m;
  pack_nibbles(q, out.qs);
  pack_fifth_bits(q, out.qh);
}

inline void encode_iq4_nl(const float* x, const float* w, BlockIQ4_NL& out) {
  const float d = block_scale(x, w, 32, TableGrid(kIq4Values, 16), 90, 155, 40);
  out.d = to_half(d);
  const float inverse = d == 0 ? 0 : 1 / d;
  uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(nearest_index(kIq4Values, 16, x[i] * inverse));
  pack_nibbles(q, out.qs);
}

/// Values of kMxfp4Values, ascending; index i of it is nibble 15 - i below zero, i - 7 above.
inline constexpr int8_t kMxfp4Ascending[15] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};

inline void encode_mxfp4(const float* x, const float* w, BlockMXFP4& out) {
  float peak = 0;
  for (int i = 0; i < 32; ++i) peak = std::fabs(x[i]) > peak ? std::fabs(x[i]) : peak;
  int exponent = 0;
  std::frexp(peak, &exponent);  // peak < 2^exponent; 12 * 2^(e - 128) should be about that
  float scales[8];
  int codes[8];
  for (int k = 0; k < 8; ++k) {
    const int e = 128 + exponent - 6 + k;
    codes[k] = peak == 0 || e < 0 ? 0 : e > 254 ? 254 : e;
    scales[k] = mxfp4_scale(static_cast<uint8_t>(codes[k]));
  }
  ScaleTrial trial;
  try_scales(x, w, 32, scales, TableGrid(kMxfp4Ascending, 15), trial);
  int best = 0;
  for (int k = 1; k < 8; ++k) best = trial.error[k] < trial.error[best] ? k : best;
  out.e = static_cast<uint8_t>(codes[best]);
  const float inverse = peak == 0 ? 0 : 1 / scales[best];
  uint8_t q[32];
  for (int i = 0; i < 32; ++i) {
    const int index = nearest_index(kMxfp4Ascending, 15, x[i] * inverse);
    q[i] = static_cast<uint8_t>(index < 7 ? 15 - index : index - 7);
  }
  pack_nibbles(q, out.qs);
}

// The K types with scales alone: Q3_K, Q6_K, IQ4_XS.

struct SubScales {
  uint16_t d = 0;
  int scale[16] = {};
};

/// d and the sub-blocks' whole-numbered scales in [low, high]. The free scales are searched first, then d so that its
/// multiples suit them, then, with d fixed, the scale of each sub-block among its neighbours by the error itself, and
/// d once more by least squares over the block.
template <typename Grid>
SubScales search_sub_scales(const float* x, const float* w, int sub, const Grid& grid, float t_low, float t_high,
                            int count, int low, int high) {
  const int groups = 256 / sub;
  float s[16], h[16];
  for (int j = 0; j < groups; ++j) {
    const Scale free = search_scale(x + j * sub, w + j * sub, sub, grid, t_low, t_high, count, true);
    s[j] = free.s;
    h[j] = free.curvature;
  }
  const auto top = static_cast<float>(-low);
  const Scale start = search_scale(s, h, groups, UniformGrid(low, high), 0.8f * top, 1.15f * top, 32, true);
  SubScales best;
  if (start.s == 0) return best;
  float best_error = 0;
  for (int i = 0; i < 256; ++i) best_error += w[i] * x[i] * x[i];
  float d = start.s;
  for (int round = 0; round < 3; ++round) {
    SubScales trial_scales;
    trial_scales.d = to_half(d);
    d = half_float(trial_scales.d);
    if (d == 0) break;
    float error = 0, gradient = 0, curvature = 0;
    for (int j = 0; j < groups; ++j) {
      const int centre = nearest_int((round == 0 ? s[j] / d : static_cast<float>(best.scale[j])), low, high);
      float scales[8];
      int codes[8];
      for (int k = 0; k < 8; ++k) {
        const int code = centre + k - 4;
        codes[k] = code < low ? low : code > high ? high : code;
        scales[k] = d * static_cast<float>(codes[k]);
        if (codes[k] == 0)
          scales[k] = 1e-37f;  // everything but the smallest values is cut: never chosen unless all are 0
      }
      ScaleTrial trial;
      try_scales(x + j * sub, w + j * sub, sub, scales, grid, trial);
      int k_best = 0;
      for (int k = 1; k < 8; ++k) k_best = trial.error[k] < trial.error[k_best] ? k : k_best;
      const auto code = static_cast<float>(codes[k_best]);
      trial_scales.scale[j] = codes[k_best];
      error += trial.error[k_best];
      gradient += code * trial.gradient[k_best];
      curvature += code * code * trial.curvature[k_best];
    }
    if (!(error < best_error)) break;
    best_error = error;
    best = trial_scales;
    if (curvature > 0) d += gradient / curvature;
  }
  return best;
}

inline void pack_two_bits(const uint8_t* q, uint8_t* qs) {
  for (int i = 0; i < 64; ++i) {
    const uint8_t* from = q + i / 32 * 128 + i % 32;
    qs[i] = static_cast<uint8_t>((from[0] & 3) | (from[32] & 3) << 2 | (from[64] & 3) << 4 | (from[96] & 3) << 6);
  }
}

inline void encode_q3_k(const float* x, const float* w, BlockQ3_K& out) {
  const SubScales found = search_sub_scales(x, w, 16, UniformGrid(-4, 3), 2.2f, 5.0f, 24, -32, 31);
  out = {};
  out.d = found.d;
  uint8_t q[256];
  for (int s = 0; s < 16; ++s) {
    const float scale = half_float(found.d) * static_cast<float>(found.scale[s]),
                inverse = scale == 0 ? 0 : 1 / scale;
    for (int i = 16 * s; i < 16 * s + 16; ++i) q[i] = static_cast<uint8_t>(nearest_int(x[i] * inverse, -4, 3) + 4);
    const int code = found.scale[s] + 32;
    out.scales[s % 8] = static_cast<uint8_t>(out.scales[s % 8] | (code & 15) << (s / 8 * 4));
    out.scales[8 + s % 4] = static_cast<uint8_t>(out.scales[8 + s % 4] | (code >> 4) << (s / 4 * 2));
  }
  for (int i = 0; i < 256; ++i) out.hmask[i % 32] = static_cast<uint8_t>(out.hmask[i % 32] | (q[i] >> 2) << (i / 32));
  pack_two_bits(q, out.qs);
}

inline void encode_q6_k(const float* x, const float* w, BlockQ6_K& out) {
  const SubScales found = search_sub_scales(x, w, 16, UniformGrid(-32, 31), 26, 34, 24, -128, 127);
  out = {};
  out.d = found.d;
  for (int i = 0; i < 256; ++i) {
    const float scale = half_float(found.d) * static_cast<float>(found.scale[i / 16]);
    const int q = nearest_int(scale == 0 ? 0 : x[i] * (1 / scale), -32, 31) + 32;
    const int half = i / 128, r = i % 128;
    uint8_t &low = out.ql[64 * half + r % 64], &high = out.qh[32 * half + r % 32];
    low = static_cast<uint8_t>(low | (q & 15) << (r / 64 * 4));
    high = static_cast<uint8_t>(high | (q >> 4) << (r / 32 * 2));
  }
  for (int s = 0; s < 16; ++s) out.scales[s] = static_cast<int8_t>(found.scale[s]);
}

inline void encode_iq4_xs(const float* x, const float* w, BlockIQ4_XS& out) {
  const SubScales found = search_sub_scales(x, w, 32, TableGrid(kIq4Values, 16), 90, 155, 32, -32, 31);
  out = {};
  out.d = found.d;
  for (int s = 0; s < 8; ++s) {
    const float scale = half_float(found.d) * static_cast<float>(found.scale[s]),
                inverse = scale == 0 ? 0 : 1 / scale;
    uint8_t q[32];
    for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(nearest_index(kIq4Values, 16, x[32 * s + i] * inverse));
    pack_nibbles(q, out.qs + 16 * s);
    const int code = found.scale[s] + 32;
    out.scales_l[s / 2] = static_cast<uint8_t>(out.scales_l[s / 2] | (code & 15) << (s % 2 * 4));
    out.scales_h = static_cast<uint16_t>(out.scales_h | (code >> 4) << (2 * s));
  }
}

// The K types with minima: Q2_K, Q4_K, Q5_K.

struct SubAffine {
  uint16_t d = 0, dmin = 0;
  int scale[16] = {}, min[16] = {};
};

/// As search_sub_scales, with a minimum: x' = d scale q - dmin min; scale and min in 0..code_top. For each
/// neighbouring scale the minimum that suits it is tried, and its neighbours.
inline SubAffine search_sub_affine(const float* x, const float* w, int sub, float top, float cut, int cuts,
                                   int code_top) {
  const int groups = 256 / sub;
  const auto codes_top = static_cast<float>(code_top);
  float s[16], m[16], s_weight[16], sum_w[16];
  for (int j = 0; j < groups; ++j) {
    const Affine free = search_affine(x + j * sub, w + j * sub, sub, top, cut, cuts, true);
    s[j] = free.s;
    m[j] = -free.b;
    s_weight[j] = free.scale_weight;
    sum_w[j] = 0;
    for (int i = j * sub; i < (j + 1) * sub; ++i) sum_w[j] += w[i];
  }
  const UniformGrid codes(0, code_top);
  float d = search_scale(s, s_weight, groups, codes, 0.75f * codes_top, 1.15f * codes_top, 24, false).s;
  float dmin = search_scale(m, sum_w, groups, codes, 0.75f * codes_top, 1.15f * codes_top, 24, false).s;
  SubAffine best;
  float best_error = 0;
  for (int i = 0; i < 256; ++i) best_error += w[i] * x[i] * x[i];
  for (int round = 0; round < 3; ++round) {
    SubAffine found;
    found.d = to_half(d);
    found.dmin = to_half(dmin);
    d = half_float(found.d);
    dmin = half_float(found.dmin);
    const float inverse_min = dmin == 0 ? 0 : 1 / dmin;
    double error = 0, a = 0, b = 0, c = 0, ga = 0, gb = 0;  // of the least-squares step for d and dmin
    for (int j = 0; j < groups; ++j) {
      const float* xj = x + j * sub;
      const float* wj = w + j * sub;
      const int centre = d == 0 ? 0 : round == 0 ? nearest_int(s[j] / d, 0, code_top) : best.scale[j];
      float scales[8], offsets[8], kept = -1;
      int codes_s[8], codes_m[8];
      const float middle = s[j] > 0 ? (0.5f * top) : 0;  // the value in the middle of the range stays as s changes
      for (int k = 0; k < 8; ++k) {
        const int code = centre + k - 4;
        codes_s[k] = code < 0 ? 0 : code > code_top ? code_top : code;
        scales[k] = codes_s[k] == 0 ? 1e-37f : d * static_cast<float>(codes_s[k]);
        codes_m[k] = nearest_int((m[j] + middle * (scales[k] - s[j])) * inverse_min, 0, code_top);
        offsets[k] = -dmin * static_cast<float>(codes_m[k]);
      }
      AffineTrial trial;
      float wrq = 0, wr = 0, wqq = 0, wq = 0;
      for (int pass = 0; pass < 3; ++pass) {
        try_affine(xj, wj, sub, scales, offsets, top, trial);
        for (int k = 0; k < 8; ++k) {
          if (kept < 0 || trial.error[k] < kept) {
            kept = trial.error[k];
            found.scale[j] = codes_s[k];
            found.min[j] = codes_m[k];
            wrq = trial.wrq[k], wr = trial.wr[k], wqq = trial.wqq[k], wq = trial.wq[k];
          }
        }
        if (pass == 0) {  // the minimum that suits each scale
          for (int k = 0; k < 8; ++k) {
            codes_m[k] = nearest_int((trial.wr[k] / sum_w[j] + offsets[k]) * -inverse_min, 0, code_top);
            offsets[k] = -dmin * static_cast<float>(codes_m[k]);
          }
        } else if (pass == 1) {  // all neighbours of the best pair
          static constexpr int kAround[8][2] = {{1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, -1}, {1, -1}, {-1, 1}};
          const int scale = found.scale[j], min = found.min[j];
          for (int k = 0; k < 8; ++k) {
            const int to_s = scale + kAround[k][0], to_m = min + kAround[k][1];
            codes_s[k] = to_s < 0 ? 0 : to_s > code_top ? code_top : to_s;
            codes_m[k] = to_m < 0 ? 0 : to_m > code_top ? code_top : to_m;
            scales[k] = codes_s[k] == 0 ? 1e-37f : d * static_cast<float>(codes_s[k]);
            offsets[k] = -dmin * static_cast<float>(codes_m[k]);
          }
        }
      }
      error += kept;
      const double scale = found.scale[j], min = found.min[j];
      a += scale * scale * wqq;
      b -= scale * min * wq;
      c += min * min * sum_w[j];
      ga += scale * wrq;
      gb -= min * wr;
    }
    if (!(error < best_error)) break;
    best_error = static_cast<float>(error);
    best = found;
    const double det = a * c - b * b;
    if (det > 1e-9 * a * c) {
      d += static_cast<float>((ga * c - gb * b) / det);
      dmin += static_cast<float>((gb * a - ga * b) / det);
    } else if (a > 0) {
      d += static_cast<float>(ga / a);
    } else {
      break;
    }
  }
  return best;
}

/// The numbers of a sub-block for its final scale and minimum.
inline void affine_codes(const float* x, int n, float scale, float min, int top, uint8_t* q) {
  const float inverse = scale == 0 ? 0 : 1 / scale;
  for (int i = 0; i < n; ++i) q[i] = static_cast<uint8_t>(nearest_int((x[i] + min) * inverse, 0, top));
}

inline void encode_q2_k(const float* x, const float* w, BlockQ2_K& out) {
  const SubAffine found = search_sub_affine(x, w, 16, 3, 0.4f, 8, 15);
  out.d = found.d;
  out.dmin = found.dmin;
  uint8_t q[256];
  for (int s = 0; s < 16; ++s) {
    out.scales[s] = static_cast<uint8_t>(found.scale[s] | found.min[s] << 4);
    affine_codes(x + 16 * s, 16, half_float(found.d) * static_cast<float>(found.scale[s]),
                 half_float(found.dmin) * static_cast<float>(found.min[s]), 3, q + 16 * s);
  }
  pack_two_bits(q, out.qs);
}

/// The inverse of k4_scale.
inline void pack_k4_scales(const SubAffine& found, uint8_t* scales) {
  for (int s = 0; s < 4; ++s) {
    scales[s] = static_cast<uint8_t>(found.scale[s] | found.scale[s + 4] >> 4 << 6);
    scales[s + 4] = static_cast<uint8_t>(found.min[s] | found.min[s + 4] >> 4 << 6);
    scales[s + 8] = static_cast<uint8_t>((found.scale[s + 4] & 15) | (found.min[s + 4] & 15) << 4);
  }
}

inline void encode_q4_k(const float* x, const float* w, BlockQ4_K& out) {
  const SubAffine found = search_sub_affine(x, w, 32, 15, 0.2f, 8, 63);
  out.d = found.d;
  out.dmin = found.dmin;
  pack_k4_scales(found, out.scales);
  for (int s = 0; s < 8; ++s) {
    uint8_t q[32];
    affine_codes(x + 32 * s, 32, half_float(found.d) * static_cast<float>(found.scale[s]),
                 half_float(found.dmin) * static_cast<float>(found.min[s]), 15, q);
    uint8_t* qs = out.qs + s / 2 * 32;
    for (int i = 0; i < 32; ++i) qs[i] = static_cast<uint8_t>(s % 2 == 0 ? q[i] : qs[i] | q[i] << 4);
  }
}

inline void encode_q5_k(const float* x, const float* w, BlockQ5_K& out) {
  const SubAffine found = search_sub_affine(x, w, 32, 31, 0.1f, 8, 63);
  out = {};
  out.d = found.d;
  out.dmin = found.dmin;
  pack_k4_scales(found, out.scales);
  for (int s = 0; s < 8; ++s) {
    uint8_t q[32];
    affine_codes(x + 32 * s, 32, half_float(found.d) * static_cast<float>(found.scale[s]),
                 half_float(found.dmin) * static_cast<float>(found.min[s]), 31, q);
    uint8_t* qs = out.qs + s / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      qs[i] = static_cast<uint8_t>(qs[i] | (q[i] & 15) << (s % 2 * 4));
      out.qh[i] = static_cast<uint8_t>(out.qh[i] | (q[i] >> 4) << s);
    }
  }
}

/// Weights of one block: importance, kept off zero so that columns no calibration token reached still count a little.
inline void block_weights(const float* importance, int n, float* w) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += importance[i];
  const float mean = sum / static_cast<float>(n);
  if (!(mean > 0)) {
    for (int i = 0; i < n; ++i) w[i] = 1;
    return;
  }
  const float scale = 1 / mean;
  for (int i = 0; i < n; ++i) {
    const float relative = importance[i] * scale;
    w[i] = relative > 1e-3f ? relative : 1e-3f;
  }
}

template <typename Block, typename Encode>
void encode_rows(const float* x, int64_t count, const float* importance, std::byte* out, int n, Encode encode_one) {
  float w[256];
  for (int i = 0; i < n; ++i) w[i] = 1;
  for (int64_t i = 0; i < count; i += n, out += sizeof(Block)) {
    if (importance != nullptr) block_weights(importance + i, n, w);
    Block block;
    encode_one(x + i, w, block);
    std::memcpy(out, &block, sizeof block);
  }
}

void encode_blocks(DType dtype, const float* x, int64_t count, const float* importance, std::byte* out) {
  switch (dtype) {
    case DType::kQ8_0:
      return encode_rows<BlockQ8_0>(x, count, importance, out, 32, encode_q8_0);
    case DType::kQ4_0:
      return encode_rows<BlockQ4_0>(x, count, importance, out, 32, encode_q4_0);
    case DType::kQ4_1:
      return encode_rows<BlockQ4_1>(x, count, importance, out, 32, encode_q4_1);
    case DType::kQ5_0:
      return encode_rows<BlockQ5_0>(x, count, importance, out, 32, encode_q5_0);
    case DType::kQ5_1:
      return encode_rows<BlockQ5_1>(x, count, importance, out, 32, encode_q5_1);
    case DType::kIQ4_NL:
      return encode_rows<BlockIQ4_NL>(x, count, importance, out, 32, encode_iq4_nl);
    case DType::kMXFP4:
      return encode_rows<BlockMXFP4>(x, count, importance, out, 32, encode_mxfp4);
    case DType::kQ2_K:
      return encode_rows<BlockQ2_K>(x, count, importance, out, 256, encode_q2_k);
    case DType::kQ3_K:
      return encode_rows<BlockQ3_K>(x, count, importance, out, 256, encode_q3_k);
    case DType::kQ4_K:
      return encode_rows<BlockQ4_K>(x, count, importance, out, 256, encode_q4_k);
    case DType::kQ5_K:
      return encode_rows<BlockQ5_K>(x, count, importance, out, 256, encode_q5_k);
    case DType::kQ6_K:
      return encode_rows<BlockQ6_K>(x, count, importance, out, 256, encode_q6_k);
    case DType::kIQ4_XS:
      return encode_rows<BlockIQ4_XS>(x, count, importance, out, 256, encode_iq4_xs);
    default:
      return;
  }
}
