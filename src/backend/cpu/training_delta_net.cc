// Gated DeltaNet, backwards.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/training_backend.h"
#include "base/error.h"

namespace qnext {

namespace {

/// Rows whose parameter gradients one task sums; the blocks' sums are added in order.
constexpr int64_t kRowBlock = 32;

Rows rows_of(Rows x, int64_t row, int64_t rows) { return {x.row(row), rows, x.cols, x.stride}; }

}  // namespace

void CpuTrainingBackend::causal_conv1d_silu_backward(std::span<const ConvSegment> segments, Rows x, Vector taps,
                                                     int64_t kernel, std::span<const UnitNorm> norms, Rows d_out,
                                                     Rows d_x, float* d_taps) {
  QNEXT_CHECK(kernel >= 2 && kernel <= kMaxConvKernel && taps.size == kernel * x.cols, "kernel {}", kernel);
  QNEXT_CHECK(d_x.data != d_out.data || d_x.rows == 0, "d_x is d_out");
  int64_t width = 128;  // channels of a task, which takes all rows
  if (!norms.empty()) width = std::max<int64_t>(1, width / norms[0].head_dim) * norms[0].head_dim;
  std::vector<UnitNorm> ordered(norms.begin(), norms.end());
  std::sort(ordered.begin(), ordered.end(), [](const UnitNorm& a, const UnitNorm& b) { return a.begin < b.begin; });
  for (size_t i = 0; i < ordered.size(); ++i) {
    const UnitNorm& norm = ordered[i];
    QNEXT_CHECK(norm.head_dim == norms[0].head_dim && norm.begin % norm.head_dim == 0 &&
                norm.end % norm.head_dim == 0 && norm.begin >= (i == 0 ? 0 : ordered[i - 1].end) &&
                norm.end <= x.cols);
  }
  pool_.parallel_for((x.cols + width - 1) / width, [&](int64_t task, int thread) {
    const int64_t begin = task * width, end = std::min(begin + width, x.cols);
    const ConvGradient conv{.segments = segments,
                            .x = x,
                            .d_out = d_out,
                            .d_x = d_x,
                            .taps = taps.data,
                            .kernel = kernel,
                            .norms = ordered,
                            .begin = begin,
                            .end = end,
                            .d_taps = d_taps};
    k_.delta.conv_backward(conv, scratch(thread, conv_gradient_scratch_floats(end - begin)));
  });
}

void CpuTrainingBackend::delta_gates_backward(Rows b, Rows a, Vector a_log, Vector dt_bias, Rows d_beta,
                                              Rows d_log_decay, Rows d_b, Rows d_a, float* d_a_log,
                                              float* d_dt_bias) {
  const int64_t heads = b.cols, blocks = (b.rows + kRowBlock - 1) / kRowBlock;
  auto* sums =
      reinterpret_cast<double*>(shared_scratch_.bytes(2 * blocks * heads * static_cast<int64_t>(sizeof(double))));
  pool_.parallel_for(blocks, [&](int64_t block, int) {
    double *of_a_log = sums + 2 * block * heads, *of_dt_bias = of_a_log + heads;
    std::fill_n(of_a_log, 2 * heads, 0.0);
    for (int64_t t = block * kRowBlock; t < std::min(b.rows, (block + 1) * kRowBlock); ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const double x = static_cast<double>(a.row(t)[h]) + static_cast<double>(dt_bias[h]),
                     d_decay = static_cast<double>(d_log_decay.row(t)[h]);
        const double beta = 1.0 / (1.0 + std::exp(-static_cast<double>(b.row(t)[h])));
        // As in the forward pass: softplus(x) is x above 20.
        const double power = std::exp(x), slope = x > 20.0 ? 1.0 : 1.0 / (1.0 + std::exp(-x));
        const double rate = -std::exp(static_cast<double>(a_log[h]));
        d_b.row(t)[h] = static_cast<float>(static_cast<double>(d_beta.row(t)[h]) * beta * (1.0 - beta));
        d_a.row(t)[h] = static_cast<float>(d_decay * rate * slope);
        of_dt_bias[h] += d_decay * rate * slope;
        if (d_a_log != nullptr) of_a_log[h] += d_decay * rate * (x > 20.0 ? x : std::log1p(power));
      }
    }
  });
  for (int64_t h = 0; h < heads; ++h) {
    double of_a_log = 0.0, of_dt_bias = 0.0;
    for (int64_t block = 0; block < blocks; ++block) {
      of_a_log += sums[2 * block * heads + h];
      of_dt_bias += sums[(2 * block + 1) * heads + h];
    }
    if (d_a_log != nullptr) d_a_log[h] += static_cast<float>(of_a_log);
    if (d_dt_bias != nullptr) d_dt_bias[h] += static_cast<float>(of_dt_bias);
  }
}

void CpuTrainingBackend::gated_delta_rule_backward(std::span<const DeltaSegment> segments, const DeltaShape& shape,
                                                   Rows q, Rows k, Rows v, Rows beta, Rows log_decay, Rows d_out,
                                                   Rows d_q, Rows d_k, Rows d_v, Rows d_beta, Rows d_log_decay) {
  const int64_t dk = shape.key_dim, dv = shape.value_dim, ldv = delta_row(dv),
                group = shape.value_heads / shape.key_heads;
  QNEXT_CHECK(shape.value_heads % shape.key_heads == 0 && q.cols == shape.key_heads * dk &&
              v.cols == shape.value_heads * dv);
  // The value heads of a key head share its products and its gradients; one task takes them all when that leaves
  // enough tasks. Otherwise the gradients of the later heads are kept apart and added at the end, in the same order.
  const bool together = group == 1 || static_cast<int64_t>(segments.size()) * shape.key_heads >= pool_.size();
  const int64_t heads = together ? group : 1, tasks_per_segment = shape.value_heads / heads;
  const int64_t apart = together ? 0 : q.rows * q.cols;  // floats of one head of each group
  float* partials = shared_scratch_.floats(2 * (group - 1) * apart);
  const auto partial = [&](int64_t member, Rows whole, int64_t which) {
    return member == 0 || together ? whole
                                   : Rows{partials + (2 * (member - 1) + which) * apart, q.rows, q.cols, q.cols};
  };
  const int64_t chunk_floats = DeltaGradientChunk::floats(dk, dv);
  const int64_t working_floats = delta_gradient_scratch_floats(dk, dv), state_floats = dk * ldv;
  pool_.parallel_for(static_cast<int64_t>(segments.size()) * tasks_per_segment, [&](int64_t task, int thread) {
    const DeltaSegment& segment = segments[static_cast<size_t>(task / tasks_per_segment)];
    if (segment.rows == 0) return;
    const int64_t first_head = task % tasks_per_segment * heads, key_head = first_head / group;
    // Chunks end at multiples of 64 of the absolute position, as in the forward pass.
    const int64_t lead = segment.position % kBlockTokens,
                  chunks = (lead + segment.rows + kBlockTokens - 1) / kBlockTokens;
    float* memory = scratch(thread, working_floats + state_floats + chunks * chunk_floats);
    float* d_state = memory + working_floats;
    const auto begin_of = [&](int64_t c) { return std::max<int64_t>(0, c * kBlockTokens - lead); };
    const auto rows_in = [&](int64_t c) {
      return std::min(segment.rows, (c + 1) * kBlockTokens - lead) - begin_of(c);
    };
    const auto chunk_of = [&](int64_t c) {
      return DeltaGradientChunk(d_state + state_floats + c * chunk_floats, rows_in(c), dk, dv);
    };
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t t = segment.row + begin_of(c);
      k_.delta.delta_products(rows_of(q, t, rows_in(c)).columns(key_head * dk, dk),
                              rows_of(k, t, rows_in(c)).columns(key_head * dk, dk), chunk_of(c), memory);
    }
    for (int64_t head = first_head; head < first_head + heads; ++head) {
      const int64_t member = head % group;
      const Rows to_q = partial(member, d_q, 0), to_k = partial(member, d_k, 1);
      const auto head_of = [&](int64_t c) {
        const int64_t t = segment.row + begin_of(c), n = rows_in(c);
        return DeltaGradientHead{.v = rows_of(v, t, n).columns(head * dv, dv),
                                 .beta = rows_of(beta, t, n).columns(head, 1),
                                 .log_decay = rows_of(log_decay, t, n).columns(head, 1),
                                 .d_out = rows_of(d_out, t, n).columns(head * dv, dv),
                                 .d_q = rows_of(to_q, t, n).columns(key_head * dk, dk),
                                 .d_k = rows_of(to_k, t, n).columns(key_head * dk, dk),
                                 .d_v = rows_of(d_v, t, n).columns(head * dv, dv),
                                 .d_beta = rows_of(d_beta, t, n).columns(head, 1),
                                 .d_log_decay = rows_of(d_log_decay, t, n).columns(head, 1),
                                 .add = together && member > 0,
                                 .has_state = c > 0 || segment.state != nullptr,
                                 .next = c + 1 < chunks ? chunk_of(c + 1).state : nullptr,
                                 .d_state = d_state,
                                 .has_d_state = c + 1 < chunks,
                                 .has_earlier = c > 0,
                                 .key_dim = dk,
                                 .value_dim = dv};
      };
      if (segment.state != nullptr) {
        for (int64_t d = 0; d < dk; ++d) {
          std::copy_n(segment.state + (head * dk + d) * dv, dv, chunk_of(0).state + d * ldv);
        }
      }
      for (int64_t c = 0; c < chunks; ++c) k_.delta.delta_forward(head_of(c), chunk_of(c), memory);
      for (int64_t c = chunks - 1; c >= 0; --c) k_.delta.delta_backward(head_of(c), chunk_of(c), memory);
    }
  });
  if (together) return;
  for (const DeltaSegment& segment : segments) {
    pool_.parallel_for(segment.rows, [&](int64_t i, int) {
      const int64_t t = segment.row + i;
      for (int64_t member = 1; member < group; ++member) {
        const float *from_q = partial(member, d_q, 0).row(t), *from_k = partial(member, d_k, 1).row(t);
        for (int64_t c = 0; c < q.cols; ++c) {
          d_q.row(t)[c] += from_q[c];
          d_k.row(t)[c] += from_k[c];
        }
      }
    });
  }
}

void CpuTrainingBackend::gated_rms_norm_backward(Rows x, Rows z, Vector gain, double eps, Rows d_out, Rows d_x,
                                                 Rows d_z, float* d_gain) {
  const int64_t n = gain.size, blocks = (x.rows + kRowBlock - 1) / kRowBlock;
  QNEXT_CHECK(n > 0 && x.cols % n == 0, "heads of {} in {}", n, x.cols);
  float* sums = d_gain == nullptr ? nullptr : shared_scratch_.floats(blocks * n);
  pool_.parallel_for(blocks, [&](int64_t block, int thread) {
    float* memory = scratch(thread, 2 * n);
    float* row_sum = memory + n;  // of one row first: fewer roundings on the way
    if (sums != nullptr) std::fill_n(sums + block * n, n, 0.0f);
    for (int64_t t = block * kRowBlock; t < std::min(x.rows, (block + 1) * kRowBlock); ++t) {
      std::fill_n(row_sum, n, 0.0f);
      for (int64_t c = 0; c < x.cols; c += n) {
        k_.delta.gated_rms_norm_backward(x.row(t) + c, z.row(t) + c, gain.data, static_cast<float>(eps),
                                         d_out.row(t) + c, d_x.row(t) + c, d_z.row(t) + c,
                                         sums == nullptr ? nullptr : row_sum, memory, n);
      }
      if (sums == nullptr) continue;
      for (int64_t i = 0; i < n; ++i) sums[block * n + i] += row_sum[i];
    }
  });
  if (d_gain == nullptr) return;
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0.0;
    for (int64_t block = 0; block < blocks; ++block) sum += static_cast<double>(sums[block * n + i]);
    d_gain[i] += static_cast<float>(sum);
  }
}

}  // namespace qnext
