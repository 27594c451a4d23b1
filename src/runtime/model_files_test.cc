#include "runtime/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/testing/gguf_file.h"
#include "model/testing/random_checkpoint.h"
#include "runtime/engine.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;
using testing::TemporaryDirectory;
using testing::write_file;
namespace fs = std::filesystem;

std::string open_error(const fs::path& path) {
  try {
    const ModelFiles files(path);
    files.config();
  } catch (const Error& error) {
    return error.what();
  }
  return "opened";
}

/// Writes the model of a directory as GGUF.
void convert(const fs::path& directory, const fs::path& path, DType dtype) {
  const ModelFiles files(directory);
  const ModelConfig config = files.config();
  const Weights weights = bind_weights(config, files.checkpoint());
  testing::write_gguf(path, files.gguf_metadata(stored_parts(weights)),
                      testing::gguf_tensor_data(config, weights, dtype));
}

struct Output {
  std::vector<float> logits, mtp_logits;
  bool operator==(const Output&) const = default;
};
Output output_of(const fs::path& model) {
  const std::vector<int32_t> tokens = {1, 5, 3, 2, 8, 1, 1, 7, 30, 4};
  Engine engine(model, {.threads = 2, .mtp = true});
  const auto sequence = engine.create_sequence();
  const Feed feed{sequence.get(), tokens, LogitRows::kAll};
  Output output;
  const auto logits = engine.step({&feed, 1});
  output.logits.assign(logits.begin(), logits.end());
  const auto mtp = engine.mtp_step(*sequence, std::span(tokens).subspan(1), engine.last_hidden().first(9));
  output.mtp_logits.assign(mtp.begin(), mtp.end());
  return output;
}

TEST(ModelFiles, AGgufFileGivesTheLogitsOfTheSafetensorsItWasMadeFrom) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const TemporaryDirectory directory;
    ModelConfig config = testing::tiny_config();
    config.tie_word_embeddings = dtype == DType::kF16;
    testing::write_random_checkpoint(directory / "hf", config, {.dtype = dtype});
    convert(directory / "hf", directory / "m.gguf", dtype);
    EXPECT_EQ(ModelFiles(directory / "m.gguf").config().tie_word_embeddings, config.tie_word_embeddings);
    const Output expected = output_of(directory / "hf"), found = output_of(directory / "m.gguf");
    if (dtype == DType::kF32) {
      // A_log in f32 comes back from -exp(A_log) with an error of an ulp of the decay.
      ASSERT_EQ(found.logits.size(), expected.logits.size());
      for (size_t i = 0; i < found.logits.size(); ++i) ASSERT_NEAR(found.logits[i], expected.logits[i], 1e-4f);
    } else {
      EXPECT_TRUE(found == expected) << dtype_name(dtype);
    }
  }
}

TEST(ModelFiles, TheBundledModelComesBackWhole) {
  const fs::path starter = QNEXT_SOURCE_DIR "/models/starter";
  const TemporaryDirectory directory;
  convert(starter, directory / "starter.gguf", DType::kBF16);
  const ModelFiles original(starter), converted(directory / "starter.gguf");
  ASSERT_TRUE(converted.is_gguf());
  const ModelConfig a = original.config(), b = converted.config();
  EXPECT_EQ(a.layer_types, b.layer_types);
  EXPECT_EQ(a.rope.theta, b.rope.theta);
  EXPECT_EQ(a.rope.dims, b.rope.dims);
  EXPECT_EQ(a.rms_norm_eps, b.rms_norm_eps);
  EXPECT_EQ(a.max_position_embeddings, b.max_position_embeddings);

  const GenerationConfig g = original.generation_config(), h = converted.generation_config();
  EXPECT_EQ(g.do_sample, h.do_sample);
  EXPECT_EQ(g.temperature, h.temperature);
  EXPECT_EQ(g.top_k, h.top_k);
  EXPECT_EQ(g.top_p, h.top_p);
  EXPECT_EQ(g.eos_token_ids, h.eos_token_ids);

  const auto messages = nlohmann::ordered_json::parse(R"([{"role": "user", "content": "Tell me a story."}])");
  const std::string prompt = original.chat_format().render(messages, nullptr, true, nullptr);
  EXPECT_EQ(converted.chat_format().render(messages, nullptr, true, nullptr), prompt);
  EXPECT_EQ(converted.tokenizer().encode(prompt), original.tokenizer().encode(prompt));

  // Metadata of the copy of a copy is that of the copy.
  const GgufMetadata first = original.gguf_metadata({}), second = converted.gguf_metadata({});
  EXPECT_EQ(first.entries().size(), second.entries().size());
  for (const auto& [key, value] : first.entries()) {
    const GgufValue* copied = second.find(key);
    ASSERT_NE(copied, nullptr) << key;
    EXPECT_EQ(*copied, value) << key;
  }
}

TEST(ModelFiles, FindsTheModelOfADirectory) {
  const TemporaryDirectory directory;
  EXPECT_THAT(open_error(directory / "absent"), HasSubstr("absent: no such model"));
  EXPECT_THAT(open_error(directory.path()), HasSubstr("it has no config.json and no .gguf file"));
  testing::write_random_checkpoint(directory / "hf", testing::tiny_config());
  convert(directory / "hf", directory / "a.gguf", DType::kBF16);
  EXPECT_EQ(open_error(directory.path()), "opened");
  EXPECT_EQ(open_error(directory / "a.gguf"), "opened");
  fs::copy(directory / "a.gguf", directory / "b.gguf");
  EXPECT_THAT(open_error(directory.path()), HasSubstr("the parts of one, found a.gguf and b.gguf"));
  write_file(directory / "text", "hello");
  EXPECT_THAT(open_error(directory / "text"), HasSubstr("text: magic: expected \"GGUF\", found \"hell\""));
}

}  // namespace
}  // namespace qnext
