// The engine against PyTorch + transformers (tests/golden), on every instruction set this machine has, with the prompt
// fed whole and in pieces.
#include <gtest/gtest.h>

#include <fstream>

#include "base/testing/sanitized.h"
#include "runtime/engine.h"
#include "runtime/testing/golden.h"

namespace qnext {
namespace {

using testing::argmax;
using testing::Golden;
using testing::relative_rms;

/// Measured: at most 1e-5 on all cases (docs/numerics.md). The smallest classic mistake (RoPE pairs interleaved)
/// makes 1e-2. States and hidden states are sums of the same kind.
constexpr double kTolerance = 1e-4;

const std::filesystem::path kGolden = QNEXT_SOURCE_DIR "/tests/golden";

struct Case {
  std::string model;
  Isa isa;
  int64_t chunk;  ///< tokens per step; 0: as many as fit
};

/// Every golden model (or those with MTP), instruction set and way of feeding.
std::vector<Case> cases(std::vector<int64_t> chunks, bool with_mtp = false) {
  std::vector<Case> list;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden)) {
    if (!std::filesystem::exists(entry.path() / "expected.safetensors")) continue;
    if (with_mtp && !Golden(entry.path()).has("mtp_logits")) continue;
    for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
      if (isa > detect_isa()) continue;
      for (int64_t chunk : chunks) list.push_back({entry.path().filename().string(), isa, chunk});
    }
  }
  return list;
}

class EngineGolden : public ::testing::TestWithParam<Case> {
 protected:
  const Case& param() const { return GetParam(); }
  EngineOptions options() const { return {.threads = 2, .isa = param().isa, .batch_rows = 512}; }
};

class EngineGoldenGreedy : public EngineGolden {};
class EngineGoldenMtp : public EngineGolden {};

/// Keys (or values) of one layer, [Hkv, T, A], read back from the blocks.
std::vector<float> cached(const Engine& engine, const Sequence& sequence, int64_t layer, bool values) {
  const KvLayout& kv = engine.layout().kv;
  std::vector<float> out;
  for (int64_t h = 0; h < kv.heads; ++h) {
    for (int64_t t = 0; t < sequence.length(); ++t) {
      const auto* block = reinterpret_cast<const float*>(sequence.state().kv_blocks[static_cast<size_t>(t / kBlockTokens)] +
                                                         engine.layout().kv_offset[static_cast<size_t>(layer)]);
      const float* head = block + ((values ? kv.heads : 0) + h) * kv.head_dim * kBlockTokens;
      for (int64_t d = 0; d < kv.head_dim; ++d) {
        out.push_back(values ? head[t % kBlockTokens * kv.head_dim + d] : head[d * kBlockTokens + t % kBlockTokens]);
      }
    }
  }
  return out;
}

TEST_P(EngineGolden, LogitsHiddenStatesAndCaches) {
  const Golden golden(kGolden / param().model);
  Engine engine(kGolden / param().model, options());
  const ModelConfig& config = engine.config();
  std::map<int64_t, std::vector<float>> hidden;
  engine.observer = [&](int64_t layer, std::span<const float> rows) {
    hidden[layer].insert(hidden[layer].end(), rows.begin(), rows.end());
  };
  const std::vector<int32_t> tokens = golden.ids("tokens");
  std::vector<float> logits;
  const auto sequence = engine.create_sequence();
  engine.prefill(*sequence, tokens, LogitRows::kAll, param().chunk, [&](int64_t first, std::span<const float> rows) {
    EXPECT_EQ(static_cast<size_t>(first * config.vocab_size), logits.size());
    logits.insert(logits.end(), rows.begin(), rows.end());
  });
  const std::vector<float> expected = golden.floats("logits");
  EXPECT_LT(relative_rms(logits, expected), kTolerance);
  RecordProperty("relative_rms", fmt::format("{:.2e}", relative_rms(logits, expected)));
  const auto vocab = static_cast<size_t>(config.vocab_size);
  for (size_t t = 0; t < tokens.size(); ++t) {
    EXPECT_EQ(argmax(std::span(logits).subspan(t * vocab, vocab)), argmax(std::span(expected).subspan(t * vocab, vocab)));
  }
  EXPECT_LT(relative_rms(hidden[-1], golden.floats("hidden.embedding")), 1e-7);
  EXPECT_LT(relative_rms(hidden[config.num_layers()], golden.floats("hidden.final_norm")), kTolerance);
  for (int64_t i = 0; i < config.num_layers(); ++i) {
    EXPECT_LT(relative_rms(hidden[i], golden.floats(fmt::format("hidden.layer.{}", i))), kTolerance) << "layer " << i;
    const auto state = [&](const char* name) { return golden.floats(fmt::format("state.layer.{}.{}", i, name)); };
    if (config.layer_types[static_cast<size_t>(i)] == LayerKind::kFullAttention) {
      EXPECT_LT(relative_rms(cached(engine, *sequence, i, false), state("k")), kTolerance) << "keys, layer " << i;
      EXPECT_LT(relative_rms(cached(engine, *sequence, i, true), state("v")), kTolerance) << "values, layer " << i;
    } else {
      const std::vector<float> recurrent = state("recurrent"), conv = state("conv");
      const float* memory = sequence->state().recurrent;
      const StateLayout& layout = engine.layout();
      EXPECT_LT(relative_rms({memory + layout.delta_offset[static_cast<size_t>(i)], recurrent.size()}, recurrent), kTolerance)
          << "state, layer " << i;
      EXPECT_LT(relative_rms({memory + layout.conv_offset[static_cast<size_t>(i)], conv.size()}, conv), kTolerance)
          << "convolution, layer " << i;
    }
  }
}

TEST_P(EngineGoldenGreedy, Continuation) {
  const Golden golden(kGolden / param().model);
  Engine engine(kGolden / param().model, options());
  const auto sequence = engine.create_sequence();
  std::vector<int32_t> feed = golden.ids("tokens"), generated;
  const std::vector<int32_t> expected = golden.ids("generated");
  while (generated.size() < expected.size()) {
    engine.prefill(*sequence, feed, LogitRows::kLast, param().chunk, [&](int64_t, std::span<const float> logits) {
      if (!logits.empty()) feed = {static_cast<int32_t>(argmax(logits))};
    });
    generated.push_back(feed[0]);
  }
  EXPECT_EQ(generated, expected);
}

TEST_P(EngineGoldenMtp, Logits) {
  const Golden golden(kGolden / param().model);
  EngineOptions with_mtp = options();
  with_mtp.mtp = true;
  Engine engine(kGolden / param().model, with_mtp);
  const auto sequence = engine.create_sequence();
  const std::vector<int32_t> tokens = golden.ids("tokens");
  std::vector<float> logits;
  engine.prefill(*sequence, tokens, LogitRows::kNone, param().chunk, [&](int64_t first, std::span<const float>) {
    // Slot p takes token p + 1: the last row of the last piece has none.
    Rows hidden = engine.last_hidden();
    const auto next = std::span(tokens).subspan(static_cast<size_t>(first + 1));
    const int64_t rows = std::min(hidden.rows, static_cast<int64_t>(next.size()));
    const auto out = engine.mtp_step(*sequence, next.first(static_cast<size_t>(rows)), hidden.first(rows));
    logits.insert(logits.end(), out.begin(), out.end());
  });
  EXPECT_LT(relative_rms(logits, golden.floats("mtp_logits")), kTolerance);
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return fmt::format("{}_{}_{}", info.param.model, isa_name(info.param.isa),
                     info.param.chunk == 0 ? std::string("whole") : std::to_string(info.param.chunk));
}
const std::vector<int64_t> kPieces = testing::kSanitized ? std::vector<int64_t>{0, 7} : std::vector<int64_t>{0, 64, 7, 1};
INSTANTIATE_TEST_SUITE_P(Cases, EngineGolden, ::testing::ValuesIn(cases(kPieces)), case_name);
INSTANTIATE_TEST_SUITE_P(Cases, EngineGoldenGreedy, ::testing::ValuesIn(cases({0, 1})), case_name);
INSTANTIATE_TEST_SUITE_P(Cases, EngineGoldenMtp, ::testing::ValuesIn(cases(kPieces, true)), case_name);

}  // namespace
}  // namespace qnext
