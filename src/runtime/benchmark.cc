#include "runtime/benchmark.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/philox.h"

namespace qnext {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Groups of one kind of step, and what they said.
struct Groups {
  std::vector<double> kept, dropped;
  void add(double seconds, bool keep) { (keep ? kept : dropped).push_back(seconds); }
  double result() const { return kept.empty() ? *std::min_element(dropped.begin(), dropped.end()) : median(kept); }
};

constexpr int64_t kComputedTokens = 512;  // of a context that is otherwise copied

}  // namespace

void label_matrices(const Weights& weights, Profile& profile) {
  const auto label = [&](const Matrix& matrix, const char* name) { profile.labels.insert_or_assign(&matrix, name); };
  const auto label_layer = [&](const LayerWeights& layer) {
    if (const auto* delta = std::get_if<GatedDeltaNetWeights>(&layer.mixer)) {
      for (const Matrix* m : {&delta->q, &delta->k, &delta->v, &delta->z, &delta->b, &delta->a}) label(*m, "DeltaNet projections in");
      label(delta->out, "DeltaNet projection out");
    } else {
      const auto& attention = std::get<GatedAttentionWeights>(layer.mixer);
      for (const Matrix* m : {&attention.q, &attention.gate, &attention.k, &attention.v}) label(*m, "attention projections in");
      label(attention.out, "attention projection out");
    }
    if (const auto* moe = std::get_if<MoeWeights>(&layer.mlp)) {
      label(moe->router, "router");
      label(moe->shared_gate, "router");
    }
  };
  for (const LayerWeights& layer : weights.layers) label_layer(layer);
  label(weights.lm_head, "head");
  if (weights.mtp) {
    label_layer(weights.mtp->layer);
    label(weights.mtp->fc, "MTP projection in");
  }
}

Benchmark::Benchmark(const std::filesystem::path& model, EngineOptions options, const GateOptions& gate) : gate_(gate) {
  const Clock::time_point start = Clock::now();
  options.wrap_backend = [this](std::unique_ptr<Backend> inner) { return make_profiling_backend(std::move(inner), profile_); };
  engine_ = std::make_unique<Engine>(model, options);
  open_seconds_ = seconds_since(start);
  label_matrices(engine_->weights(), *profile_);
  const auto sequence = engine_->create_sequence();
  const std::vector<int32_t> first = tokens(1);
  const Feed feed{sequence.get(), first, LogitRows::kLast};
  engine_->step({&feed, 1});
  first_token_seconds_ = seconds_since(start);
}

std::vector<int32_t> Benchmark::tokens(int64_t count) {
  // Different tokens throughout, so that routing is as spread as the weights make it.
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(philox_uniform(1, next_token_++) * static_cast<double>(engine_->config().vocab_size));
  }
  return ids;
}

Measurement Benchmark::measure(const std::function<double()>& group) {
  const int threads = engine_->options().threads;
  const auto probe = [&] { return gate_.probe_seconds > 0 ? delivered_cpu(threads, gate_.probe_seconds) : 1.0; };
  Groups groups;
  std::vector<double> delivered{probe()};
  const Clock::time_point start = Clock::now();
  do {
    const double seconds = group();
    delivered.push_back(probe());
    groups.add(seconds, std::min(delivered.back(), delivered[delivered.size() - 2]) >= gate_.least_delivered);
  } while (static_cast<int>(groups.kept.size()) < gate_.groups && seconds_since(start) < gate_.seconds);
  Measurement result;
  result.seconds = groups.result();
  result.delivered = median(delivered);
  result.kept = static_cast<int>(groups.kept.size());
  result.dropped = static_cast<int>(groups.dropped.size());
  return result;
}

Measurement Benchmark::prefill(int64_t count) {
  Engine& engine = *engine_;
  const int threads = engine.options().threads;
  const int64_t chunk = engine.options().batch_rows, steps = (count + chunk - 1) / chunk;
  const auto probe = [&] { return gate_.probe_seconds > 0 ? delivered_cpu(threads, gate_.probe_seconds) : 1.0; };
  std::vector<Groups> of_step(static_cast<size_t>(steps));
  std::vector<double> delivered{probe()};
  const auto sequence = engine.create_sequence();
  profile_->reset();
  Measurement result;
  const Clock::time_point start = Clock::now();
  const auto enough = [&] {
    return std::all_of(of_step.begin(), of_step.end(),
                       [&](const Groups& g) { return static_cast<int>(g.kept.size()) >= gate_.groups; });
  };
  do {
    sequence->reset();
    const std::vector<int32_t> prompt = tokens(count);
    for (int64_t done = 0, step = 0; done < count; done += chunk, ++step) {
      const int64_t rows = std::min(chunk, count - done);
      const Feed feed{sequence.get(), std::span(prompt).subspan(static_cast<size_t>(done), static_cast<size_t>(rows)),
                      done + rows == count ? LogitRows::kLast : LogitRows::kNone};
      const Clock::time_point begin = Clock::now();
      engine.step({&feed, 1});
      const double seconds = seconds_since(begin);
      delivered.push_back(probe());
      const bool keep = std::min(delivered.back(), delivered[delivered.size() - 2]) >= gate_.least_delivered;
      of_step[static_cast<size_t>(step)].add(seconds, keep);
      ++(keep ? result.kept : result.dropped);
    }
    ++result.profiled_steps;
  } while (!enough() && seconds_since(start) < gate_.seconds);
  for (const Groups& groups : of_step) result.seconds += groups.result();
  if (std::any_of(of_step.begin(), of_step.end(), [](const Groups& g) { return g.kept.empty(); })) result.kept = 0;
  result.delivered = median(delivered);
  result.profile = *profile_;
  result.work = profile_->total();
  result.work.bytes /= result.profiled_steps;
  result.work.flops /= result.profiled_steps;
  return result;
}

void Benchmark::fill(Sequence& sequence, int64_t context) {
  Engine& engine = *engine_;
  const std::vector<int32_t> prompt = tokens(std::min(context, kComputedTokens));
  engine.prefill(sequence, prompt, LogitRows::kNone, 0, {});
  if (context <= kComputedTokens) return;
  sequence.reserve(context - kComputedTokens);
  SequenceState& state = sequence.state();
  constexpr int64_t kComputedBlocks = kComputedTokens / kBlockTokens;
  for (size_t block = kComputedBlocks; block < state.kv_blocks.size(); ++block) {
    std::memcpy(state.kv_blocks[block], state.kv_blocks[block % kComputedBlocks],
                static_cast<size_t>(engine.layout().kv_block_bytes));
  }
  state.length = context;
}

Measurement Benchmark::decode(int64_t context, int64_t batch) {
  Engine& engine = *engine_;
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int64_t i = 0; i < batch; ++i) {
    sequences.push_back(engine.create_sequence());
    fill(*sequences.back(), context);
  }
  const auto step = [&] {
    const std::vector<int32_t> next = tokens(batch);
    std::vector<Feed> feeds;
    for (size_t i = 0; i < sequences.size(); ++i) feeds.push_back({sequences[i].get(), {&next[i], 1}, LogitRows::kLast});
    engine.step(feeds);
  };
  const Clock::time_point begin = Clock::now();
  step();  // the arena for logits, and weights that were never read
  const double first = seconds_since(begin);
  const int64_t steps = first > 0.5 ? 1 : first > 0.2 ? 2 : kDecodeSteps;
  profile_->reset();
  int64_t taken = 0;
  Measurement result = measure([&] {
    for (const auto& sequence : sequences) sequence->state().length = context;  // so that every group costs the same
    const Clock::time_point start = Clock::now();
    for (int64_t i = 0; i < steps; ++i) step();
    taken += steps;
    return seconds_since(start) / static_cast<double>(steps);
  });
  result.profile = *profile_;
  result.profiled_steps = taken;
  result.work = profile_->total();
  result.work.bytes /= taken;
  result.work.flops /= taken;
  return result;
}

MemoryUse memory_use() {
  std::ifstream status("/proc/self/status");
  MemoryUse use;
  std::string line;
  while (std::getline(status, line)) {
    for (const auto& [key, value] : {std::pair{"VmHWM:", &use.peak}, {"RssFile:", &use.file}, {"RssAnon:", &use.anonymous}}) {
      if (line.starts_with(key)) *value = std::atoll(line.c_str() + std::strlen(key)) * 1024;
    }
  }
  return use;
}

void forget_peak_memory() { std::ofstream("/proc/self/clear_refs") << 5; }

}  // namespace qnext
