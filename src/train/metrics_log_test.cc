#include "train/metrics_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "train/testing/synthetic_run.h"

namespace qnext {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class MetricsLogTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(directory_); }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string text() const {
    std::ifstream file(path_, std::ios::binary);
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
  }
  void append(std::string_view bytes) const { std::ofstream(path_, std::ios::binary | std::ios::app) << bytes; }
  Metrics read() const {
    MetricsReader reader(path_);
    reader.update();
    return reader.metrics();
  }
  std::vector<int64_t> steps() const {
    std::vector<int64_t> list;
    for (const StepRecord& record : read().steps) list.push_back(record.report.step);
    return list;
  }

  const std::filesystem::path directory_ =
      std::filesystem::temp_directory_path() / ("qnext_metrics_" + std::to_string(getpid()));
  const std::filesystem::path path_ = directory_ / "metrics.jsonl";
};

TEST_F(MetricsLogTest, EveryFieldComesBack) {
  const SyntheticRun run({.steps = 100});
  StepReport step = run.step(10);
  step.clipped = true;
  step.muon_learning_rate = 0.02;
  EvaluationReport evaluation = run.evaluation(10);
  evaluation.best = true;
  {
    MetricsLog log(path_, 0);
    log.begin(run.report());
    log.step(step);
    log.evaluation(evaluation);
    log.samples(10, run.samples(10));
    log.checkpoint(10, "RUN/step-00000010");
    log.end(false);
  }
  const Metrics metrics = read();
  ASSERT_EQ(metrics.runs.size(), 1);
  const RunReport& r = metrics.runs[0].report;
  EXPECT_EQ(r.config_text, run.report().config_text);
  EXPECT_EQ(r.parameters, run.report().parameters);
  EXPECT_EQ(r.active_parameters, run.report().active_parameters);
  EXPECT_EQ(r.steps, 100);
  EXPECT_EQ(r.batch_tokens, run.report().batch_tokens);
  EXPECT_EQ(r.peak_flops, run.report().peak_flops);
  EXPECT_EQ(r.products, "bf16 (amx)");
  EXPECT_EQ(r.threads, 2);
  EXPECT_GT(metrics.runs[0].hardware.memory_bytes, 1 << 20);
  EXPECT_GT(metrics.runs[0].hardware.cpus, 0);

  ASSERT_EQ(metrics.steps.size(), 1);
  EXPECT_GT(metrics.steps[0].time, 1e9);
  EXPECT_GT(metrics.steps[0].peak_memory_bytes, 1 << 20);
  const StepReport& s = metrics.steps[0].report;
  EXPECT_EQ(s.step, 10);
  EXPECT_EQ(s.tokens, step.tokens);
  EXPECT_EQ(s.tokens_seen, step.tokens_seen);
  EXPECT_EQ(s.targets, step.targets);
  EXPECT_EQ(s.documents_seen, step.documents_seen);
  EXPECT_EQ(s.epoch, step.epoch);
  EXPECT_EQ(s.sequence_length, step.sequence_length);
  EXPECT_EQ(s.loss, step.loss);
  EXPECT_EQ(s.mtp_loss, step.mtp_loss);
  EXPECT_EQ(s.mtp_acceptance, step.mtp_acceptance);
  EXPECT_EQ(s.balance_loss, step.balance_loss);
  EXPECT_EQ(s.z_loss, step.z_loss);
  EXPECT_EQ(s.total_loss, step.total_loss);
  EXPECT_EQ(s.gradient_norm, step.gradient_norm);
  EXPECT_TRUE(s.clipped);
  EXPECT_EQ(s.learning_rate, step.learning_rate);
  EXPECT_EQ(s.muon_learning_rate, 0.02);
  EXPECT_EQ(s.seconds, step.seconds);
  EXPECT_EQ(s.forward_seconds, step.forward_seconds);
  EXPECT_EQ(s.backward_seconds, step.backward_seconds);
  EXPECT_EQ(s.optimizer_seconds, step.optimizer_seconds);
  EXPECT_EQ(s.data_seconds, step.data_seconds);
  EXPECT_EQ(s.flops, step.flops);
  ASSERT_EQ(s.group_norms.size(), step.group_norms.size());
  EXPECT_EQ(s.group_norms[1].name, step.group_norms[1].name);
  EXPECT_EQ(s.group_norms[1].gradient_norm, step.group_norms[1].gradient_norm);
  ASSERT_EQ(s.loads.size(), step.loads.size());
  for (size_t l = 0; l < s.loads.size(); ++l) {
    EXPECT_EQ(s.loads[l].name, step.loads[l].name);
    EXPECT_EQ(s.loads[l].tokens, step.loads[l].tokens);
    EXPECT_EQ(s.loads[l].rows, step.loads[l].rows);
    EXPECT_EQ(s.loads[l].balance, step.loads[l].balance);
  }

  ASSERT_EQ(metrics.evaluations.size(), 1);
  const EvaluationReport& e = metrics.evaluations[0].report;
  EXPECT_EQ(e.step, 10);
  EXPECT_EQ(e.tokens_seen, evaluation.tokens_seen);
  EXPECT_EQ(e.tokens, evaluation.tokens);
  EXPECT_EQ(e.targets, evaluation.targets);
  EXPECT_EQ(e.loss, evaluation.loss);
  EXPECT_EQ(e.mtp_loss, evaluation.mtp_loss);
  EXPECT_EQ(e.mtp_acceptance, evaluation.mtp_acceptance);
  EXPECT_EQ(e.seconds, evaluation.seconds);
  EXPECT_TRUE(e.best);

  ASSERT_EQ(metrics.samples.size(), 1);
  ASSERT_EQ(metrics.samples[0].samples.size(), run.samples(10).size());
  EXPECT_EQ(metrics.samples[0].samples[0].prompt, run.samples(10)[0].prompt);
  EXPECT_EQ(metrics.samples[0].samples[0].text, run.samples(10)[0].text);
  ASSERT_EQ(metrics.checkpoints.size(), 1);
  EXPECT_EQ(metrics.checkpoints[0].path, "RUN/step-00000010");
  ASSERT_TRUE(metrics.end);
  EXPECT_FALSE(metrics.end->finished);
  EXPECT_EQ(metrics.end->step, 10);
}

TEST_F(MetricsLogTest, LoadsAreWrittenNowAndThen) {
  const SyntheticRun run({.steps = 25});
  MetricsLog log(path_, 0);
  log.begin(run.report());
  for (int64_t s = 1; s <= 25; ++s) log.step(run.step(s));
  std::vector<int64_t> with_loads;
  for (const StepRecord& record : read().steps) {
    if (!record.report.loads.empty()) with_loads.push_back(record.report.step);
  }
  EXPECT_THAT(with_loads, ElementsAre(1, 10, 20, 25));
}

TEST_F(MetricsLogTest, WhatIsNotFiniteOrNotUtf8Survives) {
  StepReport step{.step = 1, .loss = NAN, .mtp_loss = {INFINITY, 2.0}};
  MetricsLog log(path_, 0);
  log.step(step);
  const std::vector<SampleText> samples{{"a\xff", "\"\\\n\x01</script>"}};
  log.samples(1, samples);
  const Metrics metrics = read();
  EXPECT_TRUE(std::isnan(metrics.steps.at(0).report.loss));
  EXPECT_TRUE(std::isnan(metrics.steps.at(0).report.mtp_loss.at(0)));
  EXPECT_EQ(metrics.steps.at(0).report.mtp_loss.at(1), 2.0);
  EXPECT_EQ(metrics.samples.at(0).samples.at(0).prompt, "a\xEF\xBF\xBD");
  EXPECT_EQ(metrics.samples.at(0).samples.at(0).text, samples[0].text);
}

TEST_F(MetricsLogTest, ResumedRunDropsWhatLiesBeyondItsCheckpoint) {
  const SyntheticRun run({.steps = 20});
  {
    MetricsLog log(path_, 0);
    log.begin(run.report());
    for (int64_t s = 1; s <= 8; ++s) log.step(run.step(s));
    log.evaluation(run.evaluation(8));
    log.end(false);
  }
  append(R"({"kind":"step","step":9,"lo)");  // killed while writing
  RunReport again = run.report();
  again.first_step = 5;
  MetricsLog log(path_, 5);
  EXPECT_THAT(steps(), ElementsAre(1, 2, 3, 4, 5));
  log.begin(again);
  log.step(run.step(6));
  EXPECT_THAT(steps(), ElementsAre(1, 2, 3, 4, 5, 6));
  const Metrics metrics = read();
  EXPECT_TRUE(metrics.evaluations.empty());
  EXPECT_FALSE(metrics.end);
  EXPECT_EQ(metrics.runs.size(), 2);
  EXPECT_EQ(text().find("\"lo\n"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path_.string() + ".tmp"));
}

TEST_F(MetricsLogTest, NewRunBeginsAnew) {
  {
    MetricsLog(path_, 0).step({.step = 1});
  }
  MetricsLog log(path_, 0);
  EXPECT_EQ(text(), "");
}

TEST_F(MetricsLogTest, ReaderFollowsAndWaitsForWholeLines) {
  const SyntheticRun run({.steps = 20});
  MetricsReader reader(path_);
  EXPECT_THROW(reader.update(), Error);
  auto log = std::make_unique<MetricsLog>(path_, 0);
  log->step(run.step(1));
  EXPECT_TRUE(reader.update());
  EXPECT_FALSE(reader.update());
  append(R"({"kind":"step",)");
  EXPECT_FALSE(reader.update());
  append("\"step\":2}\n");
  EXPECT_TRUE(reader.update());
  EXPECT_EQ(reader.metrics().steps.size(), 2);
  log = std::make_unique<MetricsLog>(path_, 1);  // another file of the same name
  log->step(run.step(2));
  log->step(run.step(3));
  EXPECT_TRUE(reader.update());
  EXPECT_EQ(reader.metrics().steps.size(), 3);
  EXPECT_GT(reader.metrics().steps[1].report.loss, 0);
}

TEST_F(MetricsLogTest, RepeatedStepReplacesTheEarlierOne) {
  append(
      "{\"kind\":\"step\",\"step\":1,\"loss\":3}\n{\"kind\":\"step\",\"step\":2,\"loss\":2}\n"
      "{\"kind\":\"new\",\"x\":1}\n{\"kind\":\"step\",\"step\":1,\"loss\":5}\n");
  const Metrics metrics = read();
  ASSERT_EQ(metrics.steps.size(), 1);
  EXPECT_EQ(metrics.steps[0].report.loss, 5);
}

TEST_F(MetricsLogTest, BadLinesAreNamed) {
  const auto error = [&](std::string_view line) -> std::string {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << "{\"kind\":\"step\",\"step\":1}\n" << line << '\n';
    try {
      read();
    } catch (const FileError& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(error("nonsense"), HasSubstr("metrics.jsonl:2"));
  EXPECT_THAT(error(R"({"kind":"step","step":"two"})"), HasSubstr("metrics.jsonl:2: step: expected an integer"));
  EXPECT_THAT(error(R"({"kind":"step","step":-3})"), HasSubstr("step"));
  EXPECT_THAT(error(R"({"kind":"step","step":2,"loss":[1]})"), HasSubstr("loss"));
  EXPECT_THAT(error(R"({"kind":"step","step":2,"mtp_loss":["x"]})"), HasSubstr("mtp_loss[0]"));
  EXPECT_THAT(error(R"({"kind":"step","step":2,"loads":[{"name":"a","tokens":[1,-1]}]})"), HasSubstr("tokens[1]"));
  EXPECT_THAT(error(R"({"kind":"step","step":2,"loads":[3]})"), HasSubstr("loads[0]"));
}

TEST_F(MetricsLogTest, FileThatCannotGrowIsAnError) {
  const SyntheticRun run({.steps = 20});
  MetricsLog log(path_, 0);
  log.step(run.step(1));
  struct rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small{.rlim_cur = text().size() + 10, .rlim_max = before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THROW(log.step(run.step(2)), Error);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(steps(), ElementsAre(1));
}

}  // namespace
}  // namespace qnext
