// The operations of a Gated DeltaNet layer, forwards and backwards, on one thread: nanoseconds of a token, and the
// ratio. Best of several rounds that alternate.
//   qnext_delta_gradient_benchmark [rows]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <random>
#include <vector>

#include "backend/cpu/training_backend.h"

namespace qnext {
namespace {

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// In a backend's memory, as a model's rows are.
struct Table {
  Buffer memory;
  Rows view;
  Table(Backend& backend, int64_t rows, int64_t cols, float low = -1.0f, float high = 1.0f)
      : memory(backend.allocate(rows * cols * static_cast<int64_t>(sizeof(float)))),
        view{reinterpret_cast<float*>(memory.data()), rows, cols, cols} {
    std::mt19937 engine(static_cast<uint32_t>(cols));
    std::uniform_real_distribution<float> uniform(low, high);
    for (int64_t i = 0; i < rows * cols; ++i) view.data[i] = uniform(engine);
  }
};

template <typename Forward, typename Backward>
void compare(const char* name, int64_t rows, Forward&& forward, Backward&& backward) {
  double best[2] = {1e30, 1e30};
  for (int round = 0; round < 7; ++round) {
    const double begin = thread_seconds();
    forward();
    const double middle = thread_seconds();
    backward();
    best[0] = std::min(best[0], middle - begin);
    best[1] = std::min(best[1], thread_seconds() - middle);
  }
  const double scale = 1e9 / static_cast<double>(rows);
  fmt::print("  {:<28} {:>9.0f} ns forward {:>9.0f} ns backward  {:.2f} x\n", name, best[0] * scale, best[1] * scale,
             best[1] / best[0]);
}

void layer(Isa isa, const DeltaShape& shape, int64_t rows) {
  const auto [hk, hv, dk, dv] = shape;
  const int64_t channels = 2 * hk * dk + hv * dv;
  fmt::print("{}: {} key heads of {}, {} value heads of {}, {} rows\n", isa_name(isa), hk, dk, hv, dv, rows);
  const auto backend = make_cpu_training_backend(1, isa);
  Table x(*backend, rows, channels), y(*backend, rows, channels), d_y(*backend, rows, channels),
      d_x(*backend, rows, channels), out(*backend, rows, hv * dv), d_out(*backend, rows, hv * dv),
      z(*backend, rows, hv * dv), d_z(*backend, rows, hv * dv), normed(*backend, rows, hv * dv),
      beta(*backend, rows, hv, 0.0f, 1.0f), log_decay(*backend, rows, hv, -0.3f, 0.0f), b(*backend, rows, hv),
      a(*backend, rows, hv), d_beta(*backend, rows, hv), d_log_decay(*backend, rows, hv), d_b(*backend, rows, hv),
      d_a(*backend, rows, hv);
  std::vector<float> taps(static_cast<size_t>(channels) * 4, 0.3f), d_taps(taps.size()),
      gain(static_cast<size_t>(dv), 1.0f), d_gain(gain.size()), gate(static_cast<size_t>(hv), 0.1f),
      d_gate(gate.size()), d_bias(gate.size());
  std::vector<float> conv_state(static_cast<size_t>(3 * channels)), state(static_cast<size_t>(hv * dk * dv));
  const UnitNorm norms[] = {{0, hk * dk, dk, 0.1f}, {hk * dk, 2 * hk * dk, dk, 1.0f}};
  const ConvSegment conv{0, rows, conv_state.data()};
  const Vector tap_vector{taps.data(), 4 * channels}, gain_vector{gain.data(), dv}, gate_vector{gate.data(), hv};
  compare(
      "conv_silu_norm", rows, [&] { backend->causal_conv1d_silu({&conv, 1}, x.view, tap_vector, 4, norms, y.view); },
      [&] {
        backend->causal_conv1d_silu_backward({&conv, 1}, x.view, tap_vector, 4, norms, d_y.view, d_x.view,
                                             d_taps.data());
      });
  compare(
      "gates", rows,
      [&] { backend->delta_gates(b.view, a.view, gate_vector, gate_vector, beta.view, log_decay.view); },
      [&] {
        backend->delta_gates_backward(b.view, a.view, gate_vector, gate_vector, d_beta.view, d_log_decay.view,
                                      d_b.view, d_a.view, d_gate.data(), d_bias.data());
      });
  const auto part = [&](Table& t, int64_t which) {
    return t.view.columns(which * hk * dk, which == 2 ? hv * dv : hk * dk);
  };
  compare(
      "gated_delta_rule", rows,
      [&] {
        std::fill(state.begin(), state.end(), 0.0f);
        const DeltaSegment segment{0, rows, 0, state.data()};
        backend->gated_delta_rule({&segment, 1}, shape, part(y, 0), part(y, 1), part(y, 2), beta.view, log_decay.view,
                                  out.view);
      },
      [&] {
        const DeltaSegment segment{0, rows, 0, nullptr};
        backend->gated_delta_rule_backward({&segment, 1}, shape, part(y, 0), part(y, 1), part(y, 2), beta.view,
                                           log_decay.view, d_out.view, part(d_y, 0), part(d_y, 1), part(d_y, 2),
                                           d_beta.view, d_log_decay.view);
      });
  compare(
      "gated_rms_norm", rows, [&] { backend->gated_rms_norm(out.view, z.view, gain_vector, 1e-6, normed.view); },
      [&] {
        backend->gated_rms_norm_backward(out.view, z.view, gain_vector, 1e-6, d_out.view, normed.view, d_z.view,
                                         d_gain.data());
      });
}

}  // namespace
}  // namespace qnext

int main(int argc, char** argv) {
  const int64_t rows = argc > 1 ? std::atoll(argv[1]) : 1024;
  for (const qnext::Isa isa : {qnext::Isa::kAvx2, qnext::Isa::kAvx512}) {
    if (isa > qnext::detect_isa()) continue;
    for (const qnext::DeltaShape& shape : {qnext::DeltaShape{4, 4, 64, 64}, {16, 32, 128, 128}})
      qnext::layer(isa, shape, rows);
  }
}
