// Included inside a target region and namespace by kernels_<isa>.cc, once for each instruction set, after every standard
// header (a standard template first instantiated inside a target region would leak its instructions into the whole
// program). QNEXT_ISA_WIDTH is 1, 8 or 16 floats. Deliberately without an include guard.
//
// Vec is a vector of floats. Its operators are not friends: g++ 12 gives friends defined in a class no target options.
// Vec::partial_load(p, n) reads n < kLanes floats and zeroes the rest; Vec::fma rounds once, except in the scalar set.

// Before the loops over a tile of registers: at -O2 g++ leaves loops of constant length as they are, and a tile that is
// indexed in a loop lives in memory, at a third of the speed.
#if !defined(QNEXT_UNROLL)
#if defined(__clang__)
#define QNEXT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define QNEXT_UNROLL _Pragma("GCC unroll 32")
#endif
#endif

#if QNEXT_ISA_WIDTH == 16

struct Vec {
  static constexpr int64_t kLanes = 16;
  __m512 v;
  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec set(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec partial_load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(mask(n), p)}; }
  static Vec load_bf16(const uint16_t* p) { return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static Vec load_i8(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  static Vec load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  /// E4M3 -> f16 by moving the bits (the exponent is then 8 too small, the multiplication mends that exactly), NaN kept.
  static Vec load_f8(const uint8_t* p) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x7F));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    const __m256i nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7F));
    const __m256i half = _mm256_or_si256(_mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7)),
                                         _mm256_and_si256(nan, _mm256_set1_epi16(0x7FFF)));
    return {_mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void partial_store(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, mask(n), v); }
  /// Fixed order: halves are added onto each other until one lane is left.
  float sum() const {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  float max() const { return _mm512_reduce_max_ps(v); }
  /// The second operand when either is NaN, as the instruction does.
  static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  /// As it would be after a store.
  Vec rounded() const { return *this; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  /// x * 2^n for whole n.
  static Vec scale2(Vec x, Vec n) { return {_mm512_scalef_ps(x.v, n.v)}; }
  /// out[m] = p[4 * lane + m].
  static void load_by_4(const float* p, Vec out[4]) {
    const __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16), c = _mm512_loadu_ps(p + 32), d = _mm512_loadu_ps(p + 48);
    __m512i index = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    QNEXT_UNROLL
    for (int m = 0; m < 4; ++m) {
      const __m512 low = _mm512_permutex2var_ps(a, index, b), high = _mm512_permutex2var_ps(c, index, d);
      out[m] = {_mm512_insertf32x8(low, _mm512_castps512_ps256(high), 1)};
      index = _mm512_add_epi32(index, _mm512_set1_epi32(1));
    }
  }

 private:
  static __mmask16 mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
  static Vec from_bf16(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
};
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }

#elif QNEXT_ISA_WIDTH == 8

struct Vec {
  static constexpr int64_t kLanes = 8;
  __m256 v;
  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec set(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec partial_load(const float* p, int64_t n) { return {_mm256_maskload_ps(p, mask(n))}; }
  static Vec load_bf16(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  static Vec load_i8(const int8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  }
  static Vec load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  /// As the AVX-512 form.
  static Vec load_f8(const uint8_t* p) {
    const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7F));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(wide, _mm_set1_epi16(0x80)), 8);
    const __m128i nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7F));
    const __m128i half = _mm_or_si128(_mm_or_si128(sign, _mm_slli_epi16(magnitude, 7)),
                                      _mm_and_si128(nan, _mm_set1_epi16(0x7FFF)));
    return {_mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void partial_store(float* p, int64_t n) const { _mm256_maskstore_ps(p, mask(n), v); }
  float sum() const {
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  float max() const {
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }
  static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
  static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  Vec rounded() const { return *this; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
  /// x * 2^n in two steps, so that n from -252 to 254 neither over- nor underflows in between.
  static Vec scale2(Vec x, Vec n) {
    const __m256i whole = _mm256_cvtps_epi32(n.v);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    const __m256i rest = _mm256_sub_epi32(whole, half);
    return {_mm256_mul_ps(_mm256_mul_ps(x.v, power2(half).v), power2(rest).v)};
  }
  static void load_by_4(const float* p, Vec out[4]) {
    const auto two = [&](int i) {
      return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 4 * i)), _mm_loadu_ps(p + 4 * i + 16), 1);
    };
    const __m256 a = two(0), b = two(1), c = two(2), d = two(3);
    const __m256 ab = _mm256_unpacklo_ps(a, b), cd = _mm256_unpacklo_ps(c, d);
    const __m256 ab_high = _mm256_unpackhi_ps(a, b), cd_high = _mm256_unpackhi_ps(c, d);
    out[0] = {_mm256_shuffle_ps(ab, cd, 0x44)};
    out[1] = {_mm256_shuffle_ps(ab, cd, 0xEE)};
    out[2] = {_mm256_shuffle_ps(ab_high, cd_high, 0x44)};
    out[3] = {_mm256_shuffle_ps(ab_high, cd_high, 0xEE)};
  }

 private:
  static __m256i mask(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vec power2(__m256i n) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23))};
  }
};
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }

#else

// One number, in double: what a kernel computes between its loads and its stores is rounded to f32 once. The gradients of
// this set are close enough to exact ones to be checked against them.
struct Vec {
  static constexpr int64_t kLanes = 1;
  double v;
  static Vec zero() { return {0.0}; }
  static Vec set(float x) { return {x}; }
  static Vec load(const float* p) { return {*p}; }
  static Vec partial_load(const float*, int64_t) { return {0.0}; }
  static Vec load_bf16(const uint16_t* p) { return {bf16_to_f32(*p)}; }
  static Vec load_i8(const int8_t* p) { return {static_cast<double>(*p)}; }
  static Vec load_f16(const uint16_t* p) { return {f16_to_f32(*p)}; }
  static Vec load_f8(const uint8_t* p) { return {f8e4m3_to_f32(*p)}; }
  void store(float* p) const { *p = static_cast<float>(v); }
  void partial_store(float*, int64_t) const {}
  float sum() const { return static_cast<float>(v); }
  float max() const { return static_cast<float>(v); }
  static Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
  static Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  static void load_by_4(const float* p, Vec out[4]) {
    for (int m = 0; m < 4; ++m) out[m] = {p[m]};
  }
  Vec rounded() const { return {static_cast<float>(v)}; }
};
inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }

#endif

#if QNEXT_ISA_WIDTH == 1
inline Vec exp(Vec x) { return {std::exp(x.v)}; }
#else
/// e^x, relative error below 2e-7 (subnormal results have fewer bits); 0 below -104, infinity above 88.72, NaN of NaN.
/// Cody-Waite reduction to |r| <= ln(2)/2, then a degree-6 polynomial (Cephes expf).
inline Vec exp(Vec x) {
  const Vec clamped = Vec::max(Vec::set(-104.0f), Vec::min(Vec::set(89.0f), x));  // min and max keep a NaN second
  const Vec n = Vec::round(clamped * Vec::set(1.44269504088896341f));
  Vec r = Vec::fma(n, Vec::set(-0.693359375f), clamped);
  r = Vec::fma(n, Vec::set(2.12194440e-4f), r);
  Vec p = Vec::set(1.9875691500e-4f);
  p = Vec::fma(p, r, Vec::set(1.3981999507e-3f));
  p = Vec::fma(p, r, Vec::set(8.3334519073e-3f));
  p = Vec::fma(p, r, Vec::set(4.1665795894e-2f));
  p = Vec::fma(p, r, Vec::set(1.6666665459e-1f));
  p = Vec::fma(p, r, Vec::set(5.0000001201e-1f));
  p = Vec::fma(p, r * r, r) + Vec::set(1.0f);
  return Vec::scale2(p, n);
}
#endif
inline Vec sigmoid(Vec x) { return Vec::set(1.0f) / (Vec::set(1.0f) + exp(Vec::zero() - x)); }
inline Vec silu(Vec x) { return x / (Vec::set(1.0f) + exp(Vec::zero() - x)); }

/// Calls body(offset, lanes) over [0, n): whole vectors, then one partial vector.
template <typename Body>
inline void for_lanes(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) body(i, Vec::kLanes);
  if (i < n) body(i, n - i);
}
inline Vec load_lanes(const float* p, int64_t n) { return n == Vec::kLanes ? Vec::load(p) : Vec::partial_load(p, n); }
inline void store_lanes(Vec x, float* p, int64_t n) {
  if (n == Vec::kLanes) {
    x.store(p);
  } else {
    x.partial_store(p, n);
  }
}
