// LoRA runs in one process: what is trained, what stays, what checkpoints hold.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "backend/cpu/training_backend.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/philox.h"
#include "base/testing/temporary_directory.h"
#include "convert/quantize.h"
#include "distributed/testing/ranks.h"
#include "formats/safetensors.h"
#include "model/peft.h"
#include "model/testing/random_checkpoint.h"
#include "runtime/engine.h"
#include "tokenizer/tokenizer.h"
#include "train/trainer.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr const char* kTokenizer = QNEXT_SOURCE_DIR "/models/starter";

class LoraTest : public ::testing::Test {
 protected:
  void SetUp() override {
    static const Tokenizer tokenizer = Tokenizer::load(kTokenizer);
    shape_ = testing::tiny_config();
    shape_.vocab_size = 3904;
    testing::write_random_checkpoint(directory_ / "base", shape_, {.dtype = DType::kBF16});
    uint64_t draw = 0;
    for (const auto& [name, documents] : {std::pair("train.tokens", 40), std::pair("valid.tokens", 5)}) {
      TokenShardWriter writer(directory_ / name, tokenizer.vocab_size(), tokenizer_fingerprint(tokenizer));
      for (int i = 0; i < documents; ++i) {  // counting modulo 20: there is something to learn
        const auto start = static_cast<uint32_t>(20 * philox_uniform(1, draw++));
        std::vector<uint32_t> words(static_cast<size_t>(10 + 60 * philox_uniform(1, draw++)));
        for (size_t j = 0; j < words.size(); ++j) words[j] = 10 + (start + static_cast<uint32_t>(j)) % 20;
        writer.append(words);
      }
      writer.finish();
    }
  }

  std::string text(int steps, const std::string& lora = "rank = 4", const std::string& more = "",
                   const std::string& from = "base") const {
    return fmt::format(R"(
[run]
output = "run"
[model]
from = "{}"
tokenizer = "{}"
[lora]
{}
[data]
train = "train.tokens"
valid = "valid.tokens"
sequence_length = 32
batch_tokens = 128
micro_batch_tokens = 64
[optimizer]
steps = {}
learning_rate = 5e-3
warmup_steps = 2
[evaluation]
every = 1000
tokens = 64
[checkpoint]
every = 2
{}
)",
                       from, kTokenizer, lora, steps, more);
  }
  std::unique_ptr<Trainer> open(const std::string& text) {
    warnings_.clear();
    config_ = parse_train_config(text, "run.toml", directory_.path());
    return std::make_unique<Trainer>(config_, *backend_, communicator_,
                                     [this](const std::string& line) { warnings_ += line + "\n"; });
  }
  std::vector<float> run(const std::string& text) {
    const auto trainer = open(text);
    run_training(*trainer, {}, [] { return false; });
    const std::span<const float> values = trainer->weights().values();
    return {values.begin(), values.end()};
  }
  void expect_refused(const std::string& text, auto... matchers) {
    EXPECT_THAT([&] { open(text); }, ThrowsMessage<Error>(AllOf(matchers...))) << text;
  }
  static std::string content(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const testing::TemporaryDirectory directory_;
  ModelConfig shape_;
  std::unique_ptr<TrainingBackend> backend_ = make_cpu_training_backend(1, chosen_isa());
  SingleProcess communicator_;
  TrainConfig config_;
  std::string warnings_;
};

TEST_F(LoraTest, BeginsAsTheBaseAndLearnsWithoutTouchingIt) {
  const std::string before = content(directory_ / "base" / "model.safetensors");
  std::string whole = text(1, "");
  whole.replace(whole.find("[lora]"), 6, "mtp_steps = 0");
  const double base_loss = open(whole)->evaluate().loss;
  fs::remove_all(directory_ / "run");
  const auto trainer = open(text(40));
  EXPECT_EQ(trainer->evaluate().loss, base_loss);  // whose weights were expanded to f32, these are bf16 in their file
  while (!trainer->done()) trainer->step();
  const double after = trainer->evaluate().loss;
  EXPECT_LT(after, 0.8 * base_loss);
  trainer->save();
  EXPECT_EQ(content(directory_ / "base" / "model.safetensors"), before);

  // A and B of the default targets are all that is trained.
  int64_t expected = 0;
  for (const LoraModule& module : lora_modules(shape_, {})) {
    const bool mlp = module.name.find(".mlp.") != module.name.npos;
    if (!mlp && module.name != "lm_head" && !module.name.ends_with("in_proj_ba")) expected += 4 * (module.rows + module.cols);
  }
  EXPECT_EQ(trainer->weights().count(), expected);
  const fs::path checkpoint = trainer->last_checkpoint();
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(checkpoint)) files.push_back(entry.path().filename().string());
  EXPECT_THAT(files, ::testing::IsSupersetOf({"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"}));
  EXPECT_THAT(files, ::testing::Not(::testing::AnyOf(::testing::Contains("model.safetensors"),
                                                     ::testing::Contains("config.json"))));

  // The engine with the adapter, and the merged model, have the trainer's loss.
  const QuantizeOptions merge{.recipe = find_recipe("F32"), .lora = checkpoint, .threads = 1};
  quantize(directory_ / "base", directory_ / "merged", merge, {});
  std::vector<int32_t> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(10 + i % 20);
  const auto logits = [&](const fs::path& model, const fs::path& lora) {
    Engine engine(model, {.threads = 1, .lora = lora});
    const auto sequence = engine.create_sequence();
    const Feed feed{sequence.get(), tokens, LogitRows::kAll};
    const std::span<const float> all = engine.step({&feed, 1});
    return std::vector<float>(all.begin(), all.end());
  };
  const std::vector<float> unmerged = logits(directory_ / "base", checkpoint),
                           merged = logits(directory_ / "merged", {}), base = logits(directory_ / "base", {});
  double difference = 0, squares = 0, moved = 0;
  for (size_t i = 0; i < merged.size(); ++i) {
    difference += std::pow(static_cast<double>(unmerged[i]) - merged[i], 2);
    moved += std::pow(static_cast<double>(base[i]) - merged[i], 2);
    squares += std::pow(static_cast<double>(merged[i]), 2);
  }
  EXPECT_LT(std::sqrt(difference / squares), 1e-5);
  EXPECT_GT(std::sqrt(moved / squares), 1e-2);
}

TEST_F(LoraTest, StoppedAfterEveryStepEndsWithTheSameBits) {
  for (const char* dtype : {"f32", "bf16"}) {
    const std::string t = text(6, "rank = 3\ntargets = [\"q_proj\", \"in_proj_qkvz\", \"down_proj\", \"gate\"]",
                               fmt::format("dtype = \"{}\"", dtype));
    const std::vector<float> whole = run(t);
    const std::string adapter = content(directory_ / "run" / "step-00000006" / "adapter_model.safetensors");
    fs::remove_all(directory_ / "run");
    for (int i = 0; i < 6; ++i) {
      const auto trainer = open(t);
      EXPECT_EQ(trainer->step_count(), i);
      run_training(*trainer, {}, [] { return true; });
    }
    EXPECT_EQ(run(t), whole);
    EXPECT_EQ(content(directory_ / "run" / "step-00000006" / "adapter_model.safetensors"), adapter);
    fs::remove_all(directory_ / "run");
  }
}

TEST_F(LoraTest, RoutedExpertsAndRouterLearn) {
  const auto trainer =
      open(text(30, "rank = 2\nalpha = 8\ntargets = [\"gate_proj\", \"up_proj\", \"down_proj\", \"gate\"]",
                "[memory]\nactivations_mib = 0"));
  const double before = trainer->evaluate().loss;
  while (!trainer->done()) trainer->step();
  EXPECT_LT(trainer->evaluate().loss, 0.9 * before);
  int64_t moved = 0, routed = 0;
  for (const ParameterInfo& p : trainer->weights().parameters()) {
    if (p.name.find(".experts.") == p.name.npos || p.name.find("lora_B") == p.name.npos) continue;
    ++routed;
    moved += std::ranges::any_of(trainer->weights().of(p), [](float x) { return x != 0.0f; });
  }
  EXPECT_EQ(routed, 3 * 8 * 3);
  EXPECT_GT(moved, routed / 2);  // every expert that somebody chose
}

TEST_F(LoraTest, BaseOfQuantisedWeights) {
  const QuantizeOptions q8{.recipe = find_recipe("Q8_0"), .threads = 1};
  quantize(directory_ / "base", directory_ / "base.gguf", q8, {});
  const auto trainer =
      open(text(20, "rank = 4\ntargets = [\"q_proj\", \"in_proj_qkvz\", \"in_proj_ba\", \"out_proj\", \"down_proj\"]",
                "", "base.gguf"));
  const double before = trainer->evaluate().loss;
  while (!trainer->done()) trainer->step();
  EXPECT_LT(trainer->evaluate().loss, 0.9 * before);
  trainer->save();
  // Rows of a GGUF's attn_qkv and attn_gate in the order of in_proj_qkvz: the adapter does to the original what it
  // does to it.
  std::vector<int32_t> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(10 + i % 20);
  const auto logits = [&](const fs::path& model) {
    Engine engine(model,
                  {.threads = 1, .activations = ActivationPrecision::kF32, .lora = trainer->last_checkpoint()});
    const auto sequence = engine.create_sequence();
    const Feed feed{sequence.get(), tokens, LogitRows::kAll};
    const std::span<const float> all = engine.step({&feed, 1});
    return std::vector<float>(all.begin(), all.end());
  };
  const std::vector<float> of_gguf = logits(directory_ / "base.gguf"), of_original = logits(directory_ / "base");
  double difference = 0, squares = 0;
  for (size_t i = 0; i < of_gguf.size(); ++i) {
    difference += std::pow(static_cast<double>(of_gguf[i]) - of_original[i], 2);
    squares += std::pow(static_cast<double>(of_original[i]), 2);
  }
  EXPECT_LT(std::sqrt(difference / squares), 0.05);  // of Q8_0
}

TEST_F(LoraTest, RanksEndAsOne) {
  const auto train = [&](int ranks, const std::string& output) {
    std::string t = text(6);
    t.replace(t.find("\"run\""), 5, "\"" + output + "\"");
    const TrainConfig config = parse_train_config(t, "run.toml", directory_.path());
    std::vector<float> result;
    testing::Ranks(ranks).run([&](Communicator& communicator) {
      const auto backend = make_cpu_training_backend(1, chosen_isa());
      Trainer trainer(config, *backend, communicator, [](const std::string&) {});
      run_training(trainer, {}, [] { return false; });
      if (communicator.rank() == 0)
        result.assign(trainer.weights().values().begin(), trainer.weights().values().end());
      communicator.barrier();
      EXPECT_TRUE(std::ranges::equal(result, trainer.weights().values()));
    });
    return result;
  };
  const std::vector<float> one = train(1, "one"), two = train(2, "two");
  double difference = 0, squares = 0;
  for (size_t i = 0; i < one.size(); ++i) {
    difference += std::pow(static_cast<double>(one[i]) - two[i], 2);
    squares += std::pow(static_cast<double>(one[i]), 2);
  }
  EXPECT_LT(std::sqrt(difference / squares), 1e-4);
  EXPECT_NE(one, std::vector<float>(one.size(), 0.0f));
}

TEST_F(LoraTest, TornAdapterIsNoticed) {
  const std::vector<float> whole = run(text(4));
  const fs::path file = directory_ / "run" / "step-00000004" / "adapter_model.safetensors";
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(3000);
  const int byte = stream.get();
  stream.seekp(3000);
  stream.put(static_cast<char>(byte ^ 1));
  stream.close();
  EXPECT_EQ(run(text(4)), whole);
  EXPECT_THAT(warnings_,
              AllOf(HasSubstr("step-00000004: not used"), HasSubstr("adapter_model.safetensors: checksum")));
}

TEST_F(LoraTest, AnotherBaseIsNamed) {
  run(text(2));
  testing::write_random_checkpoint(directory_ / "other", shape_, {.seed = 2, .dtype = DType::kBF16});
  open(text(4, "rank = 4", "", "other"));
  EXPECT_THAT(warnings_, AllOf(HasSubstr("model.from was 'base'"), HasSubstr("lora.base was ")));
  open(text(4));
  EXPECT_THAT(warnings_, ::testing::Not(HasSubstr("lora.base")));
}

TEST_F(LoraTest, WhatDoesNotFitIsRefused) {
  expect_refused(text(4, "rank = 4\ntargets = [\"q_proj\", \"q_porj\"]"), HasSubstr("run.toml:9: lora.targets"),
                 HasSubstr("in_proj_qkvz"), HasSubstr("found \"q_porj\""));
  expect_refused(text(4, "rank = 4\ntargets = \"lm_head\""), HasSubstr("lora.targets"));
  expect_refused(text(4, "rank = 4\ntargets = []"), HasSubstr("at least one"));
  expect_refused(text(4, "rank = 0"), HasSubstr("run.toml:8: lora.rank"));
  expect_refused(text(4, "alpha = 4"), HasSubstr("lora.rank: expected a value"));
  expect_refused(text(4, "dropout = 0.1"), HasSubstr("lora.dropout"), HasSubstr("unknown"));
  std::string mtp = text(4);
  mtp.replace(mtp.find("[lora]"), 6, "mtp_steps = 1\n[lora]");
  expect_refused(mtp, HasSubstr("run.toml:7: model.mtp_steps: expected 0 with [lora]"));
  std::string scratch = text(4);
  scratch.replace(scratch.find("from = \"base\""), 13, "hidden_size = 16");
  expect_refused(scratch, HasSubstr("model.from: expected a value"));
  expect_refused(text(4, "", "", "base.gguf"), HasSubstr("model.from: expected a Hugging Face directory"));
  run(text(2));
  expect_refused(text(4, "rank = 8"), HasSubstr("step-00000002"), HasSubstr("another shape"));
  expect_refused(text(4, "rank = 4\ntargets = [\"q_proj\"]"), HasSubstr("another shape"));
}

}  // namespace
}  // namespace qnext
