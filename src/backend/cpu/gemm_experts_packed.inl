// Part of gemm.inl: an expert's SwiGLU for some of its entries, with operands rounded to bf16.
//
// Rounding is a pass over the weights in any case, so here they are packed: a block at a time, straight from f32,
// each read once for all entries of the call. That pass costs about as much as the products of a few dozen entries by
// tiles, so a call takes more entries than one in f32 does. What makes it cheap is that weights are never transposed:
// where the inner dimension runs along their lines they are the left operand (the product then has a feature per row
// and an entry per column), where it runs across them the right one. The activations, which are few, are packed
// whole, and turned where the next product wants them the other way. Inner activations are f32 between their products
// and rounded when they are operands.

namespace gemm {

inline constexpr int64_t kPackedEntries = 256;

template <typename Panels>
struct PackedExpertScratch {
  using Element = typename Panels::Element;
  float *g, *u, *h;       // [F][ld] of entries
  float* wide;            // [D][ld], or [entries][F]
  Element *left, *right;  // activations as rows of a, as columns of b
  Element* weights;       // a block of either side
  float* temp;
  int64_t floats = 0;
  PackedExpertScratch(float* memory, int64_t inner, int64_t width) {
    const auto take = [&](int64_t count) {
      float* at = memory == nullptr ? nullptr : memory + floats;
      floats += (count + 15) / 16 * 16;
      return at;
    };
    const auto take_elements = [&](int64_t count) {
      return reinterpret_cast<Element*>(take(floats_of<Element>(count)));
    };
    const auto larger = [](int64_t a, int64_t b) { return a > b ? a : b; };
    const int64_t longer = larger(inner, width);
    g = take(inner * kPackedEntries);
    u = take(inner * kPackedEntries);
    h = take(inner * kPackedEntries);
    wide = take(longer * kPackedEntries);
    left = take_elements(Panels::row_elements(kPackedEntries, longer));
    right = take_elements(
        larger(Panels::col_elements(kPackedEntries, longer), Panels::col_elements(longer, kPackedEntries)));
    weights = take_elements(larger(Panels::row_elements(Panels::kBlockRows, Panels::kInnerBlock),
                                   Panels::col_elements(Panels::kBlockCols, Panels::kInnerBlock)));
    temp = take(Panels::kTemp);
  }
};

template <typename Panels>
int64_t packed_expert_scratch(int64_t inner, int64_t width) {
  return PackedExpertScratch<Panels>(nullptr, inner, width).floats;
}

/// One expert with some of its entries. A product is "operand times packed" or "packed times operand": the operand is
/// packed by blocks, the other side has been, whole.
template <typename Panels>
struct PackedExpert {
  using Scratch = PackedExpertScratch<Panels>;
  const ExpertWeights& w;
  const ExpertEntries& e;
  Scratch s;
  int64_t ld;  // of lines of entries

  PackedExpert(const ExpertWeights& weights, const ExpertEntries& entries, float* memory)
      : w(weights), e(entries), s(memory, weights.inner, weights.width), ld((entries.count + 15) / 16 * 16) {}

  GemmOperand rows(Rows x, bool inner_lines = false) const {
    return {.data = x.data, .stride = x.stride, .index = e.row, .inner_lines = inner_lines};
  }
  GemmOperand features(const float* data, bool inner_lines = false) const {
    return {.data = data, .stride = ld, .inner_lines = inner_lines};
  }

  void operand_times_packed(const GemmOperand& a, int64_t m, int64_t n, int64_t inner, float* c, int64_t ldc,
                            bool zero) const {
    for (int64_t i = 0; i < m; i += Panels::kBlockRows) {
      const int64_t count = m - i < Panels::kBlockRows ? m - i : Panels::kBlockRows;
      for (int64_t l = 0; l < inner; l += Panels::kInnerBlock) {
        const int64_t part = inner - l < Panels::kInnerBlock ? inner - l : Panels::kInnerBlock;
        Panels::pack_rows(a, i, count, l, part, s.weights, s.temp);
        Panels::block(s.weights, part, s.right + l * Panels::kColTile, inner, count, n, part,
                      {c + i * ldc, ldc, kCols, nullptr}, zero && l == 0);
      }
    }
  }
  void packed_times_operand(const GemmOperand& b, int64_t m, int64_t n, int64_t inner, float* c, int64_t ldc,
                            const int32_t* index, bool zero) const {
    for (int64_t j = 0; j < n; j += Panels::kBlockCols) {
      const int64_t count = n - j < Panels::kBlockCols ? n - j : Panels::kBlockCols;
      for (int64_t l = 0; l < inner; l += Panels::kInnerBlock) {
        const int64_t part = inner - l < Panels::kInnerBlock ? inner - l : Panels::kInnerBlock;
        Panels::pack_cols(b, j, count, l, part, s.weights, s.temp);
        Panels::block(s.left + l * Panels::kRowTile, inner, s.weights, part, m, count, part,
                      {c + j, ldc, kCols, index}, zero && l == 0);
      }
    }
  }

  /// g, u = gate x, up x.
  void gate_and_up(Rows x) const {
    Panels::pack_cols(rows(x), 0, e.count, 0, w.width, s.right, s.temp);
    operand_times_packed({.data = w.gate, .stride = w.width}, w.inner, e.count, w.width, s.g, ld, true);
    operand_times_packed({.data = w.up, .stride = w.width}, w.inner, e.count, w.width, s.u, ld, true);
  }

  void forward(Rows x, Rows out) const {
    gate_and_up(x);
    for (int64_t f = 0; f < w.inner; ++f) {
      for_lanes(e.count, [&](int64_t i, int64_t lanes) {
        float* g = s.g + f * ld + i;
        store_lanes(silu(load_lanes(g, lanes)) * load_lanes(s.u + f * ld + i, lanes), g, lanes);
      });
    }
    Panels::pack_cols(features(s.g, true), 0, e.count, 0, w.inner, s.right, s.temp);
    operand_times_packed({.data = w.down, .stride = w.inner}, w.width, e.count, w.inner, s.wide, ld, true);
    turn_lines(s.wide, ld, w.width, e.count, [&](int64_t i) { return out.row(e.entry[i]); });
  }

  void backward(Rows x, const float* factors, Rows d_y, Rows d_x, float* d_factors,
                const ExpertGradient& d_expert) const {
    gate_and_up(x);
    // h := d_y down, the gradient of h for a factor of 1.
    Panels::pack_rows(rows(d_y), 0, e.count, 0, w.width, s.left, s.temp);
    packed_times_operand({.data = w.down, .stride = w.inner, .inner_lines = true}, e.count, w.inner, w.width, s.wide,
                         w.inner, nullptr, true);
    turn_lines(s.wide, w.inner, e.count, w.inner, [&](int64_t f) { return s.h + f * ld; });
    for_lanes(e.count, [&](int64_t first, int64_t lanes) {
      float factor_of[Vec::kLanes] = {}, d_factor[Vec::kLanes];
      for (int64_t i = 0; i < lanes; ++i) factor_of[i] = factors[e.entry[first + i]];
      const Vec factor = Vec::load(factor_of);
      Vec sum = Vec::zero();
      for (int64_t f = 0; f < w.inner; ++f) {
        float *g = s.g + f * ld + first, *u = s.u + f * ld + first, *h = s.h + f * ld + first;
        const Vec up = load_lanes(u, lanes), d_h = load_lanes(h, lanes);
        const SiluGradient silu_of(load_lanes(g, lanes));
        const Vec value = silu_of.value * up, scaled = factor * d_h;
        sum = Vec::fma(d_h, value, sum);
        store_lanes(scaled * up * silu_of.slope, g, lanes);
        store_lanes(scaled * silu_of.value, u, lanes);
        store_lanes(factor * value, h, lanes);
      }
      sum.store(d_factor);
      for (int64_t i = 0; i < lanes; ++i) d_factors[e.entry[first + i]] = d_factor[i];
    });
    if (d_expert.down != nullptr) {  // += (d_y)ᵀ h, inner index the entry
      Panels::pack_cols(features(s.h), 0, w.inner, 0, e.count, s.right, s.temp);
      operand_times_packed(rows(d_y, true), w.width, w.inner, e.count, d_expert.down, w.inner, false);
    }
    if (d_expert.gate != nullptr || d_expert.up != nullptr) {  // += (d_g)ᵀ x
      Panels::pack_cols(rows(x, true), 0, w.width, 0, e.count, s.right, s.temp);
      if (d_expert.gate != nullptr)
        operand_times_packed(features(s.g), w.inner, w.width, e.count, d_expert.gate, w.width, false);
      if (d_expert.up != nullptr)
        operand_times_packed(features(s.u), w.inner, w.width, e.count, d_expert.up, w.width, false);
    }
    if (d_x.rows == 0) return;
    const auto through = [&](const float* d_features, const float* matrix, bool zero) {
      Panels::pack_rows(features(d_features, true), 0, e.count, 0, w.inner, s.left, s.temp);
      packed_times_operand({.data = matrix, .stride = w.width, .inner_lines = true}, e.count, w.width, w.inner,
                           d_x.data, d_x.stride, e.entry, zero);
    };
    through(s.g, w.gate, true);
    through(s.u, w.up, false);
  }
};

template <typename Panels>
void packed_expert(const ExpertWeights& w, const ExpertEntries& e, Rows x, Rows out, float* scratch) {
  PackedExpert<Panels>(w, e, scratch).forward(x, out);
}

template <typename Panels>
void packed_expert_backward(const ExpertWeights& w, const ExpertEntries& e, Rows x, const float* factors, Rows d_y,
                            Rows d_x, float* d_factors, const ExpertGradient& d_expert, float* scratch) {
  PackedExpert<Panels>(w, e, scratch).backward(x, factors, d_y, d_x, d_factors, d_expert);
}

}  // namespace gemm
