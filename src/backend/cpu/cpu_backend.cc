#include "backend/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/kernels.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace qnext {

const Kernels& kernels_for(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return kernels_scalar();
    case Isa::kAvx2: return kernels_avx2();
    case Isa::kAvx512: return kernels_avx512();
  }
  QNEXT_CHECK(false, "unknown isa {}", static_cast<int>(isa));
}

void kv_store(const KvLayout& layout, std::byte* block, int64_t slot, int64_t head, const float* k, const float* v) {
  const int64_t dim = layout.head_dim;
  const auto store = [&]<typename T>(T*, auto convert) {
    T* keys = reinterpret_cast<T*>(block) + head * dim * kBlockTokens;
    T* values = reinterpret_cast<T*>(block) + (layout.heads + head) * dim * kBlockTokens;
    for (int64_t d = 0; d < dim; ++d) keys[d * kBlockTokens + slot] = convert(k[d]);
    for (int64_t d = 0; d < dim; ++d) values[slot * dim + d] = convert(v[d]);
  };
  if (layout.dtype == DType::kBF16) {
    store(static_cast<uint16_t*>(nullptr), f32_to_bf16);
  } else {
    store(static_cast<float*>(nullptr), [](float x) { return x; });
  }
}

namespace {

/// Working memory that grows to the largest request and is never given back: nothing is allocated per token.
class Scratch {
 public:
  float* floats(int64_t count) {
    if (static_cast<int64_t>(data_.size()) < count) data_.resize(static_cast<size_t>(std::max(count, 2 * size())));
    return data_.data();
  }

 private:
  int64_t size() const { return static_cast<int64_t>(data_.size()); }
  std::vector<float> data_;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, Isa isa)
      : pool_(threads), k_(kernels_for(isa)), scratch_(static_cast<size_t>(pool_.size())),
        name_(fmt::format("cpu {}, {} thread{}", isa_name(isa), threads, threads == 1 ? "" : "s")) {}

  std::string_view name() const override { return name_; }

  Buffer allocate(int64_t bytes) override {
    QNEXT_CHECK(bytes >= 0, "{} bytes", bytes);
    if (bytes == 0) return {};
    void* data = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) throw Error(fmt::format("cannot allocate {} bytes: {}", bytes, std::strerror(errno)));
    constexpr int64_t kHugePage = 2 << 20;
    if (bytes >= kHugePage) ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
    return Buffer(static_cast<std::byte*>(data), bytes,
                  [](std::byte* p, int64_t n) { ::munmap(p, static_cast<size_t>(n)); });
  }

  void embed(const Matrix& table, std::span<const int32_t> tokens, Rows out) override {
    for (size_t t = 0; t < tokens.size(); ++t) {
      QNEXT_CHECK(tokens[t] >= 0 && tokens[t] < table.rows, "token {} of {}", tokens[t], table.rows);
      k_.expand_row(table, tokens[t], out.row(static_cast<int64_t>(t)));
    }
  }

  void linear(Rows x, std::span<const Linear> products) override {
    int64_t tasks = 0;
    for (const Linear& p : products) {
      QNEXT_CHECK(p.weight->cols == x.cols && p.weight->rows == p.y.cols, "[{}, {}] . [{}, {}] -> {}", x.rows, x.cols,
                  p.weight->rows, p.weight->cols, p.y.cols);
      tasks += panels(*p.weight);
    }
    if (x.rows == 0) return;
    pool_.parallel_for(tasks, [&](int64_t task, int thread) {
      const Linear* p = products.data();
      while (task >= panels(*p->weight)) task -= panels(*p++->weight);
      const int64_t begin = task * kPanelRows, end = std::min(begin + kPanelRows, p->weight->rows);
      k_.matmul(x.data, x.stride, nullptr, x.rows, *p->weight, begin, end, p->y.data, p->y.stride, nullptr,
                panel(thread, x.cols));
    });
  }

  void add(Rows x, Rows y) override {
    for_rows(x.rows, x.cols, [&](int64_t t) { k_.add(x.row(t), y.row(t), x.cols); });
  }

  void gather(Rows x, std::span<const int32_t> rows, Rows out) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(x.row(rows[i]), x.cols, out.row(static_cast<int64_t>(i)));
    }
  }

  void rms_norm(Rows x, Vector gain, double eps, Rows out) override {
    for_rows(x.rows, x.cols, [&](int64_t t) {
      k_.rms_norm(x.row(t), gain.data, 1.0f, static_cast<float>(eps), out.row(t), x.cols);
    });
  }

  bool all_finite(Rows x) override {
    std::atomic<bool> finite = true;
    for_rows(x.rows, x.cols, [&](int64_t t) {
      if (!k_.all_finite(x.row(t), x.cols)) finite.store(false, std::memory_order_relaxed);
    });
    return finite.load();
  }

  void causal_conv1d_silu(std::span<const ConvSegment> segments, Rows x, Vector taps, int64_t kernel,
                          std::span<const UnitNorm> norms, Rows out) override {
    QNEXT_CHECK(kernel >= 2 && kernel <= kMaxConvKernel && taps.size == kernel * x.cols, "kernel {}", kernel);
    int64_t width = 256;  // channels of a task
    if (!norms.empty()) width = std::max<int64_t>(1, width / norms[0].head_dim) * norms[0].head_dim;
    for (const UnitNorm& norm : norms) {
      QNEXT_CHECK(norm.head_dim == norms[0].head_dim && norm.begin % norm.head_dim == 0 && norm.end % norm.head_dim == 0);
    }
    const int64_t parts = (x.cols + width - 1) / width;
    pool_.parallel_for(static_cast<int64_t>(segments.size()) * parts, [&](int64_t task, int) {
      const ConvSegment& segment = segments[static_cast<size_t>(task / parts)];
      const int64_t begin = task % parts * width;
      k_.causal_conv1d_silu(segment, x.data, x.stride, taps.data, kernel, x.cols, begin, std::min(begin + width, x.cols),
                            norms, out.data, out.stride);
    });
  }

  void delta_gates(Rows b, Rows a, Vector a_log, Vector dt_bias, Rows beta, Rows log_decay) override {
    for_rows(b.rows, 16 * b.cols, [&](int64_t t) {
      for (int64_t h = 0; h < b.cols; ++h) {
        const float x = a.row(t)[h] + dt_bias[h];
        const float softplus = x > 20.0f ? x : std::log1p(std::exp(x));
        beta.row(t)[h] = 1.0f / (1.0f + std::exp(-b.row(t)[h]));
        log_decay.row(t)[h] = -std::exp(a_log[h]) * softplus;
      }
    });
  }

  void l2_norm(Rows x, int64_t head_dim, float scale) override {
    for_rows(x.rows, x.cols, [&](int64_t t) {
      for (int64_t c = 0; c < x.cols; c += head_dim) k_.l2_norm(x.row(t) + c, scale, head_dim);
    });
  }

  void gated_delta_rule(std::span<const DeltaSegment> segments, const DeltaShape& shape, Rows q, Rows k, Rows v, Rows beta,
                        Rows log_decay, Rows out) override {
    const int64_t group = shape.value_heads / shape.key_heads;
    // The value heads of a key head share products of keys; one task takes them all when that leaves enough tasks.
    const int64_t heads = static_cast<int64_t>(segments.size()) * shape.key_heads >= pool_.size() ? group : 1;
    const int64_t tasks_per_segment = shape.value_heads / heads;
    const int64_t chunk_floats = delta_scratch_floats(shape.key_dim, shape.value_dim);
    pool_.parallel_for(static_cast<int64_t>(segments.size()) * tasks_per_segment, [&](int64_t task, int thread) {
      const DeltaSegment& segment = segments[static_cast<size_t>(task / tasks_per_segment)];
      const int64_t first_head = task % tasks_per_segment * heads;
      for (int64_t done = 0; done < segment.rows;) {
        // Chunks end at multiples of 64 of the absolute position, however the prompt was cut.
        const int64_t position = segment.position + done;
        const int64_t rows = std::min(kBlockTokens - position % kBlockTokens, segment.rows - done);
        const int64_t t = segment.row + done;
        float* memory = rows == 1 ? nullptr : scratch(thread, chunk_floats + DeltaProducts::floats(shape.key_dim));
        for (int64_t head = first_head; head < first_head + heads; ++head) {
          const DeltaHead h{.q = q.row(t) + head / group * shape.key_dim,
                            .k = k.row(t) + head / group * shape.key_dim,
                            .qk_stride = q.stride,
                            .v = v.row(t) + head * shape.value_dim,
                            .out = out.row(t) + head * shape.value_dim,
                            .v_stride = v.stride,
                            .out_stride = out.stride,
                            .beta = beta.row(t) + head,
                            .log_decay = log_decay.row(t) + head,
                            .gate_stride = beta.stride,
                            .key_dim = shape.key_dim,
                            .value_dim = shape.value_dim,
                            .state = segment.state + head * shape.key_dim * shape.value_dim};
          if (rows == 1) {
            k_.gated_delta_step(h);
            continue;
          }
          if (head == first_head) k_.gated_delta_products(h, rows, memory + chunk_floats);
          k_.gated_delta_chunk(h, rows, memory + chunk_floats, memory);
        }
        done += rows;
      }
    });
  }

  void gated_rms_norm(Rows x, Rows z, Vector gain, double eps) override {
    for_rows(x.rows, 4 * x.cols, [&](int64_t t) {
      for (int64_t c = 0; c < x.cols; c += gain.size) {
        k_.gated_rms_norm(x.row(t) + c, z.row(t) + c, gain.data, static_cast<float>(eps), gain.size);
      }
    });
  }

  void head_norm_rope(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin) override {
    for_rows(x.rows, x.cols, [&](int64_t t) {
      for (float* head = x.row(t); head < x.row(t) + x.cols; head += head_dim) {
        k_.rms_norm(head, gain.data, 1.0f, static_cast<float>(eps), head, head_dim);
        k_.rope(head, cos.row(t), sin.row(t), cos.cols);
      }
    });
  }

  void kv_append(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows k, Rows v) override {
    for (const AttentionSegment& segment : segments) {
      for_rows(segment.rows, 4 * k.cols, [&](int64_t i) {
        const int64_t position = segment.position + i;
        std::byte* block = segment.kv.blocks[position / kBlockTokens] + segment.kv.layer_offset;
        for (int64_t h = 0; h < layout.heads; ++h) {
          kv_store(layout, block, position % kBlockTokens, h, k.row(segment.row + i) + h * layout.head_dim,
                   v.row(segment.row + i) + h * layout.head_dim);
        }
      });
    }
  }

  void gated_attention(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate,
                       Rows out) override;
  void route(Rows logits, int64_t k, bool normalise, int32_t* experts, float* weights) override;
  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y) override;

  void mlp(Rows x, const MlpWeights& w, Rows hidden, Rows y) override {
    QNEXT_CHECK(w.gate.rows == hidden.cols && w.gate.cols == x.cols && w.down.rows == y.cols);
    // Gate and up of the same hidden features in one task, so that SwiGLU is applied while they are in cache.
    pool_.parallel_for(panels(w.gate), [&](int64_t task, int thread) {
      const int64_t begin = task * kPanelRows, end = std::min(begin + kPanelRows, w.gate.rows);
      swiglu(x, nullptr, x.rows, w, begin, end, hidden, nullptr, thread);
    });
    Backend::linear(hidden, w.down, y);
  }

  void add_gated(Rows y, Rows x, Rows gate) override {
    for_rows(y.rows, y.cols, [&](int64_t t) {
      k_.scale_add(y.row(t), x.row(t), 1.0f / (1.0f + std::exp(-gate.row(t)[0])), y.cols);
    });
  }

 private:
  static int64_t panels(const Matrix& w) { return (w.rows + kPanelRows - 1) / kPanelRows; }
  float* scratch(int thread, int64_t floats) { return scratch_[static_cast<size_t>(thread)].floats(floats); }
  /// Room for two expanded weight panels (gate and up).
  float* panel(int thread, int64_t cols) { return scratch(thread, 2 * kPanelRows * cols); }

  /// Calls body(t) for every row, in tasks of about 16K elements.
  template <typename Body>
  void for_rows(int64_t rows, int64_t work_per_row, Body&& body) {
    const int64_t step = std::max<int64_t>(1, (16 << 10) / std::max<int64_t>(1, work_per_row));
    pool_.parallel_for((rows + step - 1) / step, [&](int64_t task, int) {
      for (int64_t t = task * step; t < std::min(rows, (task + 1) * step); ++t) body(t);
    });
  }

  /// hidden[out_index[i]][begin..end) = silu(gate x) * up x for the given rows of x; a null index is the identity.
  void swiglu(Rows x, const int32_t* x_index, int64_t tokens, const MlpWeights& w, int64_t begin, int64_t end, Rows hidden,
              const int32_t* out_index, int thread) {
    float* weights = panel(thread, x.cols);
    float* up = up_[static_cast<size_t>(thread)].floats(kPanelRows * kTokenTile);
    for (int64_t t = 0; t < tokens; t += kTokenTile) {
      const int64_t count = std::min(kTokenTile, tokens - t);
      const int32_t* in = x_index == nullptr ? nullptr : x_index + t;
      const int32_t* to = out_index == nullptr ? nullptr : out_index + t;
      const float* base = in == nullptr ? x.row(t) : x.data;
      float* target = to == nullptr ? hidden.row(t) : hidden.data;
      k_.matmul(base, x.stride, in, count, w.gate, begin, end, target, hidden.stride, to, weights);
      k_.matmul(base, x.stride, in, count, w.up, begin, end, up - begin, kPanelRows, nullptr, weights);
      for (int64_t i = 0; i < count; ++i) {
        float* row = target + (to == nullptr ? i : to[i]) * hidden.stride;
        k_.silu_multiply(row + begin, up + i * kPanelRows, end - begin);
      }
    }
  }

  static constexpr int64_t kTokenTile = 256;
  ThreadPool pool_;
  const Kernels& k_;
  std::vector<Scratch> scratch_;
  std::vector<Scratch> up_{static_cast<size_t>(pool_.size())};
  // gated_attention(): some tokens of a segment with all query heads of one KV head, and the spans of keys a task takes.
  struct AttentionTile {
    const AttentionSegment* segment;
    int64_t token, tokens, kv_head, keys;
    int64_t spans() const { return (keys + kSpanKeys - 1) / kSpanKeys; }
  };
  struct AttentionTask {
    AttentionTile tile;
    int64_t span_begin, span_end;
    float* partials;  ///< the softmax state of the one span; null: the task runs all spans and finishes the tile
  };
  struct AttentionRows {  ///< the query rows of the tile a thread works on
    std::vector<const float*> queries;
    std::vector<int64_t> positions;
  };
  std::vector<AttentionTask> attention_tasks_;
  std::vector<AttentionRows> attention_rows_{static_cast<size_t>(pool_.size())};
  Scratch attention_partials_;
  // experts(): the (row, slot) pairs sorted by expert, kept to reuse their memory.
  struct ExpertTask {
    int32_t expert;
    int64_t panel;
  };
  std::vector<int32_t> first_, entry_, entry_row_;
  std::vector<ExpertTask> tasks_;
  std::string name_;
};

/// total <- total merged with part: the softmax over both sets of keys.
void merge(SoftmaxState total, SoftmaxState part, int64_t rows, int64_t head_dim) {
  for (int64_t r = 0; r < rows; ++r) {
    if (part.l[r] == 0.0f) continue;  // no key of this span was visible
    const float m = std::max(total.m[r], part.m[r]);
    const float keep = std::exp(total.m[r] - m), take = std::exp(part.m[r] - m);
    total.m[r] = m;
    total.l[r] = total.l[r] * keep + part.l[r] * take;
    float* o = total.o + r * head_dim;
    const float* p = part.o + r * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) o[d] = o[d] * keep + p[d] * take;
  }
}

SoftmaxState softmax_state(float* memory, int64_t rows, int64_t head_dim) {
  SoftmaxState state{memory, memory + rows, memory + 2 * rows};
  std::fill_n(state.m, rows, -INFINITY);
  std::fill_n(state.l, rows, 0.0f);
  std::fill_n(state.o, rows * head_dim, 0.0f);
  return state;
}

void CpuBackend::gated_attention(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate,
                                 Rows out) {
  const int64_t dim = layout.head_dim, group = q.cols / dim / layout.heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  // A tile is some tokens of a segment with all query heads of one KV head; every key block loaded serves all of them.
  const int64_t tile_tokens = std::max<int64_t>(1, kAttentionRows / group), tile_rows = tile_tokens * group;
  const int64_t state_floats = tile_rows * (2 + dim);
  using Tile = AttentionTile;
  const auto for_each_tile = [&](auto&& visit) {
    for (const AttentionSegment& segment : segments) {
      for (int64_t t = 0; t < segment.rows; t += tile_tokens) {
        const int64_t tokens = std::min(tile_tokens, segment.rows - t);
        for (int64_t h = 0; h < layout.heads; ++h) visit(Tile{&segment, t, tokens, h, segment.position + t + tokens});
      }
    }
  };
  int64_t tiles = 0;
  for_each_tile([&](const Tile&) { ++tiles; });
  // Every span of every tile is a softmax of its own, so few long rows spread over the threads as well as many short
  // ones do. With enough tiles a task runs its tile's spans in turn; the sums are the same.
  const bool split = tiles < 4 * pool_.size();
  std::vector<AttentionTask>& tasks = attention_tasks_;
  tasks.clear();
  int64_t partial_states = 0;
  for_each_tile([&](const Tile& tile) { partial_states += split ? tile.spans() : 0; });
  float* partials = attention_partials_.floats(partial_states * state_floats);
  for_each_tile([&](const Tile& tile) {
    if (!split) {
      tasks.push_back({tile, 0, tile.spans(), nullptr});
      return;
    }
    for (int64_t span = 0; span < tile.spans(); ++span) {
      tasks.push_back({tile, span, span + 1, partials});
      partials += state_floats;
    }
  });
  for (AttentionRows& rows : attention_rows_) {
    rows.queries.resize(static_cast<size_t>(tile_rows));
    rows.positions.resize(static_cast<size_t>(tile_rows));
  }
  const auto run_span = [&](const Tile& tile, int64_t span, float* state_memory, float* scores, int thread) {
    const float** queries = attention_rows_[static_cast<size_t>(thread)].queries.data();
    int64_t* positions = attention_rows_[static_cast<size_t>(thread)].positions.data();
    const int64_t rows = tile.tokens * group;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t token = tile.token + r / group;
      queries[r] = q.row(tile.segment->row + token) + (tile.kv_head * group + r % group) * dim;
      positions[r] = tile.segment->position + token;
    }
    k_.attention_span(queries, positions, rows, tile.segment->kv, layout, tile.kv_head, span * kSpanKeys,
                      std::min((span + 1) * kSpanKeys, tile.keys), scale, softmax_state(state_memory, rows, dim), scores);
  };
  const auto finish = [&](const Tile& tile, SoftmaxState total) {
    for (int64_t r = 0; r < tile.tokens * group; ++r) {
      const int64_t row = tile.segment->row + tile.token + r / group, column = (tile.kv_head * group + r % group) * dim;
      for (int64_t d = 0; d < dim; ++d) out.row(row)[column + d] = total.o[r * dim + d] / total.l[r];
      k_.sigmoid_multiply(out.row(row) + column, gate.row(row) + column, dim);
    }
  };
  const int64_t score_floats = attention_scratch_floats(tile_rows, dim);
  pool_.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
    const AttentionTask& task = tasks[static_cast<size_t>(i)];
    float* memory = scratch(thread, score_floats + 2 * state_floats);
    if (task.partials != nullptr) return run_span(task.tile, task.span_begin, task.partials, memory, thread);
    const int64_t rows = task.tile.tokens * group;
    float* part_memory = memory + score_floats + state_floats;
    const SoftmaxState total = softmax_state(memory + score_floats, rows, dim);
    const SoftmaxState part{part_memory, part_memory + rows, part_memory + 2 * rows};
    for (int64_t span = task.span_begin; span < task.span_end; ++span) {
      run_span(task.tile, span, part_memory, memory, thread);
      merge(total, part, rows, dim);
    }
    finish(task.tile, total);
  });
  if (!split) return;
  for (size_t i = 0; i < tasks.size();) {
    const Tile& tile = tasks[i].tile;
    const int64_t rows = tile.tokens * group;
    const SoftmaxState total = softmax_state(scratch(0, state_floats), rows, dim);
    for (int64_t span = 0; span < tile.spans(); ++span, ++i) {
      float* m = tasks[i].partials;
      merge(total, {m, m + rows, m + 2 * rows}, rows, dim);
    }
    finish(tile, total);
  }
}

void CpuBackend::route(Rows logits, int64_t k, bool normalise, int32_t* experts, float* weights) {
  for_rows(logits.rows, logits.cols * 4, [&](int64_t t) {
    const float* l = logits.row(t);
    int32_t* chosen = experts + t * k;
    float* w = weights + t * k;
    int64_t count = 0;
    for (int64_t e = 0; e < logits.cols; ++e) {  // insertion into the k best so far; a tie stays behind the earlier
      if (count == k && !(l[e] > l[chosen[k - 1]])) continue;
      int64_t at = count < k ? count++ : k - 1;
      for (; at > 0 && l[e] > l[chosen[at - 1]]; --at) chosen[at] = chosen[at - 1];
      chosen[at] = static_cast<int32_t>(e);
    }
    const float largest = l[chosen[0]];
    float sum = 0.0f;
    for (int64_t i = 0; i < k; ++i) w[i] = std::exp(l[chosen[i]] - largest);
    if (normalise) {
      for (int64_t i = 0; i < k; ++i) sum += w[i];
    } else {
      for (int64_t e = 0; e < logits.cols; ++e) sum += std::exp(l[e] - largest);
    }
    // A NaN loses every comparison above; the softmax over all experts would be NaN, and so are the weights.
    if (!k_.all_finite(l, logits.cols)) sum = NAN;
    for (int64_t i = 0; i < k; ++i) w[i] /= sum;
  });
}

void CpuBackend::experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen,
                         const float* weights, Rows hidden, Rows expert_out, Rows y) {
  const size_t entries = static_cast<size_t>(x.rows * k);
  // Counting sort of the (row, slot) entries by expert; entries of an expert stay in row order.
  first_.assign(experts.size() + 1, 0);
  entry_.resize(entries);
  entry_row_.resize(entries);
  for (size_t i = 0; i < entries; ++i) ++first_[static_cast<size_t>(chosen[i]) + 1];
  for (size_t e = 0; e < experts.size(); ++e) first_[e + 1] += first_[e];
  for (size_t i = 0; i < entries; ++i) {
    const auto at = static_cast<size_t>(first_[static_cast<size_t>(chosen[i])]++);
    entry_[at] = static_cast<int32_t>(i);
    entry_row_[at] = static_cast<int32_t>(static_cast<int64_t>(i) / k);
  }
  for (size_t e = experts.size(); e > 0; --e) first_[e] = first_[e - 1];
  first_[0] = 0;
  const auto make_tasks = [&](int64_t task_panels) {
    tasks_.clear();
    for (size_t e = 0; e < experts.size(); ++e) {
      if (first_[e] == first_[e + 1]) continue;
      for (int64_t p = 0; p < task_panels; ++p) tasks_.push_back({static_cast<int32_t>(e), p});
    }
  };
  const auto tokens_of = [&](int32_t e) { return first_[static_cast<size_t>(e) + 1] - first_[static_cast<size_t>(e)]; };
  make_tasks(panels(experts[0].gate));
  pool_.parallel_for(static_cast<int64_t>(tasks_.size()), [&](int64_t i, int thread) {
    const auto [e, p] = tasks_[static_cast<size_t>(i)];
    const MlpWeights& w = experts[static_cast<size_t>(e)];
    const auto begin = static_cast<size_t>(first_[static_cast<size_t>(e)]);
    swiglu(x, entry_row_.data() + begin, tokens_of(e), w, p * kPanelRows,
           std::min((p + 1) * kPanelRows, w.gate.rows), hidden, entry_.data() + begin, thread);
  });
  make_tasks(panels(experts[0].down));
  pool_.parallel_for(static_cast<int64_t>(tasks_.size()), [&](int64_t i, int thread) {
    const auto [e, p] = tasks_[static_cast<size_t>(i)];
    const MlpWeights& w = experts[static_cast<size_t>(e)];
    const int32_t* entry = entry_.data() + first_[static_cast<size_t>(e)];
    k_.matmul(hidden.data, hidden.stride, entry, tokens_of(e), w.down, p * kPanelRows,
              std::min((p + 1) * kPanelRows, w.down.rows), expert_out.data, expert_out.stride, entry,
              panel(thread, hidden.cols));
  });
  for_rows(y.rows, k * y.cols, [&](int64_t t) {
    std::fill_n(y.row(t), y.cols, 0.0f);
    for (int64_t slot = 0; slot < k; ++slot) {
      k_.scale_add(y.row(t), expert_out.row(t * k + slot), weights[t * k + slot], y.cols);
    }
  });
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads, Isa isa) {
  if (isa > detect_isa()) {
    throw Error(fmt::format("instruction set: expected at most {} on this machine, found {}", isa_name(detect_isa()),
                            isa_name(isa)));
  }
  return std::make_unique<CpuBackend>(threads, isa);
}

}  // namespace qnext
