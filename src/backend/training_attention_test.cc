// Gradients of gated attention and of the norm and rotary embedding of its heads, against derivatives in double.
#include <fmt/format.h>

#include "backend/cpu/training_backend.h"
#include "backend/testing/gradients.h"
#include "base/testing/sanitized.h"

namespace qnext {
namespace {

using testing::Dual;
using testing::gradient_tolerance;
using testing::Random;
using testing::relative_rms;
using testing::same_bits;
using testing::Table;

struct Span {
  int64_t position, rows;
};

/// Sequences of one batch, whose keys before their positions were appended earlier; what was not appended is NaN.
struct Batch {
  KvLayout layout;
  int64_t group;
  std::vector<Span> spans;
  int64_t rows;
  Table q, gate, k, v, d_out;
  std::vector<Table> old_k, old_v;
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::vector<std::byte*>> blocks;
  std::vector<AttentionSegment> segments;
  static constexpr int64_t kOffset = 64;

  Batch(Random& random, int64_t kv_heads, int64_t dim, int64_t group_size, std::vector<Span> list)
      : layout{DType::kF32, kv_heads, dim},
        group(group_size),
        spans(std::move(list)),
        rows(count(spans)),
        q(random, rows, heads() * dim, -2.0, 2.0),
        gate(random, rows, heads() * dim, -4.0, 4.0),
        k(random, rows, kv_heads * dim),
        v(random, rows, kv_heads * dim),
        d_out(random, rows, heads() * dim) {
    memory.reserve(1000);
    int64_t row = 0;
    for (const Span& span : spans) {
      std::vector<std::byte*>& list_of_blocks = blocks.emplace_back();
      for (int64_t t = 0; t < span.position + span.rows; t += kBlockTokens) {
        memory.emplace_back(static_cast<size_t>(kOffset + layout.bytes()), std::byte{0xFF});
        list_of_blocks.push_back(memory.back().data());
      }
      segments.push_back({row, span.rows, span.position, {list_of_blocks.data(), kOffset}});
      old_k.emplace_back(random, span.position, kv_heads * dim);
      old_v.emplace_back(random, span.position, kv_heads * dim);
      row += span.rows;
    }
    for (size_t i = 0; i < segments.size(); ++i) segments[i].kv.blocks = blocks[i].data();
  }
  static int64_t count(const std::vector<Span>& spans) {
    int64_t total = 0;
    for (const Span& span : spans) total += span.rows;
    return total;
  }
  int64_t heads() const { return layout.heads * group; }

  struct Gradients {
    std::vector<float> q, gate, k, v;
  };
  Gradients run(TrainingBackend& backend) {
    for (size_t i = 0; i < spans.size(); ++i) {
      const AttentionSegment before{0, spans[i].position, 0, segments[i].kv};
      backend.kv_append({&before, 1}, layout, old_k[i], old_v[i]);
    }
    const int64_t width = heads() * layout.head_dim, kv_width = layout.heads * layout.head_dim;
    Table out(rows, width), lse(rows, heads()), d_q(rows, width), d_gate(rows, width), d_k(rows, kv_width), d_v(rows, kv_width);
    backend.kv_append(segments, layout, k, v);
    backend.gated_attention(segments, layout, q, gate, out, lse);
    backend.gated_attention_backward(segments, layout, q, gate, out, lse, d_out, d_q, d_gate, d_k, d_v);
    EXPECT_TRUE(d_q.intact() && d_gate.intact() && d_k.intact() && d_v.intact());
    return {d_q.values(), d_gate.values(), d_k.values(), d_v.values()};
  }
};

/// Parameters or gradients of a batch, row-major without gaps.
template <typename T>
struct Values {
  std::vector<T> q, gate, k, v;
};

Values<double> parameters(Batch& b) {
  const auto wide = [](Table& table) {
    const std::vector<float> values = table.values();
    return std::vector<double>(values.begin(), values.end());
  };
  return {wide(b.q), wide(b.gate), wide(b.k), wide(b.v)};
}

/// Visits every (row, head) with the softmax of its scores: visit(row, head, keys, weights), keys being offsets: those of the
/// batch's own rows are [Hkv*A] rows of k and v, earlier ones of the old tables.
template <typename T, typename Visit>
void attend(Batch& b, const Values<T>& x, Visit&& visit) {
  const int64_t dim = b.layout.head_dim, width = b.heads() * dim, kv_width = b.layout.heads * dim;
  std::vector<T> weights, keys, values;
  for (size_t s = 0; s < b.spans.size(); ++s) {
    const Span& span = b.spans[s];
    const int64_t first = b.segments[s].row;
    for (int64_t h = 0; h < b.layout.heads; ++h) {
      keys.clear(), values.clear();  // [position + rows, A]
      for (int64_t j = 0; j < span.position + span.rows; ++j) {
        for (int64_t d = 0; d < dim; ++d) {
          const int64_t column = h * dim + d, own = (first + j - span.position) * kv_width + column;
          keys.push_back(j < span.position ? T(b.old_k[s].row(j)[column]) : x.k[static_cast<size_t>(own)]);
          values.push_back(j < span.position ? T(b.old_v[s].row(j)[column]) : x.v[static_cast<size_t>(own)]);
        }
      }
      for (int64_t head = h * b.group; head < (h + 1) * b.group; ++head) {
        for (int64_t t = 0; t < span.rows; ++t) {
          const T* q = x.q.data() + (first + t) * width + head * dim;
          weights.clear();
          T sum = 0.0;
          for (int64_t j = 0; j <= span.position + t; ++j) {
            T score = 0.0;
            for (int64_t d = 0; d < dim; ++d) score += q[d] * keys[static_cast<size_t>(j * dim + d)];
            using std::exp;
            weights.push_back(exp(score * T(1.0 / std::sqrt(static_cast<double>(dim)))));  // scores are small
            sum += weights.back();
          }
          for (T& weight : weights) weight = weight / sum;
          visit(s, t, h, head, weights, keys, values);
        }
      }
    }
  }
}

/// The derivative of sum(d_out * out) in the direction `along`.
double directional(Batch& b, const Values<double>& along) {
  Values<double> at = parameters(b);
  Values<Dual> x;
  const auto pair = [](const std::vector<double>& value, const std::vector<double>& slope) {
    std::vector<Dual> out;
    for (size_t i = 0; i < value.size(); ++i) out.push_back({value[i], slope[i]});
    return out;
  };
  x = {pair(at.q, along.q), pair(at.gate, along.gate), pair(at.k, along.k), pair(at.v, along.v)};
  const int64_t dim = b.layout.head_dim;
  Dual loss = 0.0;
  attend(b, x, [&](size_t s, int64_t t, int64_t, int64_t head, const std::vector<Dual>& weights, const std::vector<Dual>&,
                   const std::vector<Dual>& values) {
    const int64_t row = b.segments[s].row + t;
    for (int64_t d = 0; d < dim; ++d) {
      Dual sum = 0.0;
      for (size_t j = 0; j < weights.size(); ++j) sum += weights[j] * values[j * static_cast<size_t>(dim) + static_cast<size_t>(d)];
      const int64_t column = head * dim + d;
      const Dual gate = x.gate[static_cast<size_t>(row * b.heads() * dim + column)];
      loss += Dual(b.d_out.row(row)[column]) * sum / (Dual(1.0) + exp(Dual(0.0) - gate));
    }
  });
  return loss.slope;
}

/// The gradients in double, by the softmax's Jacobian row by row.
Values<double> expected_gradients(Batch& b) {
  const Values<double> x = parameters(b);
  Values<double> g{std::vector<double>(x.q.size()), std::vector<double>(x.gate.size()), std::vector<double>(x.k.size()),
                   std::vector<double>(x.v.size())};
  const int64_t dim = b.layout.head_dim, width = b.heads() * dim, kv_width = b.layout.heads * dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  attend(b, x, [&](size_t s, int64_t t, int64_t h, int64_t head, const std::vector<double>& weights,
                   const std::vector<double>& keys, const std::vector<double>& values) {
    const Span& span = b.spans[s];
    const int64_t row = b.segments[s].row + t, own = b.segments[s].row - span.position;  // row of key 0, were it in the batch
    const double* q = x.q.data() + row * width + head * dim;
    double* d_q = g.q.data() + row * width + head * dim;
    std::vector<double> d_o(static_cast<size_t>(dim)), d_weights(weights.size());
    for (int64_t d = 0; d < dim; ++d) {
      const int64_t column = head * dim + d;
      double o = 0.0;
      for (size_t j = 0; j < weights.size(); ++j) o += weights[j] * values[j * static_cast<size_t>(dim) + static_cast<size_t>(d)];
      const double open = testing::sigmoid(x.gate[static_cast<size_t>(row * width + column)]), d_out = b.d_out.row(row)[column];
      g.gate[static_cast<size_t>(row * width + column)] = d_out * o * open * (1.0 - open);
      d_o[static_cast<size_t>(d)] = d_out * open;
    }
    double mean = 0.0;
    for (size_t j = 0; j < weights.size(); ++j) {
      for (size_t d = 0; d < d_o.size(); ++d) d_weights[j] += d_o[d] * values[j * d_o.size() + d];
      mean += weights[j] * d_weights[j];
    }
    for (size_t j = 0; j < weights.size(); ++j) {
      const double d_score = weights[j] * (d_weights[j] - mean) * scale;
      const auto key = static_cast<int64_t>(j);
      for (int64_t d = 0; d < dim; ++d) d_q[d] += d_score * keys[static_cast<size_t>(key * dim + d)];
      if (key < span.position) continue;
      double *d_k = g.k.data() + (own + key) * kv_width + h * dim, *d_v = g.v.data() + (own + key) * kv_width + h * dim;
      for (int64_t d = 0; d < dim; ++d) {
        d_k[d] += d_score * q[d];
        d_v[d] += weights[j] * d_o[static_cast<size_t>(d)];
      }
    }
  });
  return g;
}

double root_mean_square(const std::vector<double>& x) {
  double sum = 0.0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum / static_cast<double>(x.size()));
}
double inner(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

class TrainingAttentionTest : public ::testing::TestWithParam<Isa> {
 protected:
  void check(Batch& b, const std::string& what) {
    const Values<double> expected = expected_gradients(b);
    const Batch::Gradients got = b.run(*backend_);
    // A lone first token attends to itself alone: the gradients of its query and key are zero but for rounding.
    const double floor = b.rows == 1 && b.spans[0].position == 0 ? root_mean_square(expected.v) : 0.0;
    const double tolerance = gradient_tolerance(GetParam());
    EXPECT_LT(worst_(relative_rms(got.q, expected.q, floor)), tolerance) << "d_q, " << what;
    EXPECT_LT(worst_(relative_rms(got.k, expected.k, floor)), tolerance) << "d_k, " << what;
    EXPECT_LT(worst_(relative_rms(got.v, expected.v)), tolerance) << "d_v, " << what;
    EXPECT_LT(worst_(relative_rms(got.gate, expected.gate)), tolerance) << "d_gate, " << what;
  }
  const std::unique_ptr<TrainingBackend> backend_ = make_cpu_training_backend(2, GetParam());
  testing::Worst worst_{"relative_rms"};
};

const std::vector<std::vector<Span>> kBatches = {
    {{0, 1}},    {{0, 63}},  {{0, 64}},  {{0, 65}},  {{0, 200}},
    {{37, 1}},   {{64, 63}}, {{37, 65}}, {{130, 2}}, {{0, 40}, {70, 65}, {5, 0}, {128, 10}, {0, 3}},
};

TEST(TrainingAttentionOracle, EqualsForwardModeDerivatives) {
  Random random(1);
  for (const std::vector<Span>& spans : kBatches) {
    Batch b(random, 2, 20, 3, spans);
    const Values<double> g = expected_gradients(b);
    for (int part = 0; part < 4; ++part) {  // one tensor at a time
      Values<double> along{std::vector<double>(g.q.size()), std::vector<double>(g.gate.size()), std::vector<double>(g.k.size()),
                           std::vector<double>(g.v.size())};
      std::vector<double>& moved = part == 0 ? along.q : part == 1 ? along.gate : part == 2 ? along.k : along.v;
      for (double& x : moved) x = random.uniform(-1.0, 1.0);
      const double by_gradient = inner(g.q, along.q) + inner(g.gate, along.gate) + inner(g.k, along.k) + inner(g.v, along.v);
      EXPECT_NEAR(by_gradient, directional(b, along), 1e-10) << "part " << part << " of " << spans.size() << " spans";
    }
  }
}

TEST_P(TrainingAttentionTest, GradientsEqualThoseInDouble) {
  Random random(2);
  struct Shape {
    int64_t kv_heads, dim, group;
  };
  for (const Shape shape : {Shape{2, 32, 1}, {1, 64, 4}, {2, 20, 2}, {1, 40, 8}, {1, 7, 1}}) {
    for (const std::vector<Span>& spans : kBatches) {
      if (testing::kSanitized && (shape.dim > 32 || spans[0].rows == 200)) continue;
      Batch b(random, shape.kv_heads, shape.dim, shape.group, spans);
      check(b, fmt::format("{} KV heads of {}, {} heads each, {} + {} rows", shape.kv_heads, shape.dim, shape.group,
                           spans[0].position, spans[0].rows));
    }
  }
}

TEST_P(TrainingAttentionTest, WideHeads) {
  Random random(3);
  for (const std::vector<Span>& spans : {std::vector<Span>{{0, 65}}, {{30, 70}, {0, 1}}}) {
    Batch b(random, 1, 256, testing::kSanitized ? 1 : 8, spans);
    check(b, "head 256");
  }
}

TEST_P(TrainingAttentionTest, ThreadsChangeNoBit) {
  Random random(4);
  for (const int64_t group : {1, 4}) {
    Batch b(random, 2, 24, group, {{0, testing::kSanitized ? 100 : 300}, {70, 65}, {0, 20}});
    const Batch::Gradients one = b.run(*make_cpu_training_backend(1, GetParam()));
    for (const int threads : {2, 3}) {
      const Batch::Gradients more = b.run(*make_cpu_training_backend(threads, GetParam()));
      EXPECT_TRUE(same_bits(one.q, more.q) && same_bits(one.gate, more.gate) && same_bits(one.k, more.k) &&
                  same_bits(one.v, more.v))
          << threads << " threads";
    }
  }
}

TEST_P(TrainingAttentionTest, LargeScoresStayFinite) {
  // One key has all the weight; rows that underflow have no gradient, and none is NaN.
  Random random(5);
  Batch b(random, 1, 32, 2, {{0, 150}});
  for (int64_t t = 0; t < b.rows; ++t) {
    for (int64_t c = 0; c < 64; ++c) b.q.row(t)[c] *= 1000.0f;
  }
  const Batch::Gradients got = b.run(*backend_);
  for (const auto* part : {&got.q, &got.gate, &got.k, &got.v}) {
    for (const float x : *part) ASSERT_TRUE(std::isfinite(x));
  }
}

// ---- norm and rotary embedding of heads

/// The derivatives of sum(d_out * out) of one head with respect to x and the gain.
void expected_norm_rope(const float* x, const float* gain, int64_t n, double eps, const float* cos, const float* sin,
                        int64_t pairs, const float* d_out, double* d_x, double* d_gain) {
  const auto loss = [&](int64_t moved_x, int64_t moved_gain) {
    std::vector<Dual> y;
    Dual squares = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      const Dual value(x[i], i == moved_x ? 1.0 : 0.0);
      squares += value * value;
      y.push_back(value * (Dual(1.0) + Dual(gain[i], i == moved_gain ? 1.0 : 0.0)));
    }
    const Dual root = sqrt(squares / Dual(static_cast<double>(n)) + Dual(eps));
    Dual sum = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      const auto at = [&](int64_t index) { return y[static_cast<size_t>(index)] / root; };
      Dual rotated = at(i);
      if (i < pairs) rotated = at(i) * Dual(cos[i]) - at(i + pairs) * Dual(sin[i]);
      if (i >= pairs && i < 2 * pairs) rotated = at(i) * Dual(cos[i - pairs]) + at(i - pairs) * Dual(sin[i - pairs]);
      sum += rotated * Dual(d_out[i]);
    }
    return sum.slope;
  };
  for (int64_t i = 0; i < n; ++i) {
    d_x[i] = loss(i, -1);
    d_gain[i] += loss(-1, i);
  }
}

TEST_P(TrainingAttentionTest, HeadNormAndRope) {
  Random random(6);
  struct Shape {
    int64_t heads, dim, pairs;
  };
  for (const Shape shape : {Shape{2, 32, 16}, {3, 64, 8}, {1, 256, 32}, {2, 20, 3}, {1, 10, 0}}) {
    for (const int64_t rows : {1, 63, 64, 65, 200}) {
      if (rows > 65 && shape.dim > 64) continue;
      const int64_t width = shape.heads * shape.dim;
      Table x(random, rows, width, -3.0, 3.0), d_out(random, rows, width), cos(random, rows, shape.pairs),
          sin(random, rows, shape.pairs), d_x(rows, width);
      const std::vector<float> gain = random.vector(shape.dim), before = random.vector(shape.dim);
      std::vector<double> expected(static_cast<size_t>(rows * width)), expected_gain(before.begin(), before.end());
      for (int64_t t = 0; t < rows; ++t) {
        for (int64_t c = 0; c < width; c += shape.dim) {
          expected_norm_rope(x.row(t) + c, gain.data(), shape.dim, 1e-3, cos.row(t), sin.row(t), shape.pairs, d_out.row(t) + c,
                             expected.data() + t * width + c, expected_gain.data());
        }
      }
      const Vector parameter{gain.data(), shape.dim};
      std::vector<float> d_gain = before;
      backend_->head_norm_rope_backward(x, shape.dim, parameter, 1e-3, cos, sin, d_out, d_x, d_gain.data());
      EXPECT_TRUE(d_x.intact());
      const double tolerance = gradient_tolerance(GetParam());
      EXPECT_LT(worst_(relative_rms(d_x.values(), expected)), tolerance) << rows << " rows, head " << shape.dim;
      EXPECT_LT(worst_(relative_rms(d_gain, expected_gain)), tolerance) << rows << " rows, head " << shape.dim;
      for (const int threads : {1, 3}) {  // other threads, and in place
        std::vector<float> again = before;
        Table in_place = d_out;
        make_cpu_training_backend(threads, GetParam())
            ->head_norm_rope_backward(x, shape.dim, parameter, 1e-3, cos, sin, in_place, in_place, again.data());
        EXPECT_TRUE(same_bits(in_place.values(), d_x.values()) && same_bits(again, d_gain)) << threads << " threads";
      }
      Table frozen(rows, width);
      backend_->head_norm_rope_backward(x, shape.dim, parameter, 1e-3, cos, sin, d_out, frozen, nullptr);
      EXPECT_TRUE(same_bits(frozen.values(), d_x.values()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, TrainingAttentionTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

}  // namespace
}  // namespace qnext
