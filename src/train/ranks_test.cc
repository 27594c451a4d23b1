#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <tuple>

#include "backend/cpu/training_backend.h"
#include "base/cpu.h"
#include "base/mapped_file.h"
#include "base/testing/temporary_directory.h"
#include "data/dataset.h"
#include "distributed/testing/ranks.h"
#include "tokenizer/tokenizer.h"
#include "train/trainer.h"

// Several ranks, here threads of one process, against one rank on the same global batches. tests/train/ranks_test.py does it with
// mpirun.
namespace qnext {
namespace {

const std::filesystem::path kTokenizer = std::filesystem::path(QNEXT_SOURCE_DIR) / "models" / "starter";

struct Result {
  std::vector<double> losses, mtp_losses, balance, norms;
  std::vector<int64_t> counts;  ///< of layer 0's experts, all steps
  std::vector<float> parameters, gradients;  ///< at the end, and of step 1 (empty: of an earlier run); in the order of one rank
  std::vector<int64_t> moment_bytes, array_bytes;  ///< per rank
  double validation = 0.0;
};

/// By optimiser, and whether several ranks divide the experts.
class RanksTest : public ::testing::TestWithParam<std::tuple<const char*, bool>> {
 protected:
  RanksTest() {
    const Tokenizer tokenizer = Tokenizer::load(kTokenizer);
    std::mt19937 random(7);
    for (const auto& [name, documents] : std::map<std::string, int>{{"train", 60}, {"valid", 20}}) {
      TokenShardWriter writer(directory_ / (name + ".tokens"), static_cast<int32_t>(tokenizer.vocab_size()), tokenizer_fingerprint(tokenizer));
      for (int d = 0; d < documents; ++d) {
        // Counting in steps, modulo 40: there is something to learn. Some go on over several steps.
        const uint32_t start = random() % 40, step = 1 + random() % 3;
        std::vector<uint32_t> words(20 + random() % 280);
        for (size_t i = 0; i < words.size(); ++i) words[i] = (start + step * static_cast<uint32_t>(i)) % 40 + 10;
        writer.append(words);
      }
      writer.finish();
    }
  }

  TrainConfig config(const std::string& output, int64_t steps) const {
    return parse_train_config(fmt::format(R"(
[run]
output = "{}"
[model]
tokenizer = "{}"
mtp_steps = 1
hidden_size = 32
num_hidden_layers = 4
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
linear_num_key_heads = 1
linear_num_value_heads = 2
linear_key_head_dim = 16
linear_value_head_dim = 16
num_experts = 8
num_experts_per_tok = 2
moe_intermediate_size = 16
shared_expert_intermediate_size = 16
[data]
train = "train.tokens"
valid = "valid.tokens"
sequence_length = 64
batch_tokens = {}
micro_batch_tokens = {}
[optimizer]
kind = "{}"
learning_rate = 3e-3
schedule = "constant"
steps = {}
warmup_steps = 4
[loss]
balance_coefficient = 0.01
z_coefficient = 0.0001
[checkpoint]
every = 10
dtype = "bf16"
[evaluation]
every = 1000
tokens = 1024
[memory]
activations_mib = {}
[distributed]
expert_parallel = {}
)", output, kTokenizer.string(), batch_tokens_, micro_batch_tokens_, std::get<0>(GetParam()), steps, activations_mib_,
                                          expert_parallel_), "ranks.toml", directory_.path());
  }

  /// Trains to `steps` from where `output` is.
  Result train(const std::string& output, int ranks, int64_t steps = 20) const {
    Result result;
    result.moment_bytes.resize(static_cast<size_t>(ranks));
    result.array_bytes.resize(static_cast<size_t>(ranks));
    testing::Ranks(ranks).run([&](Communicator& communicator) {
      const auto backend = make_cpu_training_backend(1, chosen_isa());
      const TrainConfig c = config(output, steps);
      Trainer trainer(c, *backend, communicator, [](const std::string&) {});
      while (!trainer.done()) {
        const StepReport report = trainer.step();
        if (report.step == 1) collect(trainer, trainer.gradients(), /*everywhere=*/false, communicator, result.gradients);
        if (communicator.rank() == 0) {
          result.losses.push_back(report.loss);
          result.mtp_losses.push_back(report.mtp_loss.at(0));
          result.balance.push_back(report.balance_loss);
          result.norms.push_back(report.gradient_norm);
          result.counts.insert(result.counts.end(), report.loads.at(0).tokens.begin(), report.loads.at(0).tokens.end());
        }
        if (trainer.evaluation_due()) {
          const EvaluationReport evaluation = trainer.evaluate();
          if (communicator.rank() == 0) result.validation = evaluation.loss;
        }
        if (trainer.checkpoint_due()) trainer.save();
      }
      result.moment_bytes[static_cast<size_t>(communicator.rank())] = trainer.moment_bytes();
      const TrainingMemory memory = trainer.memory();
      result.array_bytes[static_cast<size_t>(communicator.rank())] = memory.parameters + memory.gradients + memory.moments;
      collect(trainer, trainer.weights(), /*everywhere=*/true, communicator, result.parameters);
    });
    return result;
  }

  /// The values of all ranks, of each parameter those at its owner, in the order of one rank. everywhere: they must be the same
  /// wherever they are.
  static void collect(const Trainer& trainer, const ParameterList& array, bool everywhere, Communicator& communicator,
                      std::vector<float>& all) {
    const std::vector<ParameterInfo> complete = parameter_list(trainer.config().shape, true);
    if (communicator.rank() == 0) all.assign(static_cast<size_t>(complete.back().offset + complete.back().size()), 0.0f);
    communicator.barrier();
    std::map<std::string, int64_t> offsets;
    for (const ParameterInfo& p : complete) offsets[p.name] = p.offset;
    const auto place = [&](const ParameterInfo& p) { return std::span(all).subspan(static_cast<size_t>(offsets.at(p.name)), static_cast<size_t>(p.size())); };
    const auto& list = array.parameters();
    for (size_t i = 0; i < list.size(); ++i) {
      if (trainer.shares().owner(i) == communicator.rank()) std::ranges::copy(array.of(list[i]), place(list[i]).begin());
    }
    communicator.barrier();
    for (const ParameterInfo& p : list) {
      EXPECT_TRUE(!everywhere || std::ranges::equal(array.of(p), place(p))) << p.name << " of rank " << communicator.rank();
    }
    communicator.barrier();
  }

  static double worst(const std::vector<double>& a, const std::vector<double>& b) {
    EXPECT_EQ(a.size(), b.size());
    double w = 0.0;
    for (size_t i = 0; i < a.size(); ++i) w = std::max(w, std::abs(a[i] - b[i]) / std::abs(b[i]));
    return w;
  }
  static double relative_rms(const std::vector<float>& a, const std::vector<float>& b) {
    EXPECT_EQ(a.size(), b.size());
    double difference = 0.0, squares = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
      difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
      squares += static_cast<double>(b[i]) * b[i];
    }
    return std::sqrt(difference / squares);
  }
  /// All relative: docs/numerics.md states the bounds.
  static void expect_close(const Result& a, const Result& b, const std::string& what) {
    const double loss = worst(a.losses, b.losses), mtp = worst(a.mtp_losses, b.mtp_losses), balance = worst(a.balance, b.balance),
                 norm = worst(a.norms, b.norms), parameters = relative_rms(a.parameters, b.parameters),
                 gradients = a.gradients.empty() ? 0.0 : relative_rms(a.gradients, b.gradients),
                 validation = std::abs(a.validation / b.validation - 1);
    EXPECT_LT(loss, 1e-6) << what;
    EXPECT_LT(mtp, 1e-6) << what;
    EXPECT_LT(balance, 1e-6) << what;
    EXPECT_LT(norm, 1e-5) << what;
    EXPECT_LT(gradients, 1e-5) << what;
    EXPECT_LT(parameters, 1e-5) << what;
    EXPECT_LT(validation, 1e-6) << what;
    fmt::print("{}: losses within {:.1e}, MTP {:.1e}, balance {:.1e}, gradient norm {:.1e}, first gradients {:.1e}, parameters {:.1e}, "
               "validation {:.1e}\n", what, loss, mtp, balance, norm, gradients, parameters, validation);
  }

  const testing::TemporaryDirectory directory_;
  bool expert_parallel_ = std::get<1>(GetParam());
  int64_t batch_tokens_ = 256, micro_batch_tokens_ = 128, activations_mib_ = 1024;
};

TEST_P(RanksTest, LossesOfOneRankOnTheSameBatches) {
  const Result one = train("one", 1);
  EXPECT_LT(one.losses.back(), 0.95 * one.losses.front());
  EXPECT_FALSE(one.gradients.empty());
  for (const int ranks : {2, 4}) {
    const Result several = train(fmt::format("of-{}", ranks), ranks);
    expect_close(several, one, fmt::format("{}, {} ranks{}", std::get<0>(GetParam()), ranks, expert_parallel_ ? " with their experts" : ""));
    // The first step's choices cannot differ: nothing has been rounded otherwise yet.
    EXPECT_TRUE(std::equal(one.counts.begin(), one.counts.begin() + 8, several.counts.begin()));
    int64_t total = 0, most = 0;
    for (const int64_t bytes : several.moment_bytes) total += bytes, most = std::max(most, bytes);
    EXPECT_NEAR(static_cast<double>(total), static_cast<double>(one.moment_bytes[0]), 4096.0);
    // Two large matrices, embedding and head, are not divided.
    EXPECT_LT(static_cast<double>(most), 0.7 * static_cast<double>(one.moment_bytes[0]));
    fmt::print("moments: {} bytes on one rank, at most {} on each of {}; with parameters and gradients {}, {}\n", one.moment_bytes[0], most,
               ranks, one.array_bytes[0], std::ranges::max(several.array_bytes));
    // What is not there: the experts of other ranks, their parameters and gradients.
    int64_t experts = 0;
    for (const ParameterInfo& p : parameter_list(config("", 1).shape, true)) experts += p.expert >= 0 ? p.size() : 0;
    const int64_t absent = expert_parallel_ ? experts * (ranks - 1) / ranks : 0;
    for (size_t r = 0; r < several.array_bytes.size(); ++r) {
      EXPECT_EQ(several.array_bytes[r] - several.moment_bytes[r], one.array_bytes[0] - one.moment_bytes[0] - 2 * 4 * absent) << r;
    }
  }
}

TEST_P(RanksTest, CheckpointsDoNotDependOnRanks) {
  const Result one = train("whole", 1);
  train("changing", 2, 10);
  const auto copy = [&](const char* name) {
    std::filesystem::copy(directory_ / "changing", directory_ / name, std::filesystem::copy_options::recursive);
  };
  copy("to-1");
  copy("to-4");
  copy("to-others");
  const auto tail = [&](Result result) {
    for (auto* list : {&result.losses, &result.mtp_losses, &result.balance, &result.norms}) list->erase(list->begin(), list->end() - 10);
    return result;
  };
  expect_close(tail(train("to-1", 1)), tail(one), "2 ranks, then 1");
  expect_close(tail(train("to-4", 4)), tail(one), "2 ranks, then 4");
  expert_parallel_ = !expert_parallel_;
  expect_close(tail(train("to-others", 2)), tail(one), "2 ranks, then 2 with the experts the other way");
  expert_parallel_ = !expert_parallel_;
  train("from-1", 1, 10);
  expect_close(tail(train("from-1", 2)), tail(one), "1 rank, then 2");
  // Resumed with as many, it is the run that never stopped, to the bit.
  const Result again = train("changing", 2), two = train("two", 2);
  EXPECT_EQ(again.parameters, two.parameters);
  for (const char* file : {"model.safetensors", "training_state.safetensors"}) {
    EXPECT_TRUE(read_text_file(directory_ / "changing" / "step-00000020" / file, size_t{1} << 30) ==
                read_text_file(directory_ / "two" / "step-00000020" / file, size_t{1} << 30))
        << file;
  }
}

/// One rank has a batch more than the others, which take part in the exchanges of it without rows of their own.
TEST_P(RanksTest, UnevenLanes) {
  micro_batch_tokens_ = 64;
  for (const int ranks : {2, 4}) {
    batch_tokens_ = 64 * (ranks + 1);
    const Result one = train(fmt::format("whole-{}", ranks), 1), several = train(fmt::format("uneven-{}", ranks), ranks);
    expect_close(several, one, fmt::format("{} lanes on {} ranks", ranks + 1, ranks));
  }
}

/// What is kept differs from rank to rank where they have unlike numbers of rows.
TEST_P(RanksTest, BitsDoNotDependOnKeptActivations) {
  micro_batch_tokens_ = 64;
  batch_tokens_ = 192;
  std::vector<float> first;
  for (const int64_t mib : {0, 1, 1024}) {
    activations_mib_ = mib;
    const Result result = train(fmt::format("kept-{}", mib), 2, 5);
    if (first.empty()) first = result.parameters;
    EXPECT_EQ(first, result.parameters) << mib << " MiB";
  }
}

TEST_P(RanksTest, TooFewLanes) {
  EXPECT_THROW(train("five", 5, 1), Error);
}

TEST_P(RanksTest, ExpertsThatRanksDoNotDivide) {
  if (!expert_parallel_) {
    train("three", 3, 1);
    return;
  }
  EXPECT_THAT([&] { train("three", 3, 1); },
              ::testing::ThrowsMessage<Error>("distributed.expert_parallel: expected a number of processes that divides the 8 experts of a layer, found 3"));
}

INSTANTIATE_TEST_SUITE_P(Optimizers, RanksTest, ::testing::Combine(::testing::Values("adamw", "muon"), ::testing::Bool()), [](const auto& test) {
  return fmt::format("{}{}", std::get<0>(test.param), std::get<1>(test.param) ? "_experts_divided" : "");
});

}  // namespace
}  // namespace qnext
