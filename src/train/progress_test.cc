#include "train/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "train/testing/synthetic_run.h"

namespace qnext {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(FormatDuration, ChoosesItsUnits) {
  EXPECT_EQ(format_duration(45.7), "45 s");
  EXPECT_EQ(format_duration(750), "12 min 30 s");
  EXPECT_EQ(format_duration(3900), "1 h 05 min");
  EXPECT_EQ(format_duration(90000), "1 d 01 h");
  EXPECT_EQ(format_duration(NAN), "-");
  EXPECT_EQ(format_duration(-1), "-");
}

TEST(ProgressLine, SaysEverythingWhenThereIsRoom) {
  const SyntheticRun run({.steps = 12000, .mtp_steps = 1});
  StepReport step = run.step(1200);
  step.loss = 2.34567;
  step.mtp_loss = {2.5};
  step.mtp_acceptance = {0.613};
  step.balance_loss = 0.00104;
  step.gradient_norm = 0.5;
  step.clipped = false;
  step.learning_rate = 3e-3;
  step.tokens = 8192;
  step.seconds = 2;
  step.flops = 67.2e9;
  EXPECT_EQ(progress_line(step, run.report(), 3900, 200),
            "step 1,200/12,000  loss 2.3457  mtp 2.500 (61%)  balance 0.00104  grad 0.5  lr 0.003  4.10 k tok/s  "
            "33.6 GFLOP/s (40% of peak)  1 h 05 min left");
}

TEST(ProgressLine, FitsEveryWidthAndKeepsTheLoss) {
  const SyntheticRun run({.steps = 12000});
  const StepReport step = run.step(1234);
  for (int width = 0; width < 220; ++width) {
    const std::string line = progress_line(step, run.report(), 100, width);
    EXPECT_LE(static_cast<int>(line.size()), width);
    if (width >= 12) {
      EXPECT_THAT(line, HasSubstr("loss ")) << width;
    }
    for (const char c : line) EXPECT_TRUE(c >= ' ' && c < 0x7f);
  }
  EXPECT_EQ(progress_line(step, run.report(), 100, 40).substr(0, 17), "step 1,234/12,000");
}

TEST(ProgressLines, MemoryAndProductsAreSaidAtTheBeginning) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  const SyntheticRun run({.steps = 3});
  RunReport report = run.report();
  report.memory = {
      .parameters = 1000, .gradients = 2000, .moments = 4000, .inputs = 30'000'000, .kept = 0, .working = 1'110'000'000};
  ProgressLines(file).begin(report);
  std::rewind(file);
  char text[1024] = {};
  std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  EXPECT_THAT(std::string(text), HasSubstr("memory: 7.00 kB of parameters, gradients and moments, 30.0 MB of layers' inputs, "
                                           "0 B kept inside the layers, 1.11 GB of working space"));
  EXPECT_THAT(std::string(text), HasSubstr("2 threads, products in bf16 (amx), 84.0 GFLOP/s at best"));
}

TEST(ProgressLines, NoControlCharactersOutsideATerminal) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  const SyntheticRun run({.steps = 3});
  ProgressLines lines(file);
  lines.begin(run.report());
  for (int64_t s = 1; s <= 3; ++s) lines.step(run.step(s));
  EvaluationReport evaluation = run.evaluation(3);
  evaluation.best = true;
  lines.evaluation(evaluation);
  lines.checkpoint(3, "RUN/step-00000003");
  lines.end(true);
  std::rewind(file);
  std::string text;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  std::fclose(file);
  EXPECT_THAT(text, HasSubstr("step 1/3"));
  EXPECT_THAT(text, Not(HasSubstr("step 2/3")));  // the second came at once
  EXPECT_THAT(text, HasSubstr("step 3/3"));
  EXPECT_THAT(text, HasSubstr("the best so far"));
  EXPECT_THAT(text, HasSubstr("checkpoint RUN/step-00000003"));
  EXPECT_THAT(text, HasSubstr("\ndone\n"));
  for (const char c : text) EXPECT_TRUE(c == '\n' || (c >= ' ' && c < 0x7f));
}

}  // namespace
}  // namespace qnext
