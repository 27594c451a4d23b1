// What the page of a report draws, from a run's metrics: thinned to what a screen can show.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "train/report.h"

namespace qnext {

namespace {

using Json = nlohmann::json;

constexpr size_t kMaxPoints = 1000;
constexpr size_t kMaxCells = 300'000;
constexpr size_t kMaxColumns = 120, kMinColumns = 8;
constexpr size_t kMaxSampleSets = 200, kMaxSampleBytes = 20'000;
constexpr double kStepsPerOctave = 7.75;  // of a heat map's cells; the page has the same number

/// Steps that become one point of the curves.
struct Bucket {
  size_t begin, end;
};

std::vector<Bucket> buckets_of(size_t count) {
  const size_t size = std::max<size_t>(1, (count + kMaxPoints - 1) / kMaxPoints);
  std::vector<Bucket> buckets;
  for (size_t i = 0; i < count; i += size) buckets.push_back({i, std::min(count, i + size)});
  return buckets;
}

/// Five significant digits; what is not finite is null.
Json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  if (value == 0) return 0;
  return std::strtod(fmt::format("{:.5g}", value).c_str(), nullptr);
}

using Value = std::function<double(const StepRecord&)>;

/// {"y": means, "lo": least, "hi": greatest}, the last two only where steps were put together.
Json series(const std::vector<StepRecord>& steps, const std::vector<Bucket>& buckets, const Value& value,
            bool range) {
  Json y = Json::array(), lo = Json::array(), hi = Json::array();
  bool thinned = false;
  for (const Bucket& bucket : buckets) {
    double sum = 0, least = HUGE_VAL, greatest = -HUGE_VAL;
    size_t n = 0;
    for (size_t i = bucket.begin; i < bucket.end; ++i) {
      const double v = value(steps[i]);
      if (!std::isfinite(v)) continue;
      sum += v;
      least = std::min(least, v);
      greatest = std::max(greatest, v);
      ++n;
    }
    thinned |= bucket.end - bucket.begin > 1;
    y.push_back(n > 0 ? rounded(sum / static_cast<double>(n)) : Json(nullptr));
    lo.push_back(rounded(least));
    hi.push_back(rounded(greatest));
  }
  Json out{{"y", std::move(y)}};
  if (range && thinned) {
    out["lo"] = std::move(lo);
    out["hi"] = std::move(hi);
  }
  return out;
}

Value element(std::vector<double> StepReport::* list, size_t index) {
  return [=](const StepRecord& r) { return index < (r.report.*list).size() ? (r.report.*list)[index] : NAN; };
}

Json series_per_mtp_step(const std::vector<StepRecord>& steps, const std::vector<Bucket>& buckets,
                         std::vector<double> StepReport::* list) {
  size_t depth = 0;
  for (const StepRecord& record : steps) depth = std::max(depth, (record.report.*list).size());
  Json all = Json::array();
  for (size_t d = 0; d < depth; ++d) all.push_back(series(steps, buckets, element(list, d), false));
  return all;
}

Json group_norms(const std::vector<StepRecord>& steps, const std::vector<Bucket>& buckets) {
  Json groups = Json::array();
  if (steps.empty()) return groups;
  const std::vector<GroupNorm>& names = steps.back().report.group_norms;
  for (size_t g = 0; g < names.size(); ++g) {
    const Value value = [g](const StepRecord& r) {
      return g < r.report.group_norms.size() ? r.report.group_norms[g].gradient_norm : NAN;
    };
    Json group = series(steps, buckets, value, false);
    group["name"] = names[g].name;
    groups.push_back(std::move(group));
  }
  return groups;
}

/// A cell of the heat map as one character: '0' for an expert that got nothing, else the logarithm of its load
/// relative to an equal share, from '1' (1/16) over 'W' (1) to '_' (16 times); the page has the same alphabet.
char cell(double relative) {
  static constexpr char kCells[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
  if (relative <= 0) return kCells[0];
  const double position = 32 + std::round(std::log2(relative) * kStepsPerOctave);
  return kCells[static_cast<size_t>(std::clamp(position, 1.0, 63.0))];
}

/// Per MoE layer: columns over time, in each one character per expert.
Json expert_loads(const std::vector<StepRecord>& steps) {
  std::vector<const StepReport*> with_loads;
  for (const StepRecord& record : steps) {
    if (!record.report.loads.empty()) with_loads.push_back(&record.report);
  }
  Json layers = Json::array();
  if (with_loads.empty()) return layers;
  const std::vector<LayerLoad>& shape = with_loads.back()->loads;
  size_t cells_per_column = 0;
  for (const LayerLoad& layer : shape) cells_per_column += layer.tokens.size();
  const size_t columns = std::clamp(kMaxCells / std::max<size_t>(1, cells_per_column), kMinColumns, kMaxColumns);
  const size_t size = (with_loads.size() + columns - 1) / columns;
  for (size_t l = 0; l < shape.size(); ++l) {
    const size_t experts = shape[l].tokens.size();
    if (experts == 0) continue;
    Json from = Json::array(), to = Json::array(), cells = Json::array(), balance = Json::array();
    for (size_t i = 0; i < with_loads.size(); i += size) {
      std::vector<double> sums(experts);
      double total = 0, balance_sum = 0;
      size_t n = 0;
      const size_t end = std::min(with_loads.size(), i + size);
      for (size_t k = i; k < end; ++k) {
        if (l >= with_loads[k]->loads.size() || with_loads[k]->loads[l].tokens.size() != experts) continue;
        const LayerLoad& load = with_loads[k]->loads[l];
        for (size_t e = 0; e < experts; ++e) {
          sums[e] += static_cast<double>(load.tokens[e]);
          total += static_cast<double>(load.tokens[e]);
        }
        balance_sum += load.balance;
        ++n;
      }
      if (total <= 0) continue;
      std::string column;
      for (const double sum : sums) column += cell(sum * static_cast<double>(experts) / total);
      from.push_back(with_loads[i]->step);
      to.push_back(with_loads[end - 1]->step);
      cells.push_back(std::move(column));
      balance.push_back(rounded(balance_sum / static_cast<double>(n)));
    }
    layers.push_back({{"name", shape[l].name},
                      {"experts", experts},
                      {"from", from},
                      {"to", to},
                      {"cells", cells},
                      {"balance", balance}});
  }
  return layers;
}

std::string cut(const std::string& text) {
  if (text.size() <= kMaxSampleBytes) return text;
  size_t end = kMaxSampleBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + " [cut]";
}

/// The first sample sets, the last ones, and some of those between.
Json sample_texts(const std::vector<SamplesRecord>& records) {
  Json all = Json::array();
  const size_t every = std::max<size_t>(1, (records.size() + kMaxSampleSets - 1) / kMaxSampleSets);
  for (size_t i = 0; i < records.size(); ++i) {
    if (i % every != 0 && i + 1 != records.size()) continue;
    Json set = Json::array();
    for (const SampleText& sample : records[i].samples) {
      set.push_back({{"prompt", cut(sample.prompt)}, {"text", cut(sample.text)}});
    }
    all.push_back({{"step", records[i].step}, {"samples", std::move(set)}});
  }
  return all;
}

Json evaluations(const std::vector<EvaluationRecord>& records) {
  Json step = Json::array(), tokens = Json::array(), loss = Json::array();
  size_t depth = 0;
  for (const EvaluationRecord& r : records) depth = std::max(depth, r.report.mtp_acceptance.size());
  std::vector<Json> acceptance(depth, Json::array());
  for (const EvaluationRecord& r : records) {
    step.push_back(r.report.step);
    tokens.push_back(r.report.tokens_seen);
    loss.push_back(rounded(r.report.loss));
    for (size_t d = 0; d < depth; ++d) {
      acceptance[d].push_back(d < r.report.mtp_acceptance.size() ? rounded(r.report.mtp_acceptance[d])
                                                                 : Json(nullptr));
    }
  }
  return {{"step", step}, {"tokens", tokens}, {"loss", loss}, {"acceptance", acceptance}};
}

/// Hours of work until the end of each bucket: steps alone, so that the time between two sittings does not count.
Json hours(const std::vector<StepRecord>& steps, const std::vector<Bucket>& buckets) {
  Json out = Json::array();
  double seconds = 0;
  for (const Bucket& bucket : buckets) {
    for (size_t i = bucket.begin; i < bucket.end; ++i) {
      if (std::isfinite(steps[i].report.seconds)) seconds += steps[i].report.seconds;
    }
    out.push_back(rounded(seconds / 3600));
  }
  return out;
}

Json run_facts(const RunRecord& run, size_t sittings) {
  const RunReport& r = run.report;
  return {{"parameters", r.parameters},
          {"active_parameters", r.active_parameters},
          {"steps", r.steps},
          {"batch_tokens", r.batch_tokens},
          {"peak_flops", rounded(r.peak_flops)},
          {"products", r.products},
          {"threads", r.threads},
          {"ranks", r.ranks},
          {"cpu", run.hardware.cpu},
          {"cpus", run.hardware.cpus},
          {"memory_bytes", run.hardware.memory_bytes},
          {"sittings", sittings},
          {"config", r.config_text}};
}

Json latest_facts(const Metrics& metrics) {
  const StepRecord& last = metrics.steps.back();
  // Time left from the wall time of recent steps, evaluations between them included.
  const size_t back = std::min<size_t>(metrics.steps.size() - 1, 50);
  const StepRecord& earlier = metrics.steps[metrics.steps.size() - 1 - back];
  double pace =
      back > 0 ? (last.time - earlier.time) / static_cast<double>(last.report.step - earlier.report.step) : NAN;
  if (!(pace > 0)) pace = last.report.seconds;
  const int64_t steps = metrics.runs.empty() ? last.report.step : metrics.runs.back().report.steps;
  Json facts{{"step", last.report.step},
             {"tokens_seen", last.report.tokens_seen},
             {"documents_seen", last.report.documents_seen},
             {"epoch", last.report.epoch},
             {"loss", rounded(last.report.loss)},
             {"seconds_left", rounded(pace * static_cast<double>(std::max<int64_t>(0, steps - last.report.step)))},
             {"peak_memory_bytes", last.peak_memory_bytes}};
  facts["time"] = static_cast<int64_t>(std::isfinite(last.time) ? last.time : 0);
  const EvaluationRecord* best = nullptr;
  for (const EvaluationRecord& r : metrics.evaluations) {
    if (std::isfinite(r.report.loss) && (best == nullptr || r.report.loss < best->report.loss)) best = &r;
  }
  if (best != nullptr) facts["best"] = {{"step", best->report.step}, {"loss", rounded(best->report.loss)}};
  if (!metrics.checkpoints.empty()) {
    facts["checkpoint"] = {{"step", metrics.checkpoints.back().step}, {"path", metrics.checkpoints.back().path}};
  }
  return facts;
}

}  // namespace

nlohmann::json report_data(const Metrics& metrics, const ReportOptions& options) {
  const std::vector<StepRecord>& steps = metrics.steps;
  const std::vector<Bucket> buckets = buckets_of(steps.size());
  const double peak = metrics.runs.empty() ? 0.0 : metrics.runs.back().report.peak_flops;
  Json data{
      {"title", options.title},
      {"live", options.live && !metrics.end},
      {"reload_seconds", options.reload_seconds},
      {"written",
       std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count()},
      {"state", !metrics.end            ? "running"
                : metrics.end->finished ? "finished"
                                        : "stopped"},
      {"evaluations", evaluations(metrics.evaluations)},
      {"samples", sample_texts(metrics.samples)},
      {"loads", expert_loads(steps)}};
  if (!metrics.runs.empty()) data["run"] = run_facts(metrics.runs.back(), metrics.runs.size());
  if (!steps.empty()) data["latest"] = latest_facts(metrics);

  Json& x = data["x"] = {{"step", Json::array()}, {"tokens", Json::array()}, {"hours", hours(steps, buckets)}};
  for (const Bucket& bucket : buckets) {
    x["step"].push_back(steps[bucket.end - 1].report.step);
    x["tokens"].push_back(steps[bucket.end - 1].report.tokens_seen);
  }
  const auto one = [&](const Value& value, bool range = false) { return series(steps, buckets, value, range); };
  const auto field = [](double StepReport::* member) -> Value {
    return [member](const StepRecord& r) { return r.report.*member; };
  };
  data["loss"] = one(field(&StepReport::loss), true);
  data["total_loss"] = one(field(&StepReport::total_loss));
  data["mtp_loss"] = series_per_mtp_step(steps, buckets, &StepReport::mtp_loss);
  data["mtp_acceptance"] = series_per_mtp_step(steps, buckets, &StepReport::mtp_acceptance);
  data["gradient_norm"] = one(field(&StepReport::gradient_norm), true);
  data["group_norms"] = group_norms(steps, buckets);
  data["learning_rate"] = one(field(&StepReport::learning_rate));
  if (std::ranges::any_of(steps, [](const StepRecord& r) { return r.report.muon_learning_rate > 0; })) {
    data["muon_learning_rate"] = one(field(&StepReport::muon_learning_rate));
  }
  data["balance_loss"] = one(field(&StepReport::balance_loss));
  data["z_loss"] = one(field(&StepReport::z_loss));
  data["tokens_per_second"] = one([](const StepRecord& r) { return r.report.tokens_per_second(); }, true);
  data["flops_per_second"] = one([](const StepRecord& r) { return r.report.flops_per_second(); });
  if (peak > 0)
    data["fraction_of_peak"] = one([=](const StepRecord& r) { return r.report.flops_per_second() / peak; });
  data["sequence_length"] = one([](const StepRecord& r) { return static_cast<double>(r.report.sequence_length); });
  data["peak_memory"] = one([](const StepRecord& r) { return static_cast<double>(r.peak_memory_bytes); });
  data["forward"] = one(field(&StepReport::forward_seconds));
  data["backward"] = one(field(&StepReport::backward_seconds));
  data["optimizer"] = one(field(&StepReport::optimizer_seconds));
  data["data"] = one(field(&StepReport::data_seconds));
  return data;
}

}  // namespace qnext
