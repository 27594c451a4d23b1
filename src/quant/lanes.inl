// Included inside a target region and namespace, once for each instruction set, after every standard header
// (src/quant/encode_scalar.cc and encode_avx2.cc). Deliberately without an include guard.
//
// Lanes: eight floats, each of one candidate of a search. No operation is fused or reordered, so both sets compute
// the same bits. min and max give their second operand when either is NaN.

#if QNEXT_QUANT_AVX2

struct Lanes {
  __m256 v;
  static Lanes set(float x) { return {_mm256_set1_ps(x)}; }
  static Lanes load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  static Lanes min(Lanes a, Lanes b) { return {_mm256_min_ps(a.v, b.v)}; }
  static Lanes max(Lanes a, Lanes b) { return {_mm256_max_ps(a.v, b.v)}; }
  /// `value` where a > b, else 0.
  static Lanes where_greater(Lanes a, Lanes b, Lanes value) {
    return {_mm256_and_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ), value.v)};
  }
};
inline Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm256_div_ps(a.v, b.v)}; }

#else

struct Lanes {
  __m128 low, high;
  static Lanes set(float x) { return {_mm_set1_ps(x), _mm_set1_ps(x)}; }
  static Lanes load(const float* p) { return {_mm_loadu_ps(p), _mm_loadu_ps(p + 4)}; }
  void store(float* p) const {
    _mm_storeu_ps(p, low);
    _mm_storeu_ps(p + 4, high);
  }
  static Lanes min(Lanes a, Lanes b) { return {_mm_min_ps(a.low, b.low), _mm_min_ps(a.high, b.high)}; }
  static Lanes max(Lanes a, Lanes b) { return {_mm_max_ps(a.low, b.low), _mm_max_ps(a.high, b.high)}; }
  static Lanes where_greater(Lanes a, Lanes b, Lanes value) {
    return {_mm_and_ps(_mm_cmpgt_ps(a.low, b.low), value.low), _mm_and_ps(_mm_cmpgt_ps(a.high, b.high), value.high)};
  }
};
inline Lanes operator+(Lanes a, Lanes b) { return {_mm_add_ps(a.low, b.low), _mm_add_ps(a.high, b.high)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm_sub_ps(a.low, b.low), _mm_sub_ps(a.high, b.high)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm_mul_ps(a.low, b.low), _mm_mul_ps(a.high, b.high)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm_div_ps(a.low, b.low), _mm_div_ps(a.high, b.high)}; }

#endif
