// Part of gemm.inl: an expert's SwiGLU for some of its entries.
//
// An expert has few rows, so that packing its weights would cost as much as the products. Here vectors run over
// entries: activations are turned once into panels [features][kCols entries], weights are read element by element
// where they are, and the result of one product is the panel that the next one needs.

namespace gemm {

inline constexpr int64_t kExpertEntries = 128;

/// silu(x) and its derivative.
struct SiluGradient {
  Vec value, slope;
  explicit SiluGradient(Vec x) {
    const Vec s = sigmoid(x), one = Vec::set(1.0f);
    value = x * s;
    slope = s * Vec::fma(x, one - s, one);
  }
};

/// Whole vectors of entries: packing repeats an entry in the lanes that are left over, so that they hold ordinary
/// numbers.
inline int64_t whole_lanes(int64_t entries) { return (entries + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes; }

/// to(i)[f] = from[f * ld + i] for `features` lines of n.
template <typename To>
inline void turn_lines(const float* from, int64_t ld, int64_t features, int64_t n, To&& to) {
  for (int64_t i = 0; i < n; i += kSquare) {
    float* rows[kSquare];
    for (int r = 0; r < kSquare; ++r) rows[r] = i + r < n ? to(i + r) : nullptr;
    int64_t f = 0;
    if (i + kSquare <= n) {
      for (; f + kSquare <= features; f += kSquare) {
        const float* in[kSquare];
        QNEXT_UNROLL
        for (int k = 0; k < kSquare; ++k) in[k] = from + (f + k) * ld + i;
        transpose_square(in, 0, rows, f);
      }
    }
    for (int r = 0; r < kSquare && i + r < n; ++r) {
      for (int64_t k = f; k < features; ++k) rows[r][k] = from[k * ld + i + r];
    }
  }
}

/// Back from panels of entries, [features][kCols] each, to rows, `to(i)` being the row of entry i.
template <typename To>
inline void rows_of_panels(const float* panels_of, int64_t features, int64_t entries, To&& to) {
  for (int64_t i = 0; i < entries; i += kCols) {
    turn_lines(panels_of + i * features, kCols, features, entries - i < kCols ? entries - i : kCols,
               [&](int64_t n) { return to(i + n); });
  }
}

inline int64_t packed_floats(int64_t lines, int64_t tile, int64_t inner) {
  return ((lines + tile - 1) / tile * tile * inner + kSlack + 15) / 16 * 16;
}

/// The scratch of an expert, cut up.
struct ExpertScratch {
  float *x, *y, *g, *u, *h;           // panels of entries
  float *x_rows, *d_y_rows, *h_rows;  // panels of features
  float *d_g_rows, *d_u_rows;         // [entries][F]
  float* temp;
  int64_t floats;
  ExpertScratch(float* memory, int64_t inner, int64_t width) {
    floats = 0;
    const auto take = [&](int64_t count) {
      float* at = memory == nullptr ? nullptr : memory + floats;
      floats += (count + 15) / 16 * 16;
      return at;
    };
    const int64_t entries = (kExpertEntries + kCols - 1) / kCols * kCols;
    x = take(entries * width + kSlack);
    y = take(entries * width + kSlack);
    g = take(entries * inner);
    u = take(entries * inner);
    h = take(entries * inner);
    x_rows = take(packed_floats(width, kCols, kExpertEntries));
    d_y_rows = take(packed_floats(width, kRows, kExpertEntries));
    h_rows = take(packed_floats(inner, kCols, kExpertEntries));
    d_g_rows = take(kExpertEntries * inner);
    d_u_rows = take(kExpertEntries * inner);
    temp = take(kTempFloats);
  }
};

int64_t expert_scratch(int64_t inner, int64_t width) { return ExpertScratch(nullptr, inner, width).floats; }

/// g, u = gate x, up x, as panels of entries.
inline void expert_inner(const ExpertWeights& w, const ExpertEntries& e, Rows x, const ExpertScratch& s) {
  // A column of the product is a row of x, an inner index a feature.
  pack<kCols>({.data = x.data, .stride = x.stride, .index = e.row}, 0, e.count, 0, w.width, s.x, s.temp);
  const int64_t x_panel = kCols * w.width, h_panel = kCols * w.inner, n = whole_lanes(e.count);
  long_block(strided(w.gate, w.width, 1), s.x, x_panel, w.inner, n, w.width, {s.g, kCols, h_panel, nullptr}, true);
  long_block(strided(w.up, w.width, 1), s.x, x_panel, w.inner, n, w.width, {s.u, kCols, h_panel, nullptr}, true);
}

/// Calls body(offset, first entry) over the vectors of panels of `inner` rows.
template <typename Body>
inline void for_entries(int64_t inner, int64_t entries, Body&& body) {
  for (int64_t i = 0; i < entries; i += Vec::kLanes) body(i / kCols * kCols * inner + i % kCols, i);
}

void expert(const ExpertWeights& w, const ExpertEntries& e, Rows x, Rows out, float* scratch) {
  const ExpertScratch s(scratch, w.inner, w.width);
  expert_inner(w, e, x, s);
  for_entries(w.inner, e.count, [&](int64_t at, int64_t) {
    for (int64_t f = 0; f < w.inner; ++f) {
      float* g = s.g + at + f * kCols;
      (silu(Vec::load(g)) * Vec::load(s.u + at + f * kCols)).store(g);
    }
  });
  const int64_t x_panel = kCols * w.width, h_panel = kCols * w.inner, n = whole_lanes(e.count);
  long_block(strided(w.down, w.inner, 1), s.g, h_panel, w.width, n, w.inner, {s.y, kCols, x_panel, nullptr}, true);
  rows_of_panels(s.y, w.width, e.count, [&](int64_t i) { return out.row(e.entry[i]); });
}

void expert_backward(const ExpertWeights& w, const ExpertEntries& e, Rows x, const float* factors, Rows d_y, Rows d_x,
                     float* d_factors, const ExpertGradient& d_expert, float* scratch) {
  const ExpertScratch s(scratch, w.inner, w.width);
  const int64_t x_panel = kCols * w.width, h_panel = kCols * w.inner, n = whole_lanes(e.count);
  expert_inner(w, e, x, s);
  // h := downᵀ d_y, the gradient of h for a factor of 1.
  pack<kCols>({.data = d_y.data, .stride = d_y.stride, .index = e.row}, 0, e.count, 0, w.width, s.y, s.temp);
  long_block(strided(w.down, 1, w.inner), s.y, x_panel, w.inner, n, w.width, {s.h, kCols, h_panel, nullptr}, true);
  for_entries(w.inner, e.count, [&](int64_t at, int64_t first) {
    const int64_t lanes = e.count - first < Vec::kLanes ? e.count - first : Vec::kLanes;
    float factor_of[Vec::kLanes] = {}, d_factor[Vec::kLanes];
    for (int64_t i = 0; i < lanes; ++i) factor_of[i] = factors[e.entry[first + i]];
    const Vec factor = Vec::load(factor_of);
    Vec sum = Vec::zero();
    for (int64_t f = 0; f < w.inner; ++f) {
      float *g = s.g + at + f * kCols, *u = s.u + at + f * kCols, *h = s.h + at + f * kCols;
      const Vec up = Vec::load(u), d_h = Vec::load(h);
      const SiluGradient silu_of(Vec::load(g));
      const Vec value = silu_of.value * up, scaled = factor * d_h;
      sum = Vec::fma(d_h, value, sum);
      (scaled * up * silu_of.slope).store(g);
      (scaled * silu_of.value).store(u);
      (factor * value).store(h);
    }
    sum.store(d_factor);
    for (int64_t i = 0; i < lanes; ++i) d_factors[e.entry[first + i]] = d_factor[i];
  });
  const auto rows_at = [&](float* to) { return [to, &w](int64_t i) { return to + i * w.inner; }; };
  if (d_expert.down != nullptr) {  // += (d_y)ᵀ h, inner index the entry
    rows_of_panels(s.h, w.inner, e.count, rows_at(s.d_g_rows));
    pack<kCols>({.data = s.d_g_rows, .stride = w.inner, .inner_lines = true}, 0, w.inner, 0, e.count, s.h_rows,
                s.temp);
    pack<kRows>({.data = d_y.data, .stride = d_y.stride, .index = e.row, .inner_lines = true}, 0, w.width, 0, e.count,
                s.d_y_rows, s.temp);
    block(panels(s.d_y_rows, e.count), s.h_rows, kCols * e.count, w.width, w.inner, e.count,
          {d_expert.down, w.inner, kCols, nullptr}, false);
  }
  if (d_expert.gate != nullptr || d_expert.up != nullptr) {
    pack<kCols>({.data = x.data, .stride = x.stride, .index = e.row, .inner_lines = true}, 0, w.width, 0, e.count,
                s.x_rows, s.temp);
    const auto gradient = [&](const float* d_panels, float* rows, float* to) {
      if (to == nullptr) return;
      rows_of_panels(d_panels, w.inner, e.count, rows_at(rows));
      block(strided(rows, 1, w.inner), s.x_rows, kCols * e.count, w.inner, w.width, e.count,
            {to, w.width, kCols, nullptr}, false);
    };
    gradient(s.g, s.d_g_rows, d_expert.gate);
    gradient(s.u, s.d_u_rows, d_expert.up);
  }
  if (d_x.rows == 0) return;
  long_block(strided(w.gate, 1, w.width), s.g, h_panel, w.width, n, w.inner, {s.y, kCols, x_panel, nullptr}, true);
  long_block(strided(w.up, 1, w.width), s.u, h_panel, w.width, n, w.inner, {s.y, kCols, x_panel, nullptr}, false);
  rows_of_panels(s.y, w.width, e.count, [&](int64_t i) { return d_x.row(e.entry[i]); });
}

}  // namespace gemm
