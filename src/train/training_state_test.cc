#include "train/training_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

TrainingState example() {
  TrainingState state;
  state.step = 7;
  state.tokens_seen = 57344;
  state.position = {2, 5, 905, {{3, 128, 0}, {-1, 0, 0}}, {{9, 64, 64}}};
  state.data_fingerprint = 0x00ff00ff12345678;
  state.best_step = 4;
  state.best_loss = 1.0 / 3.0;
  state.config = {{"optimizer.kind", "\"muon\""}};
  state.files = {{"model.safetensors", "0123456789abcdef"}};
  return state;
}

std::string error_of(const std::string& text, bool altered = true) {
  try {
    parse_training_state(text, "training_state.json", altered);
  } catch (const FileError& error) {
    return error.what();
  }
  return "none";
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, text.npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(TrainingState, IsReadAsItWasWritten) {
  const std::string text = training_state_json(example());
  const TrainingState state = parse_training_state(text, "training_state.json");
  EXPECT_EQ(training_state_json(state), text);
  EXPECT_EQ(state.step, 7);
  EXPECT_EQ(state.data_fingerprint, 0x00ff00ff12345678u);
  EXPECT_EQ(state.best_loss, 1.0 / 3.0);  // to the bit
  ASSERT_EQ(state.position.lanes.size(), 2u);
  EXPECT_EQ(state.position.lanes[0].offset, 128);
  EXPECT_EQ(state.position.waiting[0].context_begin, 64);
  EXPECT_EQ(state.files, example().files);
}

TEST(TrainingState, AnAlteredTextIsRefused) {
  const std::string text = training_state_json(example()), altered = replaced(text, "\"step\": 7", "\"step\": 8");
  EXPECT_THAT(error_of(altered, false), HasSubstr("training_state.json: checksum: expected "));
  EXPECT_EQ(error_of(altered), "none");
  EXPECT_THAT(error_of(text.substr(0, text.size() / 2)), HasSubstr("training_state.json"));
}

TEST(TrainingState, RefusesValuesOfNoRun) {
  const std::string text = training_state_json(example());
  const auto with = [&](std::string_view from, std::string_view to) { return error_of(replaced(text, from, to)); };
  EXPECT_THAT(with("\"version\": 1", "\"version\": 2"), HasSubstr("version: expected 1, found 2"));
  EXPECT_THAT(with("\"step\": 7", "\"step\": 0"), HasSubstr("step"));
  EXPECT_THAT(with("\"step\": 7", "\"step\": 1e9"), HasSubstr("step"));
  EXPECT_THAT(with("00ff00ff12345678", "00ff00ff1234567g"), HasSubstr("data_fingerprint: expected 16 hexadecimal digits"));
  EXPECT_THAT(with("0123456789abcdef", "short"), HasSubstr("files.model.safetensors: expected the checksum of a file"));
  EXPECT_THAT(with("model.safetensors", "../model"), HasSubstr("files.../model: expected the checksum of a file"));
  EXPECT_THAT(with("\"next\"", "\"text\""), HasSubstr("position.next"));
  EXPECT_THAT(with("\"waiting\"", "\"Waiting\""), HasSubstr("position.waiting: expected a list of [document, offset, context_begin]"));
  EXPECT_THAT(with("128", "\"128\""), HasSubstr("position.lanes[0]: expected a list of"));
  EXPECT_THAT(error_of("[]"), HasSubstr("training_state.json"));
}

}  // namespace
}  // namespace qnext
