// Part of kernels.inl: attention of some query rows over a span of keys.
//
// A block of 64 keys and values serves kQueryTile rows per load; when there are more rows than that, it is widened to
// f32 once and stays in the second-level cache for all of them. Each score is one chain of multiply-adds over the head
// dims, each output one over the keys, so a row's bits depend neither on the tile nor on the rows beside it.

template <DType kType>
inline Vec load_kv(const std::byte* data, int64_t i) {
  if constexpr (kType == DType::kF32) return Vec::load(reinterpret_cast<const float*>(data) + i);
  if constexpr (kType == DType::kBF16) return Vec::load_bf16(reinterpret_cast<const uint16_t*>(data) + i);
  if constexpr (kType == DType::kQ8_0) return Vec::load_i8(reinterpret_cast<const int8_t*>(data) + i);
}
template <DType kType>
inline float kv_element(const std::byte* data, int64_t i) {
  if constexpr (kType == DType::kQ8_0) return static_cast<float>(reinterpret_cast<const int8_t*>(data)[i]);
  return load_as_f32(data, kType, i);
}

/// With more rows than these, a block is widened to f32 first.
inline constexpr int64_t kMostRowsUnwidened = 8;

/// Memory that will be read next, fetched into the second-level cache a little with every step of a loop.
struct Ahead {
  const std::byte* at = nullptr;
  const std::byte* end = nullptr;
  void step() {
    if (at >= end) return;
    __builtin_prefetch(at, 0, 2);
    __builtin_prefetch(at + 64, 0, 2);
    at += 128;
  }
};

/// scores[r][j] = q[r] . key j, for kRows query rows (q [A][kRows]) and the 64 keys of a block.
template <DType kType, int kRows>
inline void block_scores(const float* q, const std::byte* keys, int64_t head_dim, float* scores, Ahead ahead) {
  constexpr int kVecs = kTileVecs;
  for (int64_t j = 0; j < kBlockTokens; j += kVecs * Vec::kLanes) {
    Vec sum[kRows][kVecs];
    QNEXT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      QNEXT_UNROLL
      for (int n = 0; n < kVecs; ++n) sum[r][n] = Vec::zero();
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      ahead.step();
      Vec key[kVecs];
      QNEXT_UNROLL
      for (int n = 0; n < kVecs; ++n) key[n] = load_kv<kType>(keys, d * kBlockTokens + j + n * Vec::kLanes);
      QNEXT_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const Vec factor = Vec::set(q[d * kRows + r]);
        QNEXT_UNROLL
        for (int n = 0; n < kVecs; ++n) sum[r][n] = Vec::fma(factor, key[n], sum[r][n]);
      }
    }
    QNEXT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      QNEXT_UNROLL
      for (int n = 0; n < kVecs; ++n) sum[r][n].store(scores + r * kBlockTokens + j + n * Vec::kLanes);
    }
  }
}

/// Row r of o, times correction[r], += sum over keys j < count of p[r][j] * value j.
template <DType kType, int kRows, int kVecs>
inline void block_values_tile(const float* p, const float* correction, const std::byte* values, int64_t head_dim,
                              int64_t count, float* o, int64_t c, Ahead& ahead) {
  Vec sum[kRows][kVecs];
  QNEXT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) {
      sum[r][n] = Vec::load(o + r * head_dim + c + n * Vec::kLanes) * Vec::set(correction[r]);
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    ahead.step();
    Vec value[kVecs];
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) value[n] = load_kv<kType>(values, j * head_dim + c + n * Vec::kLanes);
    QNEXT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec factor = Vec::set(p[r * kBlockTokens + j]);
      QNEXT_UNROLL
      for (int n = 0; n < kVecs; ++n) sum[r][n] = Vec::fma(factor, value[n], sum[r][n]);
    }
  }
  QNEXT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    QNEXT_UNROLL
    for (int n = 0; n < kVecs; ++n) sum[r][n].store(o + r * head_dim + c + n * Vec::kLanes);
  }
}

template <DType kType, int kRows>
inline void block_values(const float* p, const float* correction, const std::byte* values, int64_t head_dim, int64_t count,
                         float* o, Ahead ahead) {
  int64_t c = 0;
  for (; c + kTileVecs * Vec::kLanes <= head_dim; c += kTileVecs * Vec::kLanes) {
    block_values_tile<kType, kRows, kTileVecs>(p, correction, values, head_dim, count, o, c, ahead);
  }
  for (; c + Vec::kLanes <= head_dim; c += Vec::kLanes) {
    block_values_tile<kType, kRows, 1>(p, correction, values, head_dim, count, o, c, ahead);
  }
  for (; c < head_dim; ++c) {  // head dims that are no multiple of a vector
    QNEXT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float sum = o[r * head_dim + c] * correction[r];
      for (int64_t j = 0; j < count; ++j) sum += p[r * kBlockTokens + j] * kv_element<kType>(values, j * head_dim + c);
      o[r * head_dim + c] = sum;
    }
  }
}

/// Turns a row's scores of a block into weights exp(s - m), zero for keys at or after `count`, and moves m and l on.
/// Returns what the row's earlier sums are to be multiplied with. int8 keys and values: scores and weights are multiplied with
/// the scales of their tokens.
inline float block_softmax(float* s, int64_t count, float scale, const float* key_scales, const float* value_scales, float* m,
                           float* l) {
  if (key_scales != nullptr) {
    for (int64_t j = 0; j < kBlockTokens; j += Vec::kLanes) (Vec::load(s + j) * Vec::load(key_scales + j)).store(s + j);
  }
  for (int64_t j = count; j < kBlockTokens; ++j) s[j] = -INFINITY;
  Vec largest = Vec::set(-INFINITY);
  for (int64_t j = 0; j < kBlockTokens; j += Vec::kLanes) {
    const Vec scaled = Vec::load(s + j) * Vec::set(scale);
    scaled.store(s + j);
    largest = Vec::max(largest, scaled);
  }
  const float block_max = largest.max();
  const float before = *m, now = block_max > before ? block_max : before;
  const float correction = now == before ? 1.0f : std::exp(before - now);
  Vec sum = Vec::zero();
  for (int64_t j = 0; j < kBlockTokens; j += Vec::kLanes) {
    const Vec p = exp(Vec::load(s + j) - Vec::set(now));
    sum = sum + p;
    (value_scales == nullptr ? p : p * Vec::load(value_scales + j)).store(s + j);
  }
  for (int64_t j = count; j < kBlockTokens; ++j) s[j] = 0.0f;  // keys not there yet: their memory is never weighed
  *l = *l * correction + sum.sum();
  *m = now;
  return correction;
}

/// One block of keys and values, and what to fetch meanwhile.
struct KvBlock {
  const std::byte *keys, *values;
  const float *key_scales, *value_scales;  ///< of int8 keys and values, else null
  int64_t begin;  ///< position of its first key
  Ahead ahead_of_values, ahead_of_next;
};

template <DType kType, int kRows>
inline void attend_block(const float* q, const int64_t* position, const KvBlock& block, int64_t head_dim, float scale,
                         SoftmaxState state, float* scores) {
  int64_t count[kRows], most = 0;
  QNEXT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int64_t visible = position[r] + 1 - block.begin;
    count[r] = visible < 0 ? 0 : visible > kBlockTokens ? kBlockTokens : visible;
    most = count[r] > most ? count[r] : most;
  }
  if (most == 0) return;  // all rows end before the block
  block_scores<kType, kRows>(q, block.keys, head_dim, scores, block.ahead_of_values);
  float correction[kRows];
  QNEXT_UNROLL
  for (int r = 0; r < kRows; ++r) {
    float* s = scores + r * kBlockTokens;
    if (count[r] == 0) {
      correction[r] = 1.0f;
      for (int64_t j = 0; j < kBlockTokens; ++j) s[j] = 0.0f;
    } else {
      correction[r] = block_softmax(s, count[r], scale, block.key_scales, block.value_scales, state.m + r, state.l + r);
    }
  }
  block_values<kType, kRows>(scores, correction, block.values, head_dim, most, state.o, block.ahead_of_next);
}

template <DType kType>
inline void attend_rows(const float* q, const int64_t* position, int64_t rows, KvBlock block, int64_t head_dim, float scale,
                        SoftmaxState state, float* scores) {
  for_query_tiles(rows, [&](int64_t r, auto tile) {
    attend_block<kType, decltype(tile)::value>(q + r * head_dim, position + r, block, head_dim, scale,
                                               {state.m + r, state.l + r, state.o + r * head_dim}, scores);
    block.ahead_of_values = block.ahead_of_next = {};  // once is enough
  });
}

/// out[i] = element i, exactly.
template <DType kType>
inline void widen(const std::byte* data, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) load_kv<kType>(data, i).store(out + i);
  for (; i < n; ++i) out[i] = kv_element<kType>(data, i);
}

template <DType kType>
inline void attention_span_as(const float* const* q, const int64_t* position, int64_t rows, const KvView& kv,
                              const KvLayout& layout, int64_t kv_head, int64_t key_begin, int64_t key_end, float scale,
                              SoftmaxState state, float* scratch) {
  const int64_t dim = layout.head_dim, elements = dim * kBlockTokens, head_bytes = layout.head_bytes();
  float* scores = scratch;
  float* packed = scores + kQueryTile * kBlockTokens;  // the queries, tile by tile as [A][rows of the tile]
  float* keys = packed + rows * dim;
  float* values = keys + elements;
  for_query_tiles(rows, [&](int64_t r, auto tile) {
    constexpr int kRows = decltype(tile)::value;
    QNEXT_UNROLL
    for (int i = 0; i < kRows; ++i) {
      for (int64_t d = 0; d < dim; ++d) packed[r * dim + d * kRows + i] = q[r + i][d];
    }
  });
  for (int64_t key = key_begin; key < key_end; key += kBlockTokens) {
    const std::byte* memory = kv.blocks[key / kBlockTokens] + kv.layer_offset;
    const auto scales = [&](int64_t offset) {
      return kType == DType::kQ8_0 ? reinterpret_cast<const float*>(memory + offset) : nullptr;
    };
    KvBlock block{.keys = memory + layout.key_offset(kv_head),
                  .values = memory + layout.value_offset(kv_head),
                  .key_scales = scales(layout.key_scale_offset(kv_head)),
                  .value_scales = scales(layout.value_scale_offset(kv_head)),
                  .begin = key,
                  .ahead_of_values = {},
                  .ahead_of_next = {}};
    block.ahead_of_values = {block.values, block.values + head_bytes};
    if (key + kBlockTokens < key_end) {
      const std::byte* next = kv.blocks[key / kBlockTokens + 1] + kv.layer_offset + layout.key_offset(kv_head);
      block.ahead_of_next = {next, next + head_bytes};
    }
    if (kType == DType::kF32 || rows <= kMostRowsUnwidened) {
      attend_rows<kType>(packed, position, rows, block, dim, scale, state, scores);
      continue;
    }
    widen<kType>(block.keys, elements, keys);
    widen<kType>(block.values, elements, values);
    block.keys = reinterpret_cast<const std::byte*>(keys);
    block.values = reinterpret_cast<const std::byte*>(values);
    block.ahead_of_values = {};
    attend_rows<DType::kF32>(packed, position, rows, block, dim, scale, state, scores);
  }
}

void attention_span(const float* const* q, const int64_t* position, int64_t rows, const KvView& kv, const KvLayout& layout,
                    int64_t kv_head, int64_t key_begin, int64_t key_end, float scale, SoftmaxState state, float* scratch) {
  if (layout.dtype == DType::kQ8_0) {
    attention_span_as<DType::kQ8_0>(q, position, rows, kv, layout, kv_head, key_begin, key_end, scale, state, scratch);
  } else if (layout.dtype == DType::kBF16) {
    attention_span_as<DType::kBF16>(q, position, rows, kv, layout, kv_head, key_begin, key_end, scale, state, scratch);
  } else {
    attention_span_as<DType::kF32>(q, position, rows, kv, layout, kv_head, key_begin, key_end, scale, state, scratch);
  }
}
