#include "backend/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/products.h"
#include "backend/cpu/scratch.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace qnext {

const Kernels& kernels_for(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return kernels_scalar();
    case Isa::kAvx2: return kernels_avx2();
    case Isa::kAvx512:
    case Isa::kAmx: return kernels_avx512();  // tiles serve the weights of block types (quant_amx.cc)
  }
  QNEXT_CHECK(false, "unknown isa {}", static_cast<int>(isa));
}

void kv_store(const KvLayout& layout, std::byte* block, int64_t slot, int64_t head, const float* k, const float* v) {
  const int64_t dim = layout.head_dim;
  const auto store = [&]<typename T>(T*, auto convert_key, auto convert_value) {
    T* keys = reinterpret_cast<T*>(block + layout.key_offset(head));
    T* values = reinterpret_cast<T*>(block + layout.value_offset(head));
    for (int64_t d = 0; d < dim; ++d) keys[d * kBlockTokens + slot] = convert_key(k[d]);
    for (int64_t d = 0; d < dim; ++d) values[slot * dim + d] = convert_value(v[d]);
  };
  if (layout.dtype == DType::kQ8_0) {
    // The largest magnitude becomes 127. NaN or infinity makes the scale, and so every score or output, not finite.
    const auto quantiser = [&](const float* x, int64_t scale_offset) {
      float largest = 0.0f;
      for (int64_t d = 0; d < dim; ++d) largest = std::max(largest, std::isfinite(x[d]) ? std::fabs(x[d]) : INFINITY);
      const float scale = largest / 127.0f;
      std::memcpy(block + scale_offset + slot * static_cast<int64_t>(sizeof(float)), &scale, sizeof scale);
      const float inverse = largest > 0.0f && std::isfinite(largest) ? 127.0f / largest : 0.0f;
      return [inverse](float value) {
        return static_cast<int8_t>(std::isfinite(value) ? std::lrintf(value * inverse) : 1);
      };
    };
    store(static_cast<int8_t*>(nullptr), quantiser(k, layout.key_scale_offset(head)),
          quantiser(v, layout.value_scale_offset(head)));
  } else if (layout.dtype == DType::kBF16) {
    store(static_cast<uint16_t*>(nullptr), f32_to_bf16, f32_to_bf16);
  } else {
    const auto same = [](float x) { return x; };
    store(static_cast<float*>(nullptr), same, same);
  }
}

namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(std::shared_ptr<ThreadPool> pool, Isa isa, ActivationPrecision activations)
      : owner_(std::move(pool)), pool_(*owner_), k_(kernels_for(isa)), products_(pool_, k_, quant_kernels_for(isa), activations),
        scratch_(static_cast<size_t>(pool_.size())),
        name_(fmt::format("cpu {}, {} thread{}", isa_name(isa), pool_.size(), pool_.size() == 1 ? "" : "s")) {}

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

  void linear(Rows x, std::span<const Linear> products) override { products_.linear(x, products); }
  void mlp(Rows x, const MlpWeights& weights, Rows hidden, Rows y) override { products_.mlp(x, weights, hidden, y); }
  void experts(Rows x, std::span<const MlpWeights> experts, int64_t k, const int32_t* chosen, const float* weights,
               Rows hidden, Rows expert_out, Rows y) override {
    products_.experts(x, experts, k, chosen, weights, hidden, expert_out, y);
  }

  void add(Rows x, Rows y, Rows out) override {
    for_rows(x.rows, x.cols, [&](int64_t t) { k_.add(x.row(t), y.row(t), out.row(t), x.cols); });
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

  void gated_rms_norm(Rows x, Rows z, Vector gain, double eps, Rows out) override {
    for_rows(x.rows, 4 * x.cols, [&](int64_t t) {
      for (int64_t c = 0; c < x.cols; c += gain.size) {
        k_.gated_rms_norm(x.row(t) + c, z.row(t) + c, gain.data, static_cast<float>(eps), out.row(t) + c, gain.size);
      }
    });
  }

  void head_norm_rope(Rows x, int64_t head_dim, Vector gain, double eps, Rows cos, Rows sin, Rows out) override {
    for_rows(x.rows, x.cols, [&](int64_t t) {
      for (int64_t c = 0; c < x.cols; c += head_dim) {
        k_.rms_norm(x.row(t) + c, gain.data, 1.0f, static_cast<float>(eps), out.row(t) + c, head_dim);
        k_.rope(out.row(t) + c, cos.row(t), sin.row(t), cos.cols);
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

  void gated_attention(std::span<const AttentionSegment> segments, const KvLayout& layout, Rows q, Rows gate, Rows out,
                       Rows log_sum_exp) override;
  void route(Rows logits, int64_t k, bool normalise, int32_t* experts, float* weights) override;

  void add_gated(Rows y, Rows x, Rows gate) override {
    for_rows(y.rows, y.cols, [&](int64_t t) {
      k_.scale_add(y.row(t), x.row(t), 1.0f / (1.0f + std::exp(-gate.row(t)[0])), y.cols);
    });
  }

 private:
  float* scratch(int thread, int64_t floats) { return scratch_[static_cast<size_t>(thread)].floats(floats); }

  /// Calls body(t) for every row, in tasks of about 16K elements.
  template <typename Body>
  void for_rows(int64_t rows, int64_t work_per_row, Body&& body) {
    const int64_t step = std::max<int64_t>(1, (16 << 10) / std::max<int64_t>(1, work_per_row));
    pool_.parallel_for((rows + step - 1) / step, [&](int64_t task, int) {
      for (int64_t t = task * step; t < std::min(rows, (task + 1) * step); ++t) body(t);
    });
  }

  std::shared_ptr<ThreadPool> owner_;
  ThreadPool& pool_;
  const Kernels& k_;
  Products products_;
  std::vector<Scratch> scratch_;
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
                                 Rows out, Rows log_sum_exp) {
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
      if (log_sum_exp.data != nullptr) log_sum_exp.row(row)[column / dim] = total.m[r] + std::log(total.l[r]);
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

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(std::shared_ptr<ThreadPool> pool, Isa isa, ActivationPrecision activations) {
  if (isa > detect_isa()) {
    throw Error(fmt::format("instruction set: expected at most {} on this machine, found {}", isa_name(detect_isa()),
                            isa_name(isa)));
  }
  return std::make_unique<CpuBackend>(std::move(pool), isa, activations);
}

std::unique_ptr<Backend> make_cpu_backend(int threads, Isa isa, ActivationPrecision activations) {
  return make_cpu_backend(std::make_shared<ThreadPool>(threads), isa, activations);
}

}  // namespace qnext
