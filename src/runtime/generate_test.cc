#include "runtime/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "runtime/stop_strings.h"
#include "tokenizer/testing.h"

namespace qnext {
namespace {

constexpr int32_t kEnd = 256;

/// A model that recites: after having read n tokens of anything it predicts script[n].
class ScriptedModel final : public TokenModel {
 public:
  ScriptedModel(std::string script, int64_t context, int64_t rows = 4) : context_(context), rows_(rows) {
    for (const char c : script) script_.push_back(static_cast<unsigned char>(c));
  }
  int64_t context() const override { return context_; }
  int64_t batch_rows() const override { return rows_; }
  void reset() override {
    read.clear();
    ++resets;
  }
  std::span<const float> feed(std::span<const int32_t> tokens, bool logits) override {
    EXPECT_FALSE(tokens.empty());
    EXPECT_LE(static_cast<int64_t>(tokens.size()), rows_);
    read.insert(read.end(), tokens.begin(), tokens.end());
    EXPECT_LE(static_cast<int64_t>(read.size()), context_);
    fed += static_cast<int64_t>(tokens.size());
    if (fail) throw Error("layer 3: NaN");
    if (cancel_after == fed) cancel = true;
    if (!logits) return {};
    logits_.assign(300, 0.0F);
    logits_[read.size() < script_.size() ? script_[read.size()] : kEnd] = 10;
    return logits_;
  }

  std::vector<int32_t> read;
  std::vector<int32_t> script_;
  int64_t fed = 0;
  int resets = 0;
  bool fail = false;
  int64_t cancel_after = -1;
  std::atomic<bool> cancel = false;

 private:
  std::vector<float> logits_;
  int64_t context_, rows_;
};

class GenerateTest : public ::testing::Test {
 protected:
  GenerateTest() : tokenizer(testing::byte_tokenizer({"<|im_end|>"})) {}

  std::vector<int32_t> ids(std::string_view text) const {
    std::vector<int32_t> out;
    for (const char c : text) out.push_back(static_cast<unsigned char>(c));
    return out;
  }
  GenerateResult run(ScriptedModel& model, std::string_view prompt, GenerateOptions options = {}) {
    Timeline timeline(model);
    return run(timeline, model, ids(prompt), options);
  }
  GenerateResult run(Timeline& timeline, ScriptedModel& model, const std::vector<int32_t>& prompt,
                     GenerateOptions options = {}) {
    Sampler sampler({.temperature = 0}, sampleable_ids(tokenizer));
    options.stop_ids = {kEnd};
    streamed.clear();
    GenerateEvents events;
    events.on_text = [&](std::string_view piece) {
      EXPECT_FALSE(piece.empty());
      streamed += piece;
    };
    events.cancel = &model.cancel;
    const GenerateResult result = generate(timeline, tokenizer, prompt, sampler, options, events);
    EXPECT_EQ(streamed, result.text);
    return result;
  }

  Tokenizer tokenizer;
  std::string streamed;
};

TEST_F(GenerateTest, AnswersUntilTheStopToken) {
  ScriptedModel model("question: answer", 100);
  const GenerateResult result = run(model, "question:");
  EXPECT_EQ(result.text, " answer");
  EXPECT_EQ(result.reason, FinishReason::kStopToken);
  EXPECT_EQ(result.tokens, ids(" answer"));
  EXPECT_EQ(result.prompt_tokens, 9);
  EXPECT_EQ(result.reused_tokens, 0);
  EXPECT_EQ(model.fed, 16);  // each token once; the stop token is not fed
}

TEST_F(GenerateTest, StopsAtMaxTokens) {
  ScriptedModel model("question: answer", 100);
  const GenerateResult result = run(model, "question:", {.max_tokens = 4});
  EXPECT_EQ(result.text, " ans");
  EXPECT_EQ(result.reason, FinishReason::kMaxTokens);
}

TEST_F(GenerateTest, StopsWhenTheContextIsFull) {
  ScriptedModel model("question: answer", 12);
  GenerateResult result = run(model, "question:");
  EXPECT_EQ(result.reason, FinishReason::kContextFull);
  EXPECT_EQ(result.text, " ans");  // 12 tokens read, and what they predict
  ScriptedModel exact("question: answer", 9);
  result = run(exact, "question:");
  EXPECT_EQ(result.reason, FinishReason::kContextFull);
  EXPECT_EQ(result.text, " ");
}

TEST_F(GenerateTest, RefusesEmptyAndOverlongPrompts) {
  ScriptedModel model("", 8);
  EXPECT_THROW(run(model, ""), Error);
  try {
    run(model, "123456789");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the prompt has 9 tokens, but the context holds 8");
  }
  EXPECT_EQ(model.fed, 0);
}

TEST_F(GenerateTest, StopStringsCrossTokensAndAreNeverShown) {
  ScriptedModel model("Q: one\nUser: two", 100);
  GenerateResult result = run(model, "Q:", {.stop_strings = {"\nUser:", "zzz"}});
  EXPECT_EQ(result.text, " one");
  EXPECT_EQ(result.reason, FinishReason::kStopString);
  EXPECT_EQ(result.stop_string, "\nUser:");
  // A beginning that turns out to be none is passed on, also at the very end.
  ScriptedModel near("Q: one\nUse", 100);
  result = run(near, "Q:", {.stop_strings = {"\nUser:"}});
  EXPECT_EQ(result.text, " one\nUse");
  EXPECT_EQ(result.reason, FinishReason::kStopToken);
}

TEST_F(GenerateTest, HoldsBackIncompleteCharacters) {
  ScriptedModel whole("Q:gr\xC3\xBC\xC3\x9F", 100);
  EXPECT_EQ(run(whole, "Q:").text, "gr\xC3\xBC\xC3\x9F");
  ScriptedModel cut("Q:gr\xC3", 100);
  EXPECT_EQ(run(cut, "Q:").text, "gr\xEF\xBF\xBD");
}

TEST_F(GenerateTest, CancelsBetweenTokensAndDuringPrefill) {
  ScriptedModel model("question: answer", 100);
  model.cancel_after = 11;
  GenerateResult result = run(model, "question:");
  EXPECT_EQ(result.reason, FinishReason::kCancelled);
  EXPECT_EQ(result.text, " an");  // the step that was under way is used
  ScriptedModel early("question: answer", 100);
  early.cancel_after = 4;
  result = run(early, "question:");
  EXPECT_EQ(result.reason, FinishReason::kCancelled);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(early.fed, 4);
}

TEST_F(GenerateTest, ContinuesWithoutReadingAgain) {
  ScriptedModel model("one two. three four", 100);
  Timeline timeline(model);
  GenerateResult result = run(timeline, model, ids("one"), {.max_tokens = 5});
  ASSERT_EQ(result.text, " two.");
  EXPECT_EQ(model.fed, 7);  // the last token of the answer is not read yet
  result = run(timeline, model, ids("one two. three"));
  EXPECT_EQ(result.text, " four");
  EXPECT_EQ(result.reused_tokens, 7);
  EXPECT_EQ(model.fed, 19);
  EXPECT_EQ(model.resets, 0);
}

TEST_F(GenerateTest, StartsAfreshWhenThePromptDiffers) {
  ScriptedModel model("one two. three four", 100);
  Timeline timeline(model);
  run(timeline, model, ids("one"), {.max_tokens = 5});
  GenerateResult result = run(timeline, model, ids("One two. three"));
  EXPECT_EQ(result.text, " four");
  EXPECT_EQ(result.reused_tokens, 0);
  EXPECT_EQ(model.resets, 1);
  // The same prompt again: all of it has been read, but its logits are gone.
  result = run(timeline, model, {timeline.tokens().begin(), timeline.tokens().end()});
  EXPECT_EQ(result.reused_tokens, 0);
  EXPECT_EQ(model.resets, 2);
}

TEST_F(GenerateTest, ResumesACancelledPrefill) {
  ScriptedModel model("question: answer", 100);
  Timeline timeline(model);
  model.cancel_after = 4;
  run(timeline, model, ids("question:"));
  model.cancel = false;
  model.cancel_after = -1;
  const GenerateResult result = run(timeline, model, ids("question:"));
  EXPECT_EQ(result.reused_tokens, 4);
  EXPECT_EQ(result.text, " answer");
}

TEST_F(GenerateTest, AFailedStepForgetsTheModelsState) {
  ScriptedModel model("question: answer", 100);
  Timeline timeline(model);
  run(timeline, model, ids("quest"), {.max_tokens = 2});
  model.fail = true;
  EXPECT_THROW(run(timeline, model, ids("question:")), Error);
  model.fail = false;
  const GenerateResult result = run(timeline, model, ids("question:"));
  EXPECT_EQ(result.reused_tokens, 0);
  EXPECT_EQ(result.text, " answer");
}

TEST_F(GenerateTest, OnlyIdsWithATokenAreSampleable) {
  const std::vector<bool> allowed = sampleable_ids(tokenizer);
  EXPECT_EQ(allowed.size(), 257u);
  EXPECT_TRUE(allowed[0]);
  EXPECT_TRUE(allowed[256]);
}

/// Feeds the text in pieces of `size` bytes and returns what came out and the match.
std::pair<std::string, std::optional<std::string>> cut(const std::vector<std::string>& stops, std::string_view text,
                                                       size_t size) {
  StopStrings matcher(stops);
  std::string out;
  for (size_t i = 0; i < text.size(); i += size) out += matcher.push(text.substr(i, size));
  return {out + matcher.finish(), matcher.matched()};
}

TEST(StopStrings, TheResultDoesNotDependOnThePieces) {
  const std::vector<std::vector<std::string>> stop_sets{{"abcd", "bc"},    {"bc", "abc"}, {"aab"},
                                                        {"\n\n", "\n\nx"}, {"xyz", ""},   {}};
  for (const auto& stops : stop_sets) {
    for (const std::string_view text : {"aaabcd", "abcd", "aaaaab", "one\n\nxtwo", "", "ab", "xyxyxyz!"}) {
      const auto whole = cut(stops, text, 1000);
      for (size_t size = 1; size <= text.size(); ++size)
        EXPECT_EQ(cut(stops, text, size), whole) << text << " " << size;
    }
  }
}

TEST(StopStrings, TheFirstCompleteOneWins) {
  using Result = std::pair<std::string, std::optional<std::string>>;
  EXPECT_EQ(cut({"abcd", "bc"}, "xabcd", 9), (Result{"xa", "bc"}));
  EXPECT_EQ(cut({"bc", "abc"}, "xabcd", 9), (Result{"x", "abc"}));
  EXPECT_EQ(cut({"aab"}, "aaaab", 1), (Result{"aa", "aab"}));
}

}  // namespace
}  // namespace qnext
