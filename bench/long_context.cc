// Feeds a long text to a model and shows what the context costs: time per token of DeltaNet and attention layers against
// position, memory against the plan, and whether the same text in other pieces ends in the same state.
//
//   long_context MODEL TEXT_FILE [TOKENS] [--kv bf16|q8] [--pieces N]
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "runtime/engine.h"
#include "runtime/memory_plan.h"
#include "tokenizer/tokenizer.h"

namespace {

using namespace qnext;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

int run(int argc, char** argv) {
  if (argc < 3) throw Error("usage: long_context MODEL TEXT_FILE [TOKENS] [--kv bf16|q8] [--pieces N]");
  int64_t wanted = 262144, pieces = 0;
  EngineOptions options;
  for (int i = 3; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--kv" && i + 1 < argc) {
      const std::string type = argv[++i];
      options.kv_dtype = type == "bf16" ? DType::kBF16 : type == "q8" ? DType::kQ8_0 : DType::kF32;
    } else if (argument == "--pieces" && i + 1 < argc) {
      pieces = std::atoll(argv[++i]);
    } else {
      wanted = std::atoll(argument.c_str());
    }
  }
  const Tokenizer tokenizer = Tokenizer::load(argv[1]);
  std::vector<int32_t> tokens = tokenizer.encode(read_text_file(argv[2], size_t{1} << 30), SpecialTokens::kPlain);
  if (static_cast<int64_t>(tokens.size()) < wanted) {
    throw Error(fmt::format("{}: expected at least {} tokens, found {}", argv[2], wanted, tokens.size()));
  }
  tokens.resize(static_cast<size_t>(wanted));
  options.planned_context = wanted;
  Engine engine(argv[1], options);
  const ModelConfig& config = engine.config();
  fmt::print("{}, {} tokens, KV {}\n", engine.backend_name(), wanted, dtype_name(options.kv_dtype));
  fmt::print("{:>9} {:>18} {:>19} {:>14} {:>12} {:>12}\n", "position", "DeltaNet us/token", "attention us/token", "other us/token",
             "KV + state", "planned");

  // The observer's calls lie between the layers: the time since the last one is the layer's.
  double delta = 0, attention = 0, other = 0, sum = 0;
  auto last = Clock::now();
  engine.observer = [&](int64_t layer, std::span<const float>) {
    const double spent = seconds_since(last);
    const bool is_layer = layer >= 0 && layer < config.num_layers();
    const bool full = is_layer && config.layer_types[static_cast<size_t>(layer)] == LayerKind::kFullAttention;
    (!is_layer ? other : full ? attention : delta) += spent;
    last = Clock::now();
  };
  const auto sequence = engine.create_sequence();
  const auto start = Clock::now();
  int64_t reported = 0;
  const int64_t interval = std::max<int64_t>(1, wanted / 16);
  float checksum = 0;
  engine.prefill(
      *sequence, tokens, LogitRows::kLast, 0,
      [&](int64_t, std::span<const float> logits) {
        for (float x : logits) checksum += std::fabs(x);
      },
      [&](int64_t done) {
        if (done - reported < interval && done != wanted) {
          last = Clock::now();
          return;
        }
        const double scale = 1e6 / static_cast<double>(done - reported);
        const int64_t planned = engine.plan().state_per_sequence + engine.plan().kv_per_token * done;
        fmt::print("{:>9} {:>18.2f} {:>19.2f} {:>14.2f} {:>8.1f} MiB {:>8.1f} MiB\n", done, delta * scale, attention * scale,
                   other * scale, static_cast<double>(sequence->bytes()) / (1 << 20), static_cast<double>(planned) / (1 << 20));
        std::fflush(stdout);
        sum += delta + attention + other;
        delta = attention = other = 0;
        reported = done;
        last = Clock::now();
      });
  fmt::print("{:.1f} s, {:.0f} tokens/s; last logits finite (mean magnitude {:.3f}); peak resident {:.1f} MiB, planned {:.1f} MiB\n",
             seconds_since(start), static_cast<double>(wanted) / seconds_since(start),
             checksum / static_cast<float>(config.vocab_size), static_cast<double>(peak_resident_bytes()) / (1 << 20),
             static_cast<double>(engine.plan().total()) / (1 << 20));
  if (pieces <= 0) return 0;

  engine.observer = {};
  const auto other_way = engine.create_sequence();
  engine.prefill(*other_way, tokens, LogitRows::kNone, pieces, {});
  double difference = 0, size = 0;
  for (int64_t i = 0; i < engine.layout().recurrent_floats; ++i) {
    const double a = sequence->state().recurrent[i], b = other_way->state().recurrent[i];
    difference += (a - b) * (a - b);
    size += a * a;
  }
  fmt::print("recurrent and convolution state after pieces of {}: relative RMS {:.2e} to that after pieces of {}\n", pieces,
             std::sqrt(difference / size), options.batch_rows);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "long_context: {}\n", error.what());
    return 1;
  }
}
