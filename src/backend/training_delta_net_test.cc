// Gradients of the Gated DeltaNet operations. Convolution, gates and norm against complex steps of their definitions
// (exact to the last bits of double); the delta rule against its recurrence run backwards in double, which is itself
// held to complex steps.
#include <array>
#include <complex>
#include <functional>

#include "backend/cpu/training_backend.h"
#include "backend/testing/cases.h"

namespace qnext {
namespace {

using testing::Random;
using testing::same_bits;
using testing::Table;
using Complex = std::complex<double>;

/// Root mean square of the error, relative to that of what is expected; absolute when that is below what f32 holds.
double relative_rms(const std::vector<float>& got, const std::vector<double>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(got[i]) - expected[i];
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    error += difference * difference;
    size += expected[i] * expected[i];
  }
  return size < 1e-70 ? std::sqrt(error) : std::sqrt(error / size);
}

/// The scalar set computes in double between loads and stores.
double bound(Isa isa, double scalar, double fast) { return isa == Isa::kScalar ? scalar : fast; }

std::vector<Complex> complex_values(Table& table) {
  const std::vector<float> values = table.values();
  return {values.begin(), values.end()};
}

/// d loss / d x[i] for every i, with the imaginary part of loss(x + i h).
std::vector<double> complex_steps(std::vector<Complex>& x, const std::function<Complex()>& loss) {
  std::vector<double> out;
  for (Complex& value : x) {
    const Complex before = value;
    value += Complex(0.0, 1e-30);
    out.push_back(loss().imag() / 1e-30);
    value = before;
  }
  return out;
}

Complex silu(Complex x) { return x / (1.0 + std::exp(-x)); }

void fill(Rows x, float value) {
  for (int64_t t = 0; t < x.rows; ++t) std::fill_n(x.row(t), x.cols, value);
}

class TrainingDeltaNetTest : public ::testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Isas, TrainingDeltaNetTest, ::testing::ValuesIn(testing::isas()), testing::isa_test_name);

// ---- causal convolution
// --------------------------------------------------------------------------------------------------

struct ConvCase {
  int64_t kernel, dim, channels, rows = 0;
  std::vector<int64_t> lengths;
  std::vector<UnitNorm> norms;
  Table x, d_out;
  std::vector<float> taps, state;

  ConvCase(Random& random, int64_t kernel_size, int64_t head_dim, std::vector<int64_t> segment_rows, bool normed)
      : kernel(kernel_size),
        dim(head_dim),
        channels(6 * head_dim + 3),
        lengths(std::move(segment_rows)),
        x(0, 0),
        d_out(0, 0) {
    for (const int64_t n : lengths) rows += n;
    x = Table(random, rows + 1, channels, -2.0, 2.0);  // row 0 belongs to nobody
    d_out = Table(random, rows + 1, channels);
    taps = random.vector(channels * kernel);
    state = random.vector((kernel - 1) * channels);
    if (normed) norms = {{2 * dim, 4 * dim, dim, 1.0f}, {0, 2 * dim, dim, 0.25f}};
  }
  /// Odd segments begin with the state, even ones with zeros.
  std::vector<ConvSegment> segments() {
    std::vector<ConvSegment> list;
    int64_t row = 1;
    for (size_t i = 0; i < lengths.size(); ++i) {
      list.push_back({row, lengths[i], i % 2 == 1 ? state.data() : nullptr});
      row += lengths[i];
    }
    return list;
  }
  /// Of one segment; the others do not depend on its rows.
  Complex loss(const std::vector<Complex>& inputs, const std::vector<Complex>& weights, const ConvSegment& segment,
               int64_t from, int64_t to) {
    Complex sum = 0.0;
    std::vector<Complex> y(static_cast<size_t>(channels));
    for (int64_t t = from; t < to; ++t) {
      for (int64_t c = 0; c < channels; ++c) {
        Complex p = 0.0;
        for (int64_t m = 0; m < kernel; ++m) {
          const int64_t at = t - kernel + 1 + m;
          const Complex input = at >= 0 ? inputs[static_cast<size_t>((segment.row + at) * channels + c)]
                                : segment.state == nullptr ? Complex(0.0)
                                                           : Complex(segment.state[(at + kernel - 1) * channels + c]);
          p += weights[static_cast<size_t>(c * kernel + m)] * input;
        }
        y[static_cast<size_t>(c)] = silu(p);
      }
      for (const UnitNorm& norm : norms) {
        for (int64_t h = norm.begin; h < norm.end; h += norm.head_dim) {
          Complex squares = 1e-6;
          for (int64_t c = h; c < h + dim; ++c) squares += y[static_cast<size_t>(c)] * y[static_cast<size_t>(c)];
          for (int64_t c = h; c < h + dim; ++c)
            y[static_cast<size_t>(c)] *= static_cast<double>(norm.scale) / std::sqrt(squares);
        }
      }
      for (int64_t c = 0; c < channels; ++c) {
        sum += y[static_cast<size_t>(c)] * static_cast<double>(d_out.row(segment.row + t)[c]);
      }
    }
    return sum;
  }
};

TEST_P(TrainingDeltaNetTest, ConvolutionEqualsComplexSteps) {
  testing::Worst worst_x("d_x"), worst_taps("d_taps");
  const double limit = bound(GetParam(), 1e-6, 2e-6);
  const auto backend = make_cpu_training_backend(2, GetParam());
  Random random(1);
  for (const int64_t kernel : {2, 3, 4, 7}) {
    for (const bool normed : {false, true}) {
      ConvCase c(random, kernel, kernel == 3 ? 4 : 5, {1, 2, 17, 33}, normed);
      std::vector<Complex> inputs = complex_values(c.x), weights(c.taps.begin(), c.taps.end());
      std::vector<double> expected(static_cast<size_t>(c.channels));  // row 0
      std::fill(expected.begin(), expected.end(), 7.0);
      const auto segments = c.segments();
      for (const ConvSegment& segment : segments) {
        for (int64_t t = 0; t < segment.rows; ++t) {  // a row reaches kernel - 1 rows ahead
          for (int64_t i = 0; i < c.channels; ++i) {
            Complex& value = inputs[static_cast<size_t>((segment.row + t) * c.channels + i)];
            const Complex before = value;
            value += Complex(0.0, 1e-30);
            expected.push_back(c.loss(inputs, weights, segment, t, std::min(segment.rows, t + kernel)).imag() /
                               1e-30);
            value = before;
          }
        }
      }
      const std::vector<double> expected_taps = complex_steps(weights, [&] {
        Complex sum = 0.0;
        for (const ConvSegment& segment : segments) sum += c.loss(inputs, weights, segment, 0, segment.rows);
        return sum;
      });
      Table d_x(c.rows + 1, c.channels);
      fill(d_x, 7.0f);
      std::vector<float> d_taps(c.taps.size(), 0.0f);
      const std::vector<float> state_before = c.state;
      backend->causal_conv1d_silu_backward(segments, c.x, {c.taps.data(), c.channels * kernel}, kernel, c.norms,
                                           c.d_out, d_x, d_taps.data());
      EXPECT_LT(worst_x(relative_rms(d_x.values(), expected)), limit) << "kernel " << kernel;
      EXPECT_LT(worst_taps(relative_rms(d_taps, expected_taps)), limit) << "kernel " << kernel;
      EXPECT_TRUE(d_x.intact() && same_bits(c.state, state_before));
      const std::vector<float> once = d_taps, frozen_x = d_x.values();
      backend->causal_conv1d_silu_backward(segments, c.x, {c.taps.data(), c.channels * kernel}, kernel, c.norms,
                                           c.d_out, d_x, d_taps.data());
      for (size_t i = 0; i < once.size(); ++i) EXPECT_EQ(d_taps[i], 2.0f * once[i]);  // added to
      backend->causal_conv1d_silu_backward(segments, c.x, {c.taps.data(), c.channels * kernel}, kernel, c.norms,
                                           c.d_out, d_x, nullptr);
      EXPECT_TRUE(same_bits(d_x.values(), frozen_x));
    }
  }
}

TEST_P(TrainingDeltaNetTest, ConvolutionOfManyChannels) {
  // Many tasks, wide heads: the same bits for any number of threads, no gradient across documents, zero rows without
  // NaN.
  Random random(2);
  ConvCase c(random, 4, 128, {40, 25}, true);
  std::fill_n(c.x.row(30), c.channels, 0.0f);
  for (int64_t t = 46; t < 55; ++t) std::fill_n(c.x.row(t), c.channels, 0.0f);
  const auto run = [&](int threads, std::vector<float>& d_taps) {
    const auto backend = make_cpu_training_backend(threads, GetParam());
    Table d_x(c.rows + 1, c.channels);
    fill(d_x, 0.0f);
    d_taps.assign(c.taps.size(), 0.0f);
    backend->causal_conv1d_silu_backward(c.segments(), c.x, {c.taps.data(), c.channels * c.kernel}, c.kernel, c.norms,
                                         c.d_out, d_x, d_taps.data());
    EXPECT_TRUE(d_x.intact());
    return d_x.values();
  };
  std::vector<float> taps_one, taps_other;
  const std::vector<float> one = run(1, taps_one);
  for (const float value : one) ASSERT_TRUE(std::isfinite(value));
  for (const int threads : {2, 3}) {
    EXPECT_TRUE(same_bits(run(threads, taps_other), one) && same_bits(taps_one, taps_other)) << threads;
  }
  for (int64_t t = 1; t <= 40; ++t) {
    for (int64_t i = 0; i < c.channels; ++i) c.x.row(t)[i] += 1.0f, c.d_out.row(t)[i] *= -3.0f;
  }
  const std::vector<float> other = run(2, taps_other);
  const auto second = static_cast<size_t>(41 * c.channels);
  EXPECT_TRUE(same_bits(one.data() + second, other.data() + second, 25 * c.channels));
  EXPECT_FALSE(same_bits(one, other));
}

// ---- gates
// ---------------------------------------------------------------------------------------------------------------

TEST_P(TrainingDeltaNetTest, GatesEqualComplexSteps) {
  Random random(3);
  constexpr int64_t kRows = 75, kHeads = 5;
  Table b(random, kRows, kHeads, -6.0, 6.0),
      a(random, kRows, kHeads, -8.0, 30.0);  // on both sides of softplus' threshold
  Table d_beta(random, kRows, kHeads), d_log_decay(random, kRows, kHeads);
  std::vector<float> a_log = random.vector(kHeads, -2.0, 2.5), dt_bias = random.vector(kHeads);
  std::vector<Complex> cb = complex_values(b), ca = complex_values(a), clog(a_log.begin(), a_log.end()),
                       cbias(dt_bias.begin(), dt_bias.end());
  const auto loss = [&] {
    Complex sum = 0.0;
    for (int64_t t = 0; t < kRows; ++t) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const auto at = static_cast<size_t>(t * kHeads + h), head = static_cast<size_t>(h);
        const Complex x = ca[at] + cbias[head], softplus = x.real() > 20.0 ? x : std::log(1.0 + std::exp(x));
        sum += static_cast<double>(d_beta.row(t)[h]) / (1.0 + std::exp(-cb[at]));
        sum -= static_cast<double>(d_log_decay.row(t)[h]) * std::exp(clog[head]) * softplus;
      }
    }
    return sum;
  };
  const auto want_b = complex_steps(cb, loss), want_a = complex_steps(ca, loss), want_log = complex_steps(clog, loss),
             want_bias = complex_steps(cbias, loss);
  std::vector<float> first;
  for (const int threads : {1, 2, 3}) {
    const auto backend = make_cpu_training_backend(threads, GetParam());
    Table d_b(kRows, kHeads), d_a(kRows, kHeads);
    std::vector<float> d_log(kHeads, 0.0f), d_bias(kHeads, 0.0f);
    const Vector log_vector{a_log.data(), kHeads}, bias_vector{dt_bias.data(), kHeads};
    backend->delta_gates_backward(b, a, log_vector, bias_vector, d_beta, d_log_decay, d_b, d_a, d_log.data(),
                                  d_bias.data());
    EXPECT_LT(relative_rms(d_b.values(), want_b), 1e-6);
    EXPECT_LT(relative_rms(d_a.values(), want_a), 1e-6);
    EXPECT_LT(relative_rms(d_log, want_log), 1e-6);
    EXPECT_LT(relative_rms(d_bias, want_bias), 1e-6);
    EXPECT_TRUE(d_b.intact() && d_a.intact());
    std::vector<float> all = d_a.values();
    all.insert(all.end(), d_log.begin(), d_log.end());
    all.insert(all.end(), d_bias.begin(), d_bias.end());
    if (first.empty()) first = all;
    EXPECT_TRUE(same_bits(all, first));
    backend->delta_gates_backward(b, a, log_vector, bias_vector, d_beta, d_log_decay, d_b, d_a, nullptr, nullptr);
    EXPECT_LT(relative_rms(d_a.values(), want_a), 1e-6);
  }
}

// ---- norm
// ----------------------------------------------------------------------------------------------------------------

TEST_P(TrainingDeltaNetTest, GatedNormEqualsComplexSteps) {
  testing::Worst worst("relative_rms");
  const double limit = bound(GetParam(), 1e-6, 2e-6);
  Random random(4);
  for (const int64_t dim : {1, 7, 16, 20}) {
    constexpr int64_t kRows = 67, kHeads = 2;
    Table x(random, kRows, kHeads * dim, -2.0, 2.0), z(random, kRows, kHeads * dim, -4.0, 4.0),
        d_out(random, kRows, kHeads * dim);
    std::vector<float> gain = random.vector(dim, 0.5, 1.5);
    std::fill_n(x.row(3), kHeads * dim, 0.0f);
    std::vector<Complex> cx = complex_values(x), cz = complex_values(z), cg(gain.begin(), gain.end());
    constexpr double kEps = 0x1p-20;
    const auto head_loss = [&](int64_t t, int64_t h) {
      Complex squares = 0.0, sum = 0.0;
      const auto at = static_cast<size_t>(t * kHeads * dim + h * dim);
      for (size_t i = at; i < at + static_cast<size_t>(dim); ++i) squares += cx[i] * cx[i];
      const Complex scale = 1.0 / std::sqrt(squares / static_cast<double>(dim) + kEps);
      for (int64_t i = 0; i < dim; ++i) {
        const size_t j = at + static_cast<size_t>(i);
        sum +=
            static_cast<double>(d_out.row(t)[h * dim + i]) * cx[j] * scale * cg[static_cast<size_t>(i)] * silu(cz[j]);
      }
      return sum;
    };
    const auto own = [&](std::vector<Complex>& values) {  // every element against the loss of its own head
      std::vector<double> out;
      for (size_t i = 0; i < values.size(); ++i) {
        const auto head = static_cast<int64_t>(i) / dim;
        values[i] += Complex(0.0, 1e-30);
        out.push_back(head_loss(head / kHeads, head % kHeads).imag() / 1e-30);
        values[i] = values[i].real();
      }
      return out;
    };
    const auto want_x = own(cx), want_z = own(cz), want_gain = complex_steps(cg, [&] {
                                                     Complex sum = 0.0;
                                                     for (int64_t t = 0; t < kRows; ++t) {
                                                       for (int64_t h = 0; h < kHeads; ++h) sum += head_loss(t, h);
                                                     }
                                                     return sum;
                                                   });
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
      const auto backend = make_cpu_training_backend(threads, GetParam());
      Table d_x(kRows, kHeads * dim), d_z(kRows, kHeads * dim);
      std::vector<float> d_gain(static_cast<size_t>(dim), 0.0f);
      backend->gated_rms_norm_backward(x, z, {gain.data(), dim}, kEps, d_out, d_x, d_z, d_gain.data());
      // With one element the norm undoes itself: what is left of d_x is a difference of nearly equal numbers.
      if (dim > 1) {
        EXPECT_LT(worst(relative_rms(d_x.values(), want_x)), limit) << dim;
      }
      EXPECT_LT(worst(relative_rms(d_z.values(), want_z)), limit) << dim;
      EXPECT_LT(worst(relative_rms(d_gain, want_gain)), limit) << dim;
      EXPECT_TRUE(d_x.intact() && d_z.intact());
      if (first.empty()) first = d_gain;
      EXPECT_TRUE(same_bits(first, d_gain));
    }
  }
}

// ---- gated delta rule
// ----------------------------------------------------------------------------------------------------

struct Piece {
  int64_t rows, position;
  bool state;
};

/// Some documents in one batch, after a row that belongs to nobody.
struct DeltaCase {
  DeltaShape shape;
  std::vector<Piece> pieces;
  int64_t rows = 1;
  Table q, k, v, beta, log_decay, d_out;
  std::vector<std::vector<float>> states;

  DeltaCase(Random& random, DeltaShape s, std::vector<Piece> list)
      : shape(s), pieces(std::move(list)), q(0, 0), k(0, 0), v(0, 0), beta(0, 0), log_decay(0, 0), d_out(0, 0) {
    for (const Piece& piece : pieces) rows += piece.rows;
    q = Table(random, rows, s.key_heads * s.key_dim);
    k = Table(random, rows, s.key_heads * s.key_dim);
    v = Table(random, rows, s.value_heads * s.value_dim);
    beta = Table(random, rows, s.value_heads, 0.0, 1.0);
    log_decay = Table(random, rows, s.value_heads, -0.3, 0.0);
    d_out = Table(random, rows, s.value_heads * s.value_dim);
    for (const Piece& piece : pieces) {
      states.push_back(random.vector(piece.state ? s.value_heads * s.key_dim * s.value_dim : 0));
    }
    for (int64_t t = 0; t < rows; ++t) {
      unit_heads(q.row(t), 1.0 / std::sqrt(static_cast<double>(s.key_dim)));
      unit_heads(k.row(t), 1.0);
    }
  }
  void unit_heads(float* x, double scale) const {
    for (int64_t h = 0; h < shape.key_heads; ++h, x += shape.key_dim) {
      double squares = 1e-6;
      for (int64_t d = 0; d < shape.key_dim; ++d) squares += static_cast<double>(x[d]) * static_cast<double>(x[d]);
      for (int64_t d = 0; d < shape.key_dim; ++d) x[d] = static_cast<float>(x[d] * scale / std::sqrt(squares));
    }
  }
  std::vector<DeltaSegment> segments() {
    std::vector<DeltaSegment> list;
    int64_t row = 1;
    for (size_t i = 0; i < pieces.size(); ++i) {
      list.push_back({row, pieces[i].rows, pieces[i].position, pieces[i].state ? states[i].data() : nullptr});
      row += pieces[i].rows;
    }
    return list;
  }
};

/// d_q, d_k, d_v, d_beta, d_log_decay.
template <typename T>
using Five = std::array<std::vector<T>, 5>;

/// The inputs of a case, in T.
template <typename T>
Five<T> inputs_of(DeltaCase& c) {
  Five<T> in;
  Table* tables[] = {&c.q, &c.k, &c.v, &c.beta, &c.log_decay};
  for (size_t i = 0; i < 5; ++i) {
    const std::vector<float> values = tables[i]->values();
    in[i].assign(values.begin(), values.end());
  }
  return in;
}

/// The definition: sum of d_out * out over one segment and head; keeps what the backward sweep needs.
template <typename T>
struct Recurrence {
  std::vector<std::vector<T>> decayed, after, residual, u;  // of each row
  T loss = T(0.0);

  Recurrence(DeltaCase& c, const Five<T>& in, const DeltaSegment& segment, int64_t head) {
    const auto [hk, hv, dk, dv] = c.shape;
    const auto &q = in[0], &k = in[1], &v = in[2], &beta = in[3], &log_decay = in[4];
    std::vector<T> s(static_cast<size_t>(dk * dv), T(0.0));
    if (segment.state != nullptr) std::copy_n(segment.state + head * dk * dv, dk * dv, s.begin());
    for (int64_t t = segment.row; t < segment.row + segment.rows; ++t) {
      const auto gate = static_cast<size_t>(t * hv + head),
                 key = static_cast<size_t>((t * hk + head / (hv / hk)) * dk),
                 value = static_cast<size_t>((t * hv + head) * dv);
      const T alpha = std::exp(log_decay[gate]);
      for (T& x : s) x *= alpha;
      decayed.push_back(s);
      std::vector<T> r(static_cast<size_t>(dv)), write(static_cast<size_t>(dv));
      for (size_t e = 0; e < r.size(); ++e) {
        r[e] = v[value + e];
        for (size_t d = 0; d < static_cast<size_t>(dk); ++d) r[e] -= s[d * r.size() + e] * k[key + d];
        write[e] = beta[gate] * r[e];
        T read = T(0.0);
        for (size_t d = 0; d < static_cast<size_t>(dk); ++d) {
          s[d * r.size() + e] += k[key + d] * write[e];
          read += s[d * r.size() + e] * q[key + d];
        }
        loss += read * static_cast<double>(c.d_out.row(t)[head * dv + static_cast<int64_t>(e)]);
      }
      after.push_back(s);
      residual.push_back(r);
      u.push_back(write);
    }
  }
};

/// The recurrence backwards, token by token.
Five<double> expected_gradients(DeltaCase& c) {
  const auto [hk, hv, dk, dv] = c.shape;
  const Five<double> in = inputs_of<double>(c);
  Five<double> out;
  for (size_t i = 0; i < 5; ++i) out[i].assign(in[i].size(), 0.0);
  for (const DeltaSegment& segment : c.segments()) {
    for (int64_t head = 0; head < hv; ++head) {
      const Recurrence<double> forward(c, in, segment, head);
      std::vector<double> gamma(static_cast<size_t>(dk * dv), 0.0);  // of the state after row t
      for (int64_t t = segment.row + segment.rows - 1; t >= segment.row; --t) {
        const auto at = static_cast<size_t>(t - segment.row), width = static_cast<size_t>(dv);
        const auto gate = static_cast<size_t>(t * hv + head),
                   key = static_cast<size_t>((t * hk + head / (hv / hk)) * dk),
                   value = static_cast<size_t>((t * hv + head) * dv);
        const auto &before = forward.decayed[at], &after = forward.after[at];
        const float* d_out = c.d_out.row(t) + head * dv;
        for (size_t d = 0; d < static_cast<size_t>(dk); ++d) {
          for (size_t e = 0; e < width; ++e) {
            out[0][key + d] += after[d * width + e] * static_cast<double>(d_out[e]);
            gamma[d * width + e] += in[0][key + d] * static_cast<double>(d_out[e]);
          }
        }
        for (size_t e = 0; e < width; ++e) {
          double du = 0.0;
          for (size_t d = 0; d < static_cast<size_t>(dk); ++d) {
            du += gamma[d * width + e] * in[1][key + d];
            out[1][key + d] += gamma[d * width + e] * forward.u[at][e];
          }
          out[3][gate] += du * forward.residual[at][e];
          const double dv_e = in[3][gate] * du;
          out[2][value + e] += dv_e;
          for (size_t d = 0; d < static_cast<size_t>(dk); ++d) {
            out[1][key + d] -= before[d * width + e] * dv_e;
            gamma[d * width + e] -= in[1][key + d] * dv_e;
          }
        }
        const double alpha = std::exp(in[4][gate]);
        for (size_t i = 0; i < gamma.size(); ++i) {
          out[4][gate] += gamma[i] * before[i];
          gamma[i] *= alpha;
        }
      }
    }
  }
  return out;
}

constexpr const char* kNames[] = {"d_q", "d_k", "d_v", "d_beta", "d_log_decay"};

/// Without row 0.
Five<float> gradients(DeltaCase& c, Isa isa, int threads) {
  const auto backend = make_cpu_training_backend(threads, isa);
  const auto& s = c.shape;
  Table d_q(c.rows, s.key_heads * s.key_dim), d_k(c.rows, s.key_heads * s.key_dim),
      d_v(c.rows, s.value_heads * s.value_dim), d_beta(c.rows, s.value_heads), d_log_decay(c.rows, s.value_heads);
  const auto states_before = c.states;
  backend->gated_delta_rule_backward(c.segments(), s, c.q, c.k, c.v, c.beta, c.log_decay, c.d_out, d_q, d_k, d_v,
                                     d_beta, d_log_decay);
  for (size_t i = 0; i < c.states.size(); ++i) EXPECT_TRUE(same_bits(c.states[i], states_before[i]));
  Five<float> out;
  Table* tables[] = {&d_q, &d_k, &d_v, &d_beta, &d_log_decay};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(tables[i]->intact()) << kNames[i];
    EXPECT_TRUE(std::isnan(tables[i]->row(0)[0])) << "row 0 belongs to nobody";
    out[i] = tables[i]->values();
    std::fill_n(out[i].begin(), out[i].size() / static_cast<size_t>(c.rows), 0.0f);
  }
  return out;
}

const std::vector<Piece> kPieces = {{1, 0, false},  {63, 0, true},  {64, 17, false}, {65, 63, true},
                                    {1, 100, true}, {200, 5, true}, {200, 0, false}};

TEST(DeltaRuleOracleTest, EqualsComplexSteps) {
  Random random(5);
  DeltaCase c(random, {2, 4, 5, 7}, {{9, 0, true}, {6, 0, false}});
  const Five<double> expected = expected_gradients(c);
  Five<Complex> in = inputs_of<Complex>(c);
  for (size_t i = 0; i < 5; ++i) {
    const std::vector<double> steps = complex_steps(in[i], [&] {
      Complex sum = 0.0;
      for (const DeltaSegment& segment : c.segments()) {
        for (int64_t head = 0; head < c.shape.value_heads; ++head)
          sum += Recurrence<Complex>(c, in, segment, head).loss;
      }
      return sum;
    });
    for (size_t j = 0; j < steps.size(); ++j) ASSERT_NEAR(steps[j], expected[i][j], 1e-12) << kNames[i] << " " << j;
  }
}

TEST_P(TrainingDeltaNetTest, DeltaRuleEqualsRecurrenceBackwards) {
  testing::Worst worst[] = {testing::Worst("d_q"), testing::Worst("d_k"), testing::Worst("d_v"),
                            testing::Worst("d_beta"), testing::Worst("d_log_decay")};
  Random random(6);
  const double limit = bound(GetParam(), 1e-6, 2e-6);
  for (const DeltaShape& shape : {DeltaShape{1, 1, 16, 16},
                                  {2, 4, 8, 24},
                                  {1, 2, 5, 7},
                                  {2, 2, 33, 20},
                                  {1, 3, 64, 40},
                                  {1, 2, 128, 128},
                                  {1, 1, 3, 1}}) {
    DeltaCase c(random, shape, kPieces);
    const Five<double> expected = expected_gradients(c);
    const Five<float> got = gradients(c, GetParam(), 2);
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_LT(worst[i](relative_rms(got[i], expected[i])), limit)
          << kNames[i] << " of " << shape.key_heads << ", " << shape.value_heads << " heads, " << shape.key_dim
          << " x " << shape.value_dim;
    }
  }
}

TEST_P(TrainingDeltaNetTest, DeltaRuleWithExtremeGatesAndZeroVectors) {
  testing::Worst worst[] = {testing::Worst("d_q"), testing::Worst("d_k"), testing::Worst("d_v"),
                            testing::Worst("d_beta"), testing::Worst("d_log_decay")};
  Random random(7);
  const double limit = bound(GetParam(), 1e-6, 2e-6);
  for (int variant = 0; variant < 4; ++variant) {
    DeltaCase c(random, {1, 2, 12, 16}, kPieces);
    const float decays[] = {0.0f, -1e-6f, -300.0f, -5.0f, -90.0f, -1e-3f},
                betas[] = {0.0f, 1e-7f, 1.0f, 1.0f - 0x1p-24f, 0.5f};
    for (int64_t t = 0; t < c.rows; ++t) {
      for (int64_t h = 0; h < 2; ++h) {
        c.log_decay.row(t)[h] = variant == 1 ? -300.0f : variant == 2 ? 0.0f : decays[random.below(6)];
        c.beta.row(t)[h] = variant == 3 ? 0.0f : betas[random.below(5)];
      }
      if (random.below(5) == 0) std::fill_n(c.k.row(t), 12, 0.0f);
      if (random.below(5) == 0) std::fill_n(c.q.row(t), 12, 0.0f);
      if (random.below(9) == 0) std::fill_n(c.v.row(t), 32, 0.0f);
    }
    const Five<double> expected = expected_gradients(c);
    const Five<float> got = gradients(c, GetParam(), 2);
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_LT(worst[i](relative_rms(got[i], expected[i])), limit) << kNames[i] << ", variant " << variant;
    }
  }
}

TEST_P(TrainingDeltaNetTest, DeltaRuleHasTheSameBitsForAnyNumberOfThreads) {
  Random random(8);
  for (const DeltaShape& shape : {DeltaShape{1, 2, 32, 24}, {1, 4, 9, 8}, {2, 2, 16, 16}, {2, 6, 8, 8}}) {
    for (const auto& pieces : {kPieces, std::vector<Piece>{{130, 7, true}}}) {  // the latter: one task per value head
      DeltaCase c(random, shape, pieces);
      const Five<float> one = gradients(c, GetParam(), 1);
      for (const int threads : {2, 3}) {
        const Five<float> other = gradients(c, GetParam(), threads);
        for (size_t i = 0; i < 5; ++i)
          EXPECT_TRUE(same_bits(one[i], other[i])) << kNames[i] << ", " << threads << " threads";
      }
    }
  }
}

TEST_P(TrainingDeltaNetTest, DeltaRuleKeepsDocumentsApart) {
  Random random(9);
  DeltaCase c(random, {1, 2, 16, 16}, {{70, 0, false}, {90, 3, true}});
  const Five<float> before = gradients(c, GetParam(), 2);
  for (int64_t t = 1; t <= 70; ++t) {
    for (Table* table : {&c.q, &c.k, &c.v, &c.d_out}) {
      for (int64_t i = 0; i < table->view().cols; ++i) table->row(t)[i] *= -1.5f;
    }
    c.beta.row(t)[0] = 0.25f;
  }
  const Five<float> after = gradients(c, GetParam(), 2);
  for (size_t i = 0; i < 5; ++i) {
    const auto width = static_cast<int64_t>(before[i].size()) / c.rows;
    EXPECT_TRUE(same_bits(before[i].data() + 71 * width, after[i].data() + 71 * width, 90 * width)) << kNames[i];
    EXPECT_FALSE(same_bits(before[i], after[i])) << kNames[i];
  }
}

}  // namespace
}  // namespace qnext
