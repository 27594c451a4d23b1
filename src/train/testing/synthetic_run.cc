#include "train/testing/synthetic_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

namespace qnext {

namespace {
constexpr int64_t kBatch = 8192;

double expected_loss(double step, double steps) { return 1.6 + 6.7 * std::pow(1 + 200 * step / steps, -0.55); }
}  // namespace

RunReport SyntheticRun::report() const {
  return {.config_text = fmt::format("[run]\noutput = \"RUN\"  # {}\n\n[optimizer]\nkind = \"adamw\"\nsteps = {}\n",
                                     shape_.hostile, shape_.steps),
          .parameters = 11'300'000,
          .active_parameters = 4'750'000,
          .steps = shape_.steps,
          .first_step = 0,
          .batch_tokens = kBatch,
          .peak_flops = 84e9,
          .products = "bf16 (amx)",
          .threads = 2};
}

StepReport SyntheticRun::step(int64_t step) const {
  std::mt19937_64 random(static_cast<uint64_t>(step) * 7919 + 17);
  std::normal_distribution<double> noise(0.0, 1.0);
  const double s = static_cast<double>(step), n = static_cast<double>(shape_.steps), done = s / n;
  const bool spike = step == shape_.steps * 2 / 5;
  StepReport r{.step = step, .tokens = kBatch, .tokens_seen = kBatch * step, .targets = kBatch - 31};
  r.documents_seen = 31 * step;
  r.epoch = step * 2 / shape_.steps;
  r.sequence_length = done < 0.5 ? 1024 : 4096;
  r.loss = expected_loss(s, n) * (1 + 0.015 * noise(random)) + (spike ? 0.9 : 0);
  for (int64_t d = 0; d < shape_.mtp_steps; ++d) {
    r.mtp_loss.push_back(r.loss * (1.12 + 0.15 * static_cast<double>(d)) * (1 + 0.01 * noise(random)));
    r.mtp_acceptance.push_back(std::clamp(
        (0.86 - 0.2 * static_cast<double>(d)) * (1 - std::exp(-6 * done)) + 0.01 * noise(random), 0.0, 1.0));
  }
  r.balance_loss = 0.001 * (1.02 + 0.8 * std::exp(-20 * done)) * (1 + 0.004 * noise(random));
  r.z_loss = 1e-4 * (0.4 + 2 * std::exp(-9 * done)) * (1 + 0.02 * noise(random));
  r.total_loss = r.loss + r.balance_loss + r.z_loss;
  r.gradient_norm = (0.35 + 4 * std::exp(-12 * done)) * std::exp(0.18 * noise(random)) * (spike ? 12 : 1);
  r.clipped = r.gradient_norm > 1;
  const auto group = [&](std::string name, double share) {
    r.group_norms.push_back({std::move(name), r.gradient_norm * share * std::exp(0.1 * noise(random))});
  };
  group("embedding", 0.2);
  for (int64_t l = 0; l < shape_.layers; ++l)
    group(fmt::format("layer {}", l), 0.5 / std::sqrt(static_cast<double>(l + 1)));
  group("mtp", 0.15);
  group("head", 0.4);
  const double warm = std::min(1.0, s / (0.03 * n));
  r.learning_rate = 3e-3 * warm * (0.1 + 0.9 * 0.5 * (1 + std::cos(std::numbers::pi * done)));
  r.seconds = (done < 0.5 ? 2.1 : 2.4) * (1 + 0.03 * std::abs(noise(random)));
  r.data_seconds = 0.01 * r.seconds;
  r.forward_seconds = 0.31 * r.seconds;
  r.backward_seconds = 0.6 * r.seconds;
  r.optimizer_seconds = 0.08 * r.seconds;
  r.flops = 6.0 * 4.75e6 * kBatch * 0.35;
  for (int64_t l = 0; l <= shape_.layers; ++l) {
    LayerLoad load{.name = l < shape_.layers ? fmt::format("layer {}", l) : "mtp", .rows = kBatch};
    double sum = 0;
    std::vector<double> shares;
    for (int64_t e = 0; e < shape_.experts; ++e) {
      std::mt19937_64 taste(static_cast<uint64_t>(l * 1000 + e));
      const double preference = noise(taste) * (0.15 + 1.1 * std::exp(-8 * done));
      noise.reset();
      shares.push_back(std::exp(preference + 0.05 * noise(random)));
      if (e == 3 && l == 1 && done > 0.3 && done < 0.7) shares.back() = 0;
      sum += shares.back();
    }
    for (const double share : shares) {
      load.tokens.push_back(static_cast<int64_t>(share / sum * static_cast<double>(kBatch * shape_.chosen)));
    }
    load.balance = 1.02 + 0.8 * std::exp(-20 * done);
    r.loads.push_back(std::move(load));
  }
  return r;
}

EvaluationReport SyntheticRun::evaluation(int64_t step) const {
  EvaluationReport r{.step = step, .tokens_seen = kBatch * step, .tokens = 100'000, .targets = 99'000};
  const double s = static_cast<double>(step), n = static_cast<double>(shape_.steps);
  r.loss = expected_loss(s, n) + 0.05 + 0.1 * s / n;
  for (int64_t d = 0; d < shape_.mtp_steps; ++d) {
    r.mtp_loss.push_back(r.loss * 1.15);
    r.mtp_acceptance.push_back((0.84 - 0.2 * static_cast<double>(d)) * (1 - std::exp(-6 * s / n)));
  }
  r.seconds = 4.2;
  return r;
}

std::vector<SampleText> SyntheticRun::samples(int64_t step) const {
  return {{"The lighthouse stood",
           fmt::format(" on a small island, and after {} steps its lamp turned.\n{}", step, shape_.hostile)},
          {"Where is the key?", " The key is in the blue box." + shape_.hostile}};
}

}  // namespace qnext
