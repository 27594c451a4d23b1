#include "train/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/testing/temporary_directory.h"
#include "model/testing/random_checkpoint.h"

namespace qnext {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr const char* kBase = R"([run]
output = "out"
[model]
hidden_size = 32
num_hidden_layers = 4
num_attention_heads = 4
num_key_value_heads = 2
[data]
train = "packed"
[optimizer]
steps = 10
)";
constexpr const char* kTokenizer = QNEXT_SOURCE_DIR "/models/starter";

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  const size_t at = text.find(what);
  EXPECT_NE(at, text.npos) << what;
  return text.replace(at, what.size(), by);
}
/// kBase with the tokenizer, and `by` instead of `what`.
std::string with(std::string_view what, std::string_view by) {
  const std::string text = replaced(kBase, "[model]\n", fmt::format("[model]\ntokenizer = \"{}\"\n", kTokenizer));
  return replaced(text, what, by);
}
TrainConfig parse(const std::string& text) { return parse_train_config(text, "run.toml", "/somewhere"); }

void expect_refused(const std::string& text, auto... matchers) {
  EXPECT_THAT([&] { parse(text); }, ThrowsMessage<Error>(AllOf(matchers...))) << text;
}

TEST(TrainConfigTest, ExpertParallel) {
  EXPECT_FALSE(parse(with("[data]", "[data]")).distributed.expert_parallel);
  EXPECT_TRUE(parse(with("[data]", "[distributed]\nexpert_parallel = true\n[data]")).distributed.expert_parallel);
  expect_refused(with("[data]", "num_experts = 0\n[distributed]\nexpert_parallel = true\n[data]"), HasSubstr("distributed.expert_parallel"),
                 HasSubstr("the model has no experts"));
}

TEST(TrainConfigTest, DefaultsPathsAndShape) {
  const TrainConfig c = parse(with("[data]", "[data]"));
  EXPECT_EQ(c.run.output, "/somewhere/out");
  EXPECT_EQ(c.data.train.front(), "/somewhere/packed");
  EXPECT_EQ(c.model.tokenizer, kTokenizer);
  EXPECT_EQ(c.shape.vocab_size, 3904);  // of 3,853 tokens
  EXPECT_EQ(c.shape.num_layers(), 4);
  EXPECT_EQ(c.shape.layer_types[3], LayerKind::kFullAttention);
  EXPECT_EQ(c.shape.num_experts, 512);
  EXPECT_EQ(c.shape.num_mtp_layers, 1);
  EXPECT_EQ(c.shape.eos_token_ids, std::vector<int32_t>{3852});
  EXPECT_EQ(c.data.max_context, 262144);
  EXPECT_EQ(c.optimizer.beta2, 0.95);
  EXPECT_EQ(c.optimizer.muon_learning_rate, c.optimizer.learning_rate);
  EXPECT_EQ(c.memory.activation_bytes, int64_t{1} << 30);
  EXPECT_EQ(c.values.at("model.hidden_size"), "32");
  EXPECT_EQ(c.run.products, ProductsChoice::kF32);
  EXPECT_EQ(parse(with("[run]", "[run]\nproducts = \"auto\"")).run.products, ProductsChoice::kAuto);
  EXPECT_EQ(parse(with("[run]", "[run]\nproducts = \"bf16\"")).run.products, ProductsChoice::kBf16);
  expect_refused(with("[run]", "[run]\nproducts = \"f16\""), HasSubstr("run.products: expected one of: auto f32 bf16"));
  // The config.json of its checkpoints says the same shape.
  const ModelConfig stored = parse_config(c.config_json, "config.json");
  EXPECT_EQ(stored.hidden_size, c.shape.hidden_size);
  EXPECT_EQ(stored.layer_types, c.shape.layer_types);
  EXPECT_EQ(stored.rope.theta, 1e7);
}

TEST(TrainConfigTest, WrongKeysNameFileKeyAndLine) {
  expect_refused(with("hidden_size = 32", "hiden_size = 32"), HasSubstr("run.toml:5: model.hiden_size"),
                 HasSubstr("unknown"));
  expect_refused(with("[optimizer]", "[optimiser]"), HasSubstr("run.toml:11: optimiser"), HasSubstr("unknown"));
  expect_refused(with("steps = 10", "steps = 10.5"),
                 HasSubstr("run.toml:12: optimizer.steps: expected an integer, found 10.5"));
  expect_refused(with("steps = 10", "steps = 0"), HasSubstr("run.toml:12: optimizer.steps"), HasSubstr("from 1"));
  expect_refused(with("steps = 10", "steps = 10\nbetas = [0.9]"),
                 HasSubstr("run.toml:13: optimizer.betas: expected a list of two numbers"));
  expect_refused(with("steps = 10", "steps = 10\nbetas = [0.9, 1.0]"), HasSubstr("run.toml:13: optimizer.betas"));
  expect_refused(with("steps = 10", "steps = 10\nlearning_rate = nan"),
                 HasSubstr("run.toml:13: optimizer.learning_rate"));
  expect_refused(with("steps = 10", "steps = 10\nkind = \"sgd\""),
                 HasSubstr("run.toml:13: optimizer.kind: expected one of: adamw muon"));
  expect_refused(with("steps = 10", "steps = 10\ntokens = 10"), HasSubstr("run.toml:12: optimizer.steps"),
                 HasSubstr("both"));
  expect_refused(with("steps = 10\n", ""), HasSubstr("run.toml: optimizer.steps"), HasSubstr("neither"));
  expect_refused(with("train = \"packed\"", "train = 5"),
                 HasSubstr("run.toml:10: data.train: expected a text or a list of texts, found 5"));
  expect_refused(with("train = \"packed\"\n", ""),
                 HasSubstr("run.toml: data.train: expected a value, found nothing"));
  expect_refused(with("hidden_size = 32\n", ""), HasSubstr("run.toml: model.hidden_size: expected a value"));
  expect_refused(with("[data]", "[data"), HasSubstr("run.toml:9:"));
  expect_refused(with("[run]", "run = 3\n[other]"), HasSubstr("run.toml:"));
  expect_refused(with("[run]\noutput = \"out\"", "run = 3"),
                 HasSubstr("run.toml:1: run: expected a section, found 3"));
}

TEST(TrainConfigTest, ImpossibleShapesNameTheLine) {
  expect_refused(with("num_key_value_heads = 2", "num_key_value_heads = 3"),
                 HasSubstr("run.toml:8: model.num_key_value_heads"), HasSubstr("divisor"));
  expect_refused(with("num_key_value_heads = 2", "num_key_value_heads = 2\nnum_experts = 4\nnum_experts_per_tok = 5"),
                 HasSubstr("run.toml:10: model.num_experts_per_tok"));
  expect_refused(with("num_key_value_heads = 2", "num_key_value_heads = 2\nvocab_size = 100"),
                 HasSubstr("run.toml:9: model.vocab_size"));
  expect_refused(with("num_key_value_heads = 2", "num_key_value_heads = 2\nhead_dim = 6"), HasSubstr("head_dim 6"));
  expect_refused(
      with("train = \"packed\"", "train = \"packed\"\nsequence_length = 1000\nbatch_tokens = 1500"),
      HasSubstr("run.toml:12: data.batch_tokens: expected a multiple of the sequence length 1000, found 1500"));
}

TEST(TrainConfigTest, Curriculum) {
  const auto text = [](const char* list) {
    return with("train = \"packed\"",
                fmt::format("train = \"packed\"\nsequence_length = 128\nbatch_tokens = 1024\ncurriculum = {}", list));
  };
  const TrainConfig c =
      parse(text("[{tokens_seen = 1000, sequence_length = 256}, {tokens_seen = 5000, sequence_length = 1024}]"));
  EXPECT_EQ(c.stage(0).sequence_length, 128);
  EXPECT_EQ(c.stage(999).sequence_length, 128);
  EXPECT_EQ(c.stage(1000).sequence_length, 256);
  EXPECT_EQ(c.stage(1 << 30).sequence_length, 1024);
  expect_refused(text("[{tokens_seen = 1000, sequence_length = 256}, {tokens_seen = 1000, sequence_length = 512}]"),
                 HasSubstr("run.toml:13: data.curriculum"), HasSubstr("ascending"));
  expect_refused(text("[{tokens_seen = 1000}]"), HasSubstr("run.toml:13: data.curriculum"));
  expect_refused(text("[{tokens_seen = 1000, sequence_length = 300}]"),
                 HasSubstr("multiple of the sequence length 300"));
}

TEST(TrainConfigTest, TokensAreWholeSteps) {
  EXPECT_EQ(parse(with("steps = 10", "tokens = 100000")).optimizer.steps, 4);  // of 32,768
}

TEST(TrainConfigTest, ShapeOfACheckpoint) {
  const testing::TemporaryDirectory directory;
  testing::write_random_checkpoint(directory.path(), testing::tiny_config());
  const std::string from = fmt::format("from = \"{}\"\n", directory.path().string());
  const std::string shape =
      "hidden_size = 32\nnum_hidden_layers = 4\nnum_attention_heads = 4\nnum_key_value_heads = 2\n";
  const TrainConfig c = parse(with(shape, from));
  EXPECT_EQ(c.shape.hidden_size, testing::tiny_config().hidden_size);
  EXPECT_EQ(nlohmann::json::parse(c.config_json)["dtype"], "float32");
  expect_refused(with(shape, from + "hidden_size = 32\n"), HasSubstr("run.toml:6: model.hidden_size"),
                 HasSubstr("model.from"));
}

/// With values for what has no default, the printed text is a configuration, and says the defaults.
TEST(TrainConfigTest, ExplanationIsAConfiguration) {
  std::string text = explain_train_config();
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"output", "\"out\""},
                                          {"hidden_size", "32"},
                                          {"num_hidden_layers", "4"},
                                          {"num_attention_heads", "4"},
                                          {"num_key_value_heads", "2"},
                                          {"train", "\"packed\""},
                                          {"steps", "10"},
                                          {"tokenizer", fmt::format("\"{}\"", kTokenizer)}}) {
    text = replaced(text, fmt::format("\n# {} =\n", key), fmt::format("\n{} = {}\n", key, value));
  }
  TrainConfig explained = parse(text), plain = parse(with("[data]", "[data]"));
  EXPECT_EQ(explained.values, plain.values);
}

}  // namespace
}  // namespace qnext
