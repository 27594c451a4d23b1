#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "formats/safetensors.h"
#include "reference/reference.h"

// The reference against PyTorch and transformers (tests/golden/README.md): every checkpoint, in double and in float.
namespace qnext::reference {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(QNEXT_SOURCE_DIR) / "tests" / "golden";

// transformers computed in float32, and that is what is measured here: double and float differ from it alike, by 6e-7
// to 4e-6 relative RMS in every tensor. The smallest classic mistake is worth 1.1e-2 (tests/golden/README.md). The
// bound lies one and a half decades above the noise, for other compilers and libm, and two below the mistake.
constexpr double kTolerance = 1e-4;

/// expected.safetensors of one case.
class Expected {
 public:
  explicit Expected(const std::filesystem::path& path) : name_(path.string()), file_(path) {
    for (const FileTensor& tensor : parse_safetensors(file_.bytes(), name_)) tensors_[tensor.name] = tensor;
  }

  bool has(const std::string& name) const { return tensors_.contains(name); }
  std::vector<float> floats(const std::string& name) const { return read<float>(name, "F32"); }
  std::vector<int32_t> ints(const std::string& name) const { return read<int32_t>(name, "I32"); }

 private:
  template <typename T>
  std::vector<T> read(const std::string& name, const std::string& dtype) const {
    const FileTensor& tensor = tensors_.at(name);
    EXPECT_EQ(tensor.dtype_text, dtype) << name;
    std::vector<T> values(tensor.bytes.size() / sizeof(T));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }

  std::string name_;
  MappedFile file_;
  std::map<std::string, FileTensor> tensors_;
};

template <typename T>
double relative_rms(const std::vector<T>& found, const std::vector<float>& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double{found[i]} - expected[i], 2);
    size += std::pow(expected[i], 2);
  }
  return std::sqrt(difference / size);
}

template <typename T>
std::vector<int32_t> argmax_per_row(const std::vector<T>& logits, int64_t vocab) {
  std::vector<int32_t> result;
  for (auto row = logits.begin(); row != logits.end(); row += vocab) {
    result.push_back(static_cast<int32_t>(std::max_element(row, row + vocab) - row));
  }
  return result;
}

/// [tokens, heads, dim] -> [heads, tokens, dim], the order of transformers' caches.
template <typename T>
std::vector<T> heads_first(const std::vector<T>& x, int64_t heads, int64_t dim) {
  const int64_t tokens = static_cast<int64_t>(x.size()) / (heads * dim);
  std::vector<T> y(x.size());
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      std::copy_n(x.begin() + (t * heads + h) * dim, dim, y.begin() + (h * tokens + t) * dim);
    }
  }
  return y;
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  template <typename T>
  void check() {
    const std::filesystem::path directory = kGolden / GetParam();
    const ModelConfig config = load_config(directory);
    const Weights weights = bind_weights(config, std::make_shared<SafetensorsCheckpoint>(directory));
    const Expected expected(directory / "expected.safetensors");
    const auto close = [&](const std::vector<T>& found, const std::string& name) {
      const std::vector<float> values = expected.floats(name);
      ASSERT_EQ(found.size(), values.size()) << name;
      const double rms = relative_rms(found, values);
      RecordProperty(name, std::to_string(rms));
      worst_ = std::max(worst_, rms);
      EXPECT_LE(rms, kTolerance) << name;
    };

    const std::vector<int32_t> tokens = expected.ints("tokens");
    const ReferenceModel<T> model{config, weights};
    const Output<T> out = model.run(tokens);

    close(out.hidden.front(), "hidden.embedding");
    for (int64_t i = 0; i < config.num_layers(); ++i) {
      close(out.hidden[i + 1], "hidden.layer." + std::to_string(i));
      const std::string state = "state.layer." + std::to_string(i);
      if (config.layer_types[i] == LayerKind::kLinearAttention) {
        close(out.states[i].recurrent, state + ".recurrent");
        close(out.states[i].conv, state + ".conv");
      } else {
        close(heads_first(out.states[i].k, config.num_key_value_heads, config.head_dim), state + ".k");
        close(heads_first(out.states[i].v, config.num_key_value_heads, config.head_dim), state + ".v");
      }
    }
    close(out.hidden.back(), "hidden.final_norm");
    close(out.logits, "logits");
    std::printf("%-12s %-6s logits %.1e", GetParam().c_str(), sizeof(T) == 8 ? "double" : "float",
                relative_rms(out.logits, expected.floats("logits")));

    // The prompts leave no near-ties (README.md), so every argmax must agree.
    EXPECT_EQ(argmax_per_row(out.logits, config.vocab_size),
              argmax_per_row(expected.floats("logits"), config.vocab_size));
    EXPECT_EQ(expected.has("mtp_logits"), weights.mtp.has_value());
    if (weights.mtp) {
      close(out.mtp.logits, "mtp_logits");
      EXPECT_EQ(argmax_per_row(out.mtp.logits, config.vocab_size),
                argmax_per_row(expected.floats("mtp_logits"), config.vocab_size));
      std::printf(" mtp %.1e", relative_rms(out.mtp.logits, expected.floats("mtp_logits")));
    }
    std::printf(" worst of all %.1e\n", worst_);

    // What transformers generated greedily, one token at a time, is what each of its prefixes predicts.
    const std::vector<int32_t> generated = expected.ints("generated");
    std::vector<int32_t> all = tokens;
    all.insert(all.end(), generated.begin(), generated.end() - 1);
    const std::vector<int32_t> predicted = argmax_per_row(model.run(all).logits, config.vocab_size);
    EXPECT_EQ(std::vector<int32_t>(predicted.end() - static_cast<ptrdiff_t>(generated.size()), predicted.end()),
              generated);
  }

 private:
  double worst_ = 0;
};

TEST_P(Golden, Double) { check<double>(); }
TEST_P(Golden, Float) { check<float>(); }

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden)) {
    if (std::filesystem::exists(entry.path() / "expected.safetensors"))
      names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Cases, Golden, testing::ValuesIn(cases()), [](const auto& one) { return one.param; });

TEST(GoldenCases, AreAllThere) { EXPECT_EQ(cases().size(), 11); }

}  // namespace
}  // namespace qnext::reference
