#include "train/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "train/testing/synthetic_run.h"

namespace qnext {
namespace {

using nlohmann::json;

Metrics metrics_of(const SyntheticRun& run, int64_t steps) {
  Metrics metrics;
  metrics.runs.push_back(
      {.report = run.report(), .hardware = {.cpu = "Test CPU", .cpus = 2, .memory_bytes = 1 << 30}, .time = 1e9});
  double time = 1e9;
  for (int64_t s = 1; s <= steps; ++s) {
    StepReport report = run.step(s);
    time += report.seconds;
    if (s % 10 != 0 && s != 1) report.loads.clear();
    metrics.steps.push_back({.report = std::move(report), .time = time, .peak_memory_bytes = 1 << 28});
  }
  metrics.evaluations.push_back({.report = run.evaluation(steps)});
  metrics.samples.push_back({.step = steps, .samples = run.samples(steps)});
  return metrics;
}

/// The data as a browser finds it in the page.
json data_of(const std::string& page) {
  static constexpr std::string_view kOpen = R"(<script type="application/json" id="data">)";
  const size_t begin = page.find(kOpen) + kOpen.size();
  return json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

TEST(Report, ShortRunsAreDrawnAsTheyAre) {
  const SyntheticRun run({.steps = 50});
  const Metrics metrics = metrics_of(run, 50);
  const json data = report_data(metrics, {.title = "small"});
  ASSERT_EQ(data["loss"]["y"].size(), 50);
  EXPECT_FALSE(data["loss"].contains("lo"));
  for (size_t i = 0; i < 50; ++i)
    EXPECT_NEAR(data["loss"]["y"][i], metrics.steps[i].report.loss, 1e-4 * metrics.steps[i].report.loss);
  EXPECT_EQ(data["x"]["step"][49], 50);
  EXPECT_EQ(data["x"]["tokens"][49], metrics.steps[49].report.tokens_seen);
  EXPECT_EQ(data["mtp_loss"].size(), 2);
  EXPECT_EQ(data["evaluations"]["step"], json::array({50}));
  EXPECT_EQ(data["state"], "running");
  EXPECT_EQ(data["run"]["cpu"], "Test CPU");
}

TEST(Report, LongRunsAreThinnedAndSpikesStayVisible) {
  const SyntheticRun run({.steps = 25'000, .layers = 2, .experts = 8, .mtp_steps = 1});
  const Metrics metrics = metrics_of(run, 25'000);
  const json data = report_data(metrics, {.title = "long"});
  EXPECT_EQ(data["loss"]["y"].size(), 1000);
  EXPECT_EQ(data["x"]["step"].back(), 25'000);
  const size_t spike = 10'000 / 25 - 1;  // its bucket ends with it
  EXPECT_GT(data["gradient_norm"]["hi"][spike].get<double>(),
            3 * data["gradient_norm"]["hi"][spike - 1].get<double>());
  double mean = 0;
  for (size_t i = 0; i < 25; ++i) mean += metrics.steps[i].report.loss / 25;
  EXPECT_NEAR(data["loss"]["y"][0], mean, 1e-3);
  EXPECT_LE(data["loads"][0]["cells"].size(), 120);
  EXPECT_LT(report_page(metrics, {.title = "long"}).size(), 600'000);
}

// The page's alphabet: position 32 is an equal share, 7.75 positions an octave.
TEST(Report, HeatMapCellsHoldTheLoad) {
  Metrics metrics;
  StepReport step{.step = 1};
  step.loads.push_back({.name = "layer 0", .tokens = {100, 200, 50, 50, 0, 200}, .rows = 300, .balance = 1.5});
  metrics.steps.push_back({.report = step});
  const json data = report_data(metrics, {});
  EXPECT_EQ(data["loads"][0]["cells"], json::array({"WeOO0e"}));  // 1, 2, 1/2, 1/2, none, 2 times
  EXPECT_EQ(data["loads"][0]["experts"], 6);
  EXPECT_EQ(data["loads"][0]["balance"], json::array({1.5}));
}

TEST(Report, TextOfTheRunIsNeverMarkup) {
  const std::string hostile =
      "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>&\"'\xff\xE2\x80\xA8";
  const SyntheticRun run({.steps = 5, .hostile = hostile});
  Metrics metrics = metrics_of(run, 5);
  metrics.steps.back().report.group_norms[0].name = hostile;
  metrics.steps[0].report.loads[0].name = hostile;
  metrics.checkpoints.push_back({5, hostile});
  const std::string plain = report_page(metrics_of(SyntheticRun({.steps = 5}), 5), {.title = "plain"});
  const std::string page = report_page(metrics, {.title = hostile});
  const auto tags = [](const std::string& text) { return std::ranges::count(text, '<'); };
  EXPECT_EQ(tags(page), tags(plain));
  EXPECT_EQ(page.find("alert(1)</script>"), page.npos);
  EXPECT_EQ(page.find('\xff'), page.npos);
  const json data = data_of(page);
  const std::string valid = hostile.substr(0, hostile.find('\xff')) + "\xEF\xBF\xBD\xE2\x80\xA8";
  EXPECT_EQ(data["samples"][0]["samples"][1]["text"], " The key is in the blue box." + valid);
  EXPECT_EQ(data["group_norms"][0]["name"], valid);
}

TEST(Report, EmptyAndBrokenRunsHaveAPage) {
  EXPECT_EQ(data_of(report_page({}, {.title = "nothing"}))["loss"]["y"].size(), 0);
  Metrics metrics;
  metrics.steps.push_back({.report = {.step = 1, .loss = NAN, .gradient_norm = INFINITY}, .time = NAN});
  const json data = data_of(report_page(metrics, {.title = "bad"}));
  EXPECT_TRUE(data["loss"]["y"][0].is_null());
  EXPECT_TRUE(data["gradient_norm"]["y"][0].is_null());
}

TEST(Report, PageReloadsOnlyWhileTheRunGoesOn) {
  Metrics metrics;
  EXPECT_TRUE(report_data(metrics, {.live = true})["live"]);
  EXPECT_FALSE(report_data(metrics, {})["live"]);
  metrics.end = EndRecord{.step = 3, .finished = true};
  const json data = report_data(metrics, {.live = true});
  EXPECT_FALSE(data["live"]);
  EXPECT_EQ(data["state"], "finished");
}

}  // namespace
}  // namespace qnext
