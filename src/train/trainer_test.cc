// A whole run in one process: checkpoints that are damaged, a disk that is full, data that changes.
#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "backend/cpu/training_backend.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "base/philox.h"
#include "base/testing/temporary_directory.h"
#include "formats/safetensors.h"
#include "tokenizer/tokenizer.h"

namespace qnext {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr const char* kTokenizer = QNEXT_SOURCE_DIR "/models/starter";

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_data("train.tokens", 40, 1);
    write_data("other.tokens", 40, 2);
    write_data("valid.tokens", 5, 3);
  }
  void write_data(const std::string& name, int documents, uint64_t seed) {
    static const Tokenizer tokenizer = Tokenizer::load(kTokenizer);
    TokenShardWriter writer(directory_ / name, tokenizer.vocab_size(), tokenizer_fingerprint(tokenizer));
    uint64_t draw = 0;
    for (int i = 0; i < documents; ++i) {
      std::vector<uint32_t> words(static_cast<size_t>(3 + 60 * philox_uniform(seed, draw++)));
      for (uint32_t& word : words) word = static_cast<uint32_t>(100 * philox_uniform(seed, draw++));
      writer.append(words);
    }
    writer.finish();
  }

  std::string text(int steps, const std::string& more_data = "", const std::string& checkpoint = "") const {
    return fmt::format(R"(
[run]
output = "run"
[model]
tokenizer = "{}"
hidden_size = 16
num_hidden_layers = 2
full_attention_interval = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 8
linear_num_key_heads = 1
linear_num_value_heads = 2
linear_key_head_dim = 8
linear_value_head_dim = 8
num_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 8
shared_expert_intermediate_size = 8
[data]
train = "train.tokens"
valid = "valid.tokens"
sequence_length = 32
batch_tokens = 64
{}
[optimizer]
steps = {}
warmup_steps = 2
[evaluation]
every = 4
tokens = 64
[checkpoint]
every = 2
{}
)",
                       kTokenizer, more_data, steps, checkpoint);
  }
  std::unique_ptr<Trainer> open(const std::string& text) {
    warnings_.clear();
    config_ = parse_train_config(text, "run.toml", directory_.path());
    return std::make_unique<Trainer>(config_, *backend_, communicator_,
                                     [this](const std::string& line) { warnings_ += line + "\n"; });
  }
  /// To the end; the parameters then.
  std::vector<float> run(const std::string& text) {
    const auto trainer = open(text);
    run_training(*trainer, {}, [] { return false; });
    const std::span<const float> values = trainer->weights().values();
    return {values.begin(), values.end()};
  }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : fs::directory_iterator(directory_ / "run")) {
      if (entry.path().filename().string().starts_with("step-")) list.push_back(entry.path().filename().string());
    }
    std::ranges::sort(list);
    return list;
  }
  void flip(const fs::path& path, std::streamoff at) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(at);
    const int byte = file.get();
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 4));
    ASSERT_TRUE(file.flush());
  }

  const testing::TemporaryDirectory directory_;
  std::unique_ptr<TrainingBackend> backend_ = make_cpu_training_backend(1, Isa::kScalar);
  SingleProcess communicator_;
  TrainConfig config_;
  std::string warnings_;
};

TEST_F(TrainerTest, EveryAlteredOrMissingFileIsNoticed) {
  const std::vector<float> whole = run(text(6));
  const fs::path newest = directory_ / "run" / "step-00000006";
  verify_checkpoint(newest);
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(newest)) files.push_back(entry.path().filename().string());
  EXPECT_THAT(files,
              ::testing::IsSupersetOf({"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja",
                                       "training_state.json", "training_state.safetensors"}));
  for (const std::string& file : files) {
    const auto size = static_cast<std::streamoff>(fs::file_size(newest / file));
    for (const std::streamoff at : {std::streamoff{3}, size / 2, size - 3}) {
      flip(newest / file, at);
      EXPECT_THROW(verify_checkpoint(newest), Error) << file << " " << at;
      flip(newest / file, at);
    }
    verify_checkpoint(newest);
    fs::rename(newest / file, directory_ / "aside");
    EXPECT_THROW(verify_checkpoint(newest), Error) << file;
    {  // a file that was cut
      fs::copy_file(directory_ / "aside", newest / file);
      fs::resize_file(newest / file, static_cast<uintmax_t>(size) / 2);
      EXPECT_THROW(verify_checkpoint(newest), Error) << file;
      fs::remove(newest / file);
    }
    fs::rename(directory_ / "aside", newest / file);
  }
  // The one before is taken, with a word about it, and leads to the same end.
  flip(newest / "model.safetensors", 5000);
  EXPECT_EQ(run(text(6)), whole);
  EXPECT_THAT(warnings_, AllOf(HasSubstr("step-00000006: not used"), HasSubstr("model.safetensors: checksum")));
  verify_checkpoint(newest);
}

TEST_F(TrainerTest, AFullDiskLeavesTheCheckpointBefore) {
  const auto trainer = open(text(6));
  for (int i = 0; i < 2; ++i) trainer->step();
  trainer->save();
  trainer->step();
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{.rlim_cur = 100'000, .rlim_max = old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THAT([&] { trainer->save(); },
              ThrowsMessage<Error>(
                  AllOf(HasSubstr("the checkpoint of step 3 could not be written"), HasSubstr("model.safetensors"))));
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(names(), std::vector<std::string>{"step-00000002"});
  verify_checkpoint(directory_ / "run" / "step-00000002");
}

TEST_F(TrainerTest, KeepsTheLastAndTheBest) {
  const auto trainer = open(text(12, "", "keep_last = 2"));
  int64_t best = 0;
  while (!trainer->done()) {
    trainer->step();
    if (trainer->evaluation_due()) {
      const EvaluationReport report = trainer->evaluate();
      EXPECT_EQ(report.tokens, 64);
      if (report.best) best = report.step;
    }
    if (trainer->checkpoint_due()) trainer->save();
  }
  std::vector<std::string> expected = {"step-00000010", "step-00000012"};
  if (best < 10) expected.insert(expected.begin(), fmt::format("step-{:08}", best));
  EXPECT_EQ(names(), expected);
}

TEST_F(TrainerTest, OneProcessAtATime) {
  const auto trainer = open(text(6));
  EXPECT_THAT([&] { open(text(6)); },
              ThrowsMessage<Error>(HasSubstr("another process is training into this directory")));
}

TEST_F(TrainerTest, OtherDataIsRefusedUnlessAllowed) {
  run(text(4));
  std::string other = text(6);
  other.replace(other.find("train.tokens"), 12, "other.tokens");
  EXPECT_THAT([&] { open(other); },
              ThrowsMessage<Error>(AllOf(HasSubstr("other training data"), HasSubstr("allow_change"))));
  other.replace(other.find("sequence_length"), 0, "allow_change = true\n");
  run(other);
  EXPECT_THAT(warnings_, HasSubstr("an epoch of the new data begins"));
  EXPECT_EQ(names().back(), "step-00000006");
}

TEST_F(TrainerTest, ChangedSettingsAreNamed) {
  run(text(2));
  const auto trainer = open(text(6, "max_context = 64"));
  EXPECT_THAT(warnings_, AllOf(HasSubstr("optimizer.steps was 2"), HasSubstr("and is 6 now"),
                               HasSubstr("data.max_context was nothing")));
}

TEST_F(TrainerTest, OtherShapesAreRefused) {
  run(text(2));
  const auto with = [&](const char* what, const char* by) {
    std::string changed = text(6);
    changed.replace(changed.find(what), std::string_view(what).size(), by);
    return changed;
  };
  for (const auto& [what, by] :
       {std::pair("hidden_size = 16", "hidden_size = 24"),
        std::pair("num_hidden_layers = 2", "num_hidden_layers = 4"), std::pair("num_experts = 4", "num_experts = 8"),
        std::pair("head_dim = 8", "head_dim = 16")}) {
    EXPECT_THAT([&] { open(with(what, by)); },
                ThrowsMessage<Error>(AllOf(HasSubstr("step-00000002"), HasSubstr("another shape"))))
        << by;
  }
}

TEST_F(TrainerTest, DataThatDoesNotFitIsRefused) {
  std::string longer = text(2);
  longer.replace(longer.find("sequence_length = 32\nbatch_tokens = 64"), 38,
                 "sequence_length = 65536\nbatch_tokens = 65536");
  EXPECT_THAT([&] { open(longer); },
              ThrowsMessage<Error>(AllOf(HasSubstr("sequence_length is 65536"), HasSubstr("tokens"))));
  TokenShardWriter writer(directory_ / "strange.tokens", 100, 7);
  writer.append(std::vector<uint32_t>(200, 1));
  writer.finish();
  std::string strange = text(2);
  strange.replace(strange.find("train.tokens"), 12, "strange.tokens");
  EXPECT_THAT([&] { open(strange); }, ThrowsMessage<Error>(HasSubstr("another tokenizer")));
}

/// Stored in bf16, trained in f32: a resumed run ends as a whole one.
TEST_F(TrainerTest, MastersOfBf16Checkpoints) {
  const std::string bf16 = "dtype = \"bf16\"";
  const std::vector<float> whole = run(text(6, "", bf16));
  {
    const SafetensorsCheckpoint checkpoint(directory_ / "run" / "step-00000006");
    EXPECT_EQ(checkpoint.find("model.embed_tokens.weight")->dtype, DType::kBF16);
    EXPECT_EQ(checkpoint.find("model.layers.0.linear_attn.A_log")->dtype, DType::kF32);
  }
  fs::remove_all(directory_ / "run");
  {
    const auto trainer = open(text(6, "", bf16));
    for (int i = 0; i < 3; ++i) trainer->step();
    trainer->save();
  }
  EXPECT_EQ(run(text(6, "", bf16)), whole);
}

/// States that cross steps are part of a checkpoint: stopping after every step changes nothing.
TEST_F(TrainerTest, StoppedAfterEveryStep) {
  const std::string curriculum = "curriculum = [{tokens_seen = 200, sequence_length = 64}]\nmax_context = 64";
  const std::vector<float> whole = run(text(8, curriculum));
  fs::remove_all(directory_ / "run");
  for (int i = 0; i < 8; ++i) {
    const auto trainer = open(text(8, curriculum));
    EXPECT_EQ(trainer->step_count(), i);
    run_training(*trainer, {}, [] { return true; });
  }
  EXPECT_EQ(run(text(8, curriculum)), whole);
}

/// With products in bf16 too; the number of threads changes nothing either.
TEST_F(TrainerTest, StoppedAfterEveryStepInBf16) {
  std::vector<float> first;
  for (const int threads : {1, 2}) {
    backend_ = make_cpu_training_backend(threads, chosen_isa(), chosen_bf16_products());
    fs::remove_all(directory_ / "run");
    const std::vector<float> whole = run(text(4));
    if (first.empty()) first = whole;
    EXPECT_EQ(whole, first);
  }
  fs::remove_all(directory_ / "run");
  for (int i = 0; i < 4; ++i) run_training(*open(text(4)), {}, [] { return true; });
  EXPECT_EQ(run(text(4)), first);
}

TEST_F(TrainerTest, ReportsAddUp) {
  const auto trainer = open(text(3, "carry_state = false"));
  const StepReport report = trainer->step();
  EXPECT_EQ(report.tokens, 64);
  EXPECT_EQ(report.sequence_length, 32);
  EXPECT_GT(report.targets, 0);
  ASSERT_EQ(report.loads.size(), 3u);  // two layers and the MTP module
  double squares = 0;
  for (const GroupNorm& group : report.group_norms) squares += group.gradient_norm * group.gradient_norm;
  EXPECT_NEAR(std::sqrt(squares), report.gradient_norm, 1e-9 * report.gradient_norm);
  double balance = 0;
  for (const LayerLoad& load : report.loads) {
    int64_t chosen = 0;
    for (const int64_t tokens : load.tokens) chosen += tokens;
    EXPECT_EQ(chosen, 2 * load.rows);
    EXPECT_NEAR(load.balance, 1.0, 0.2);
    balance += 0.001 * load.balance;
  }
  EXPECT_NEAR(report.balance_loss, balance, 1e-12);
  EXPECT_NEAR(report.total_loss, report.loss + 0.1 * report.mtp_loss[0] + report.balance_loss, 1e-12);
  EXPECT_NEAR(report.loss, std::log(3904.0), 0.1);
  EXPECT_GT(report.flops, 0);
}

}  // namespace
}  // namespace qnext
