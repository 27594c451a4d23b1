// What must hold without any oracle: how tokens are cut, batched and spread over threads does not change results
// (docs/numerics.md says which of it is bitwise), and mistakes of the caller leave everything as it was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <random>

#include "base/error.h"
#include "model/testing/random_checkpoint.h"
#include "runtime/engine.h"
#include "runtime/testing/golden.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define QNEXT_COUNT_ALLOCATIONS
static std::atomic<int64_t> allocations = 0;
// Out of line: inlined, g++ takes malloc and delete for a mismatched pair.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace qnext {
namespace {

using ::testing::HasSubstr;
using testing::relative_rms;
using testing::TemporaryDirectory;

/// One random model with every kind of layer, shared by all tests of this file.
const std::filesystem::path& model() {
  static const TemporaryDirectory directory;
  static const bool written = [] {
    ModelConfig config = testing::tiny_config();
    config.max_position_embeddings = 16384;
    testing::write_random_checkpoint(directory.path(), config, {.linear_std = 0.1});
    return true;
  }();
  static_cast<void>(written);
  return directory.path();
}

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
  return tokens;
}

/// Logits of every token of `tokens`, fed in the given pieces (the last piece repeats), and the state they leave.
struct Outcome {
  std::vector<float> logits, state;
};
Outcome feed(Engine& engine, const std::vector<int32_t>& tokens, const std::vector<int64_t>& pieces) {
  const auto sequence = engine.create_sequence();
  Outcome outcome;
  size_t done = 0;
  for (size_t i = 0; done < tokens.size(); ++i) {
    const auto piece = static_cast<size_t>(pieces[std::min(i, pieces.size() - 1)]);
    const Feed f{sequence.get(), std::span(tokens).subspan(done, std::min(piece, tokens.size() - done)), LogitRows::kAll};
    const auto logits = engine.step({&f, 1});
    outcome.logits.insert(outcome.logits.end(), logits.begin(), logits.end());
    done += f.tokens.size();
  }
  const float* recurrent = sequence->state().recurrent;
  outcome.state.assign(recurrent, recurrent + engine.layout().recurrent_floats);
  return outcome;
}

/// Two ways of the same sum, in float: pieces of the prompt end in other chunks of the delta rule (docs/numerics.md).
constexpr double kTolerance = 2e-5;

TEST(EngineInvariants, SplitAnywhereEqualsWhole) {
  Engine engine(model());
  const auto tokens = random_tokens(200, engine.config().vocab_size, 1);
  const Outcome whole = feed(engine, tokens, {200});
  for (const std::vector<int64_t>& pieces :
       std::vector<std::vector<int64_t>>{{1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {63}, {64}, {65}, {1, 199}, {128, 1}, {130, 7}}) {
    const Outcome cut = feed(engine, tokens, pieces);
    EXPECT_LT(relative_rms(cut.logits, whole.logits), kTolerance) << pieces[0];
    EXPECT_LT(relative_rms(cut.state, whole.state), kTolerance) << pieces[0];
  }
}

TEST(EngineInvariants, CutsAtMultiplesOf64AreBitwise) {
  Engine engine(model());
  const auto tokens = random_tokens(330, engine.config().vocab_size, 2);
  const Outcome whole = feed(engine, tokens, {330});
  for (const std::vector<int64_t>& pieces : std::vector<std::vector<int64_t>>{{64}, {128}, {192, 64, 74}, {320, 10}}) {
    const Outcome cut = feed(engine, tokens, pieces);
    EXPECT_EQ(cut.logits, whole.logits) << pieces[0];
    EXPECT_EQ(cut.state, whole.state) << pieces[0];
  }
}

TEST(EngineInvariants, AttentionIsBitwiseForEveryCut) {
  // Without DeltaNet layers nothing but attention carries state: then even single tokens give the whole prompt's bits,
  // beyond the 2,048 keys of one span too.
  const TemporaryDirectory directory;
  ModelConfig config = testing::tiny_config();
  std::fill(config.layer_types.begin(), config.layer_types.end(), LayerKind::kFullAttention);
  config.layer_types.resize(2);
  config.layer_is_moe.resize(2);
  config.max_position_embeddings = 16384;
  testing::write_random_checkpoint(directory.path(), config, {.linear_std = 0.1});
  Engine engine(directory.path(), {.batch_rows = 5000});
  const auto tokens = random_tokens(4300, config.vocab_size, 3);
  const Outcome whole = feed(engine, tokens, {4300});
  EXPECT_EQ(feed(engine, tokens, {4290, 1}).logits, whole.logits);
  EXPECT_EQ(feed(engine, tokens, {17, 4080, 1, 2, 3, 5, 4000}).logits, whole.logits);
}

TEST(EngineInvariants, SequencesTogetherEqualEachAloneBitwise) {
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa > detect_isa()) continue;
    Engine engine(model(), {.isa = isa});
    const int64_t vocab = engine.config().vocab_size;
    const std::vector<int64_t> lengths = {70, 1, 129, 3, 64, 2, 5, 31};
    std::vector<std::vector<int32_t>> prompts;
    std::vector<Outcome> alone;
    for (size_t i = 0; i < lengths.size(); ++i) {
      prompts.push_back(random_tokens(lengths[i] + 4, vocab, static_cast<uint32_t>(10 + i)));
      alone.push_back(feed(engine, prompts[i], {lengths[i], 1}));
    }
    // All prompts in one step, then four steps of one token each: prompts and decoding mixed, as some start a step later.
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (size_t i = 0; i < lengths.size(); ++i) sequences.push_back(engine.create_sequence());
    std::vector<std::vector<float>> logits(lengths.size());
    for (int64_t round = 0; round < 6; ++round) {
      std::vector<Feed> feeds;
      std::vector<size_t> who;
      for (size_t i = 0; i < lengths.size(); ++i) {
        const int64_t turn = round - static_cast<int64_t>(i % 2);  // odd ones start in round 1
        if (turn < 0 || turn > 4) continue;
        const auto begin = static_cast<size_t>(turn == 0 ? 0 : lengths[i] + turn - 1);
        const auto count = static_cast<size_t>(turn == 0 ? lengths[i] : 1);
        feeds.push_back({sequences[i].get(), std::span(prompts[i]).subspan(begin, count), LogitRows::kAll});
        who.push_back(i);
      }
      const auto rows = engine.step(feeds);
      size_t at = 0;
      for (size_t f = 0; f < feeds.size(); ++f) {
        const size_t count = feeds[f].tokens.size() * static_cast<size_t>(vocab);
        const auto part = rows.subspan(at, count);
        logits[who[f]].insert(logits[who[f]].end(), part.begin(), part.end());
        at += count;
      }
      EXPECT_EQ(at, rows.size());
    }
    for (size_t i = 0; i < lengths.size(); ++i) {
      EXPECT_EQ(logits[i], alone[i].logits) << isa_name(isa) << " sequence " << i;
      const float* state = sequences[i]->state().recurrent;
      EXPECT_EQ(std::vector<float>(state, state + engine.layout().recurrent_floats), alone[i].state);
    }
  }
}

TEST(EngineInvariants, ThreadsDoNotChangeABit) {
  const auto tokens = random_tokens(150, testing::tiny_config().vocab_size, 4);
  std::vector<Outcome> outcomes;
  for (int threads : {1, 2, 3}) {
    Engine engine(model(), {.threads = threads});
    outcomes.push_back(feed(engine, tokens, {140, 1}));
  }
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.logits, outcomes[0].logits);
    EXPECT_EQ(outcome.state, outcomes[0].state);
  }
}

TEST(EngineInvariants, LogitRowsAreThoseAskedFor) {
  Engine engine(model());
  const auto vocab = static_cast<size_t>(engine.config().vocab_size);
  const auto tokens = random_tokens(20, engine.config().vocab_size, 5);
  const Outcome all = feed(engine, tokens, {20});
  const auto sequence = engine.create_sequence();
  Feed f{sequence.get(), tokens, LogitRows::kLast};
  const auto last = engine.step({&f, 1});
  ASSERT_EQ(last.size(), vocab);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), all.logits.end() - static_cast<int64_t>(vocab)));
  sequence->reset();
  f.logits = LogitRows::kNone;
  EXPECT_TRUE(engine.step({&f, 1}).empty());
  EXPECT_EQ(sequence->length(), 20);
}

TEST(EngineInvariants, ResetForgetsEverything) {
  Engine engine(model());
  const auto tokens = random_tokens(90, engine.config().vocab_size, 6);
  const Outcome fresh = feed(engine, tokens, {90});
  const auto sequence = engine.create_sequence();
  const auto other = random_tokens(200, engine.config().vocab_size, 7);
  Feed f{sequence.get(), other, LogitRows::kNone};
  engine.step({&f, 1});
  sequence->reset();
  f = {sequence.get(), tokens, LogitRows::kAll};
  const auto logits = engine.step({&f, 1});
  EXPECT_EQ(std::vector<float>(logits.begin(), logits.end()), fresh.logits);
}

TEST(EngineInvariants, ShortKeysAndValuesLoseLittle) {
  const auto tokens = random_tokens(150, testing::tiny_config().vocab_size, 8);
  Engine exact(model());
  const Outcome reference = feed(exact, tokens, {150});
  for (const DType dtype : {DType::kBF16, DType::kQ8_0}) {
    Engine rounded(model(), {.kv_dtype = dtype});
    EXPECT_LT(rounded.plan().kv_per_token, exact.plan().kv_per_token);
    const double error = relative_rms(feed(rounded, tokens, {150}).logits, reference.logits);
    EXPECT_LT(error, 1e-2) << dtype_name(dtype);
    EXPECT_GT(error, 0.0);
  }
}

TEST(EngineInvariants, KvGrowsOnDemand) {
  Engine engine(model());
  const auto sequence = engine.create_sequence();
  const int64_t empty = sequence->bytes();
  EXPECT_EQ(empty, engine.plan().state_per_sequence);
  const auto tokens = random_tokens(512, engine.config().vocab_size, 9);
  for (int64_t i = 0; i < 20; ++i) {
    const Feed f{sequence.get(), tokens, LogitRows::kNone};
    engine.step({&f, 1});
    const int64_t planned = empty + engine.plan().kv_per_token * sequence->length();
    EXPECT_GE(sequence->bytes(), planned);
    EXPECT_LE(sequence->bytes(), planned + (1 << 20) + engine.layout().kv_block_bytes);
  }
}

#ifdef QNEXT_COUNT_ALLOCATIONS
TEST(EngineInvariants, DecodingAllocatesNothing) {
  Engine engine(model());
  const auto sequence = engine.create_sequence();
  const auto tokens = random_tokens(512, engine.config().vocab_size, 12);
  Feed f{sequence.get(), tokens, LogitRows::kLast};
  engine.step({&f, 1});
  f.tokens = std::span(tokens).first(1);
  engine.step({&f, 1});  // the first token alone sizes what only single rows use
  const int64_t before = allocations;
  for (int i = 0; i < 40; ++i) engine.step({&f, 1});  // within the sequence's slab of KV blocks
  EXPECT_EQ(allocations - before, 0);
}
#endif

template <typename F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "(no error)";
}

TEST(EngineErrors, LeaveTheSequenceAsItWas) {
  Engine engine(model(), {.context = 100, .batch_rows = 64});
  const auto sequence = engine.create_sequence();
  const auto tokens = random_tokens(40, engine.config().vocab_size, 11);
  Feed f{sequence.get(), tokens, LogitRows::kAll};
  engine.step({&f, 1});
  const std::vector<int32_t> bad = {1, static_cast<int32_t>(engine.config().vocab_size)}, negative = {-1};
  const std::vector<int32_t> long_prompt(61, 1), too_many(65, 1);
  f.tokens = bad;
  EXPECT_THAT(error_of([&] { engine.step({&f, 1}); }),
              HasSubstr(fmt::format("token id: expected 0 to {}, found {}", bad[1] - 1, bad[1])));
  f.tokens = negative;
  EXPECT_THAT(error_of([&] { engine.step({&f, 1}); }), HasSubstr("found -1"));
  f.tokens = long_prompt;
  EXPECT_THAT(error_of([&] { engine.step({&f, 1}); }), HasSubstr("prompt: expected at most 100 tokens of context, found 101"));
  EXPECT_THAT(error_of([&] { engine.prefill(*sequence, long_prompt, LogitRows::kNone, 1, {}); }), HasSubstr("found 101"));
  f.tokens = too_many;
  const auto fresh = engine.create_sequence();
  f.sequence = fresh.get();
  EXPECT_THAT(error_of([&] { engine.step({&f, 1}); }), HasSubstr("at most 64 rows"));
  EXPECT_EQ(sequence->length(), 40);
  EXPECT_TRUE(sequence->usable());
  const Outcome straight = feed(engine, tokens, {40});
  const float* state = sequence->state().recurrent;
  EXPECT_EQ(std::vector<float>(state, state + engine.layout().recurrent_floats), straight.state);
}

TEST(EngineErrors, TheSameSequenceTwiceInAStep) {
  Engine engine(model());
  const auto sequence = engine.create_sequence();
  const std::vector<int32_t> token = {1};
  const Feed feeds[] = {{sequence.get(), token}, {sequence.get(), token}};
  EXPECT_THAT(error_of([&] { engine.step(feeds); }), HasSubstr("more than once"));
}

TEST(EngineErrors, NotEnoughMemoryIsRefusedByThePlan) {
  EXPECT_THAT(error_of([] { Engine engine(model(), {.memory_limit_bytes = 1 << 20}); }),
              HasSubstr("not enough memory: expected at most 1.0 MiB, the plan needs"));
}

TEST(EngineInvariants, BatchRowsFollowMemoryAndContext) {
  const auto rows_with = [](EngineOptions options) {
    const Engine engine(model(), options);
    EXPECT_LE(engine.plan().total(), options.memory_limit_bytes > 0 ? options.memory_limit_bytes : INT64_MAX);
    return engine.options().batch_rows;
  };
  EXPECT_EQ(rows_with({}), 4096);
  EXPECT_EQ(rows_with({.context = 1000}), 1024);
  EXPECT_EQ(rows_with({.batch_rows = 77}), 77);
  const int64_t least = Engine(model(), {.batch_rows = 256}).plan().total();
  EXPECT_EQ(rows_with({.memory_limit_bytes = least}), 256);
  const int64_t rows = rows_with({.memory_limit_bytes = 2 * least});
  EXPECT_TRUE(rows > 256 && rows < 4096) << rows;
}

TEST(EngineErrors, OptionsOutOfRange) {
  EXPECT_THAT(error_of([] { Engine engine(model(), {.context = 16385}); }), HasSubstr("max_position_embeddings"));
  EXPECT_THAT(error_of([] { Engine engine(model(), {.threads = -1}); }), HasSubstr("threads"));
  EXPECT_THAT(error_of([] { Engine engine(model(), {.batch_rows = -1}); }), HasSubstr("batch rows"));
  EXPECT_THAT(error_of([] { Engine engine(model(), {.kv_dtype = DType::kF16}); }), HasSubstr("KV dtype"));
}

/// Writes the model with one tensor's first element NaN and returns what a step says.
std::string error_with_nan_in(const std::string& tensor) {
  const TemporaryDirectory directory;
  const ModelConfig config = testing::tiny_config();
  testing::write_random_checkpoint(directory.path(), config);
  auto tensors = testing::random_tensors(config);
  bool found = false;
  for (auto& t : tensors) {
    if (t.name != tensor) continue;
    const uint16_t nan = 0x7FC0;
    std::memcpy(t.bytes.data(), &nan, sizeof nan);
    found = true;
  }
  QNEXT_CHECK(found, "{}", tensor);
  testing::write_tensors(directory.path(), tensors);
  Engine engine(directory.path());
  const auto sequence = engine.create_sequence();
  const std::vector<int32_t> tokens = {0, 1, 2};
  const Feed f{sequence.get(), tokens};
  const std::string message = error_of([&] { engine.step({&f, 1}); });
  EXPECT_FALSE(sequence->usable());
  EXPECT_THAT(error_of([&] { engine.step({&f, 1}); }), HasSubstr("reset it"));
  return message;
}

TEST(EngineErrors, NanIsReportedAtTheLayerWhereItFirstAppears) {
  EXPECT_THAT(error_with_nan_in("model.embed_tokens.weight"), HasSubstr("embedding: expected finite values"));
  EXPECT_THAT(error_with_nan_in("model.layers.0.linear_attn.A_log"), HasSubstr("layer 0 (linear_attention)"));
  EXPECT_THAT(error_with_nan_in("model.layers.2.linear_attn.out_proj.weight"), HasSubstr("layer 2 (linear_attention)"));
  EXPECT_THAT(error_with_nan_in("model.layers.3.self_attn.k_proj.weight"), HasSubstr("layer 3 (full_attention)"));
  EXPECT_THAT(error_with_nan_in("model.layers.3.mlp.shared_expert.down_proj.weight"), HasSubstr("layer 3"));
  EXPECT_THAT(error_with_nan_in("lm_head.weight"), HasSubstr("final norm and head"));
}

}  // namespace
}  // namespace qnext
