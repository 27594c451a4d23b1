#include "tokenizer/tokenizer_gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"
#include "tokenizer/testing.h"
#include "tokenizer/tokenizer.h"

namespace qnext {
namespace {

using nlohmann::json;
using testing::added_token;
using ::testing::HasSubstr;

json small_json() {
  json file = testing::tokenizer_json({{"a", "b"}, {"ab", "c"}, {"\xC3", "\xA9"}, {" ", "ab"}});
  file["added_tokens"] = {added_token(262, "<think>"), added_token(263, "<|end|>", true)};
  return file;
}

GgufMetadata metadata_of(const Tokenizer& tokenizer, int64_t vocab_size) {
  GgufMetadata metadata;
  tokenizer.add_to_gguf(metadata, vocab_size);
  return metadata;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

/// What good metadata is answered after `change`.
std::string message_after(const std::function<void(GgufMetadata&)>& change) {
  GgufMetadata metadata = metadata_of(Tokenizer::parse(small_json().dump(), "f"), 270);
  change(metadata);
  return message_of([&] { Tokenizer::from_gguf(metadata, "f.gguf"); });
}

template <typename T>
std::vector<T> array_of(const GgufMetadata& metadata, std::string_view key) {
  return std::get<std::vector<T>>(std::get<GgufArray>(*metadata.find(key)));
}

void expect_equal(const Tokenizer& a, const Tokenizer& b, const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    for (const SpecialTokens special : {SpecialTokens::kParse, SpecialTokens::kPlain}) {
      const auto ids = a.encode(text, special);
      EXPECT_EQ(b.encode(text, special), ids) << text;
      EXPECT_EQ(b.decode(ids), a.decode(ids));
      EXPECT_EQ(b.decode(ids, true), a.decode(ids, true));
    }
  }
  EXPECT_EQ(a.vocab_size(), b.vocab_size());
  for (int32_t id = 0; id < a.vocab_size(); ++id) {
    ASSERT_EQ(a.token_bytes(id), b.token_bytes(id)) << id;
    ASSERT_EQ(a.is_special(id), b.is_special(id)) << id;
    ASSERT_EQ(a.is_added(id), b.is_added(id)) << id;
  }
}

const std::vector<std::string> kTexts = {"",
                                         "abc abab",
                                         "caf\u00e9 cafe\u0301",
                                         "<think>abc</think><|end|>",
                                         "\n\n  x1234'S'\u017f \xFF\xFE",
                                         "\u4f60\u597d ab"};

TEST(TokenizerGguf, GivesTheIdsOfTheTokenizerJsonItWasMadeFrom) {
  const Tokenizer original = Tokenizer::parse(small_json().dump(), "f");
  const GgufMetadata metadata = metadata_of(original, 270);
  expect_equal(original, Tokenizer::from_gguf(metadata, "f.gguf"), kTexts);
  const auto tokens = array_of<std::string>(metadata, "tokenizer.ggml.tokens");
  const auto types = array_of<int32_t>(metadata, "tokenizer.ggml.token_type");
  ASSERT_EQ(tokens.size(), 270u);
  EXPECT_EQ(tokens[259], "\u0120ab");
  EXPECT_EQ(tokens[263], "<|end|>");
  EXPECT_EQ(tokens[269], "[PAD269]");
  EXPECT_EQ(types[259], 1);
  EXPECT_EQ(types[262], 4);
  EXPECT_EQ(types[263], 3);
  EXPECT_EQ(types[269], 5);
  EXPECT_EQ(array_of<std::string>(metadata, "tokenizer.ggml.merges")[3], "\u0120 ab");
}

TEST(TokenizerGguf, TheBundledModelsTokenizerComesBack) {
  const Tokenizer original = Tokenizer::load(QNEXT_SOURCE_DIR "/models/starter");
  std::vector<std::string> texts = kTexts;
  texts.emplace_back("<|im_start|>user\nOnce upon a time, there was 1 lion.<|im_end|>\n<tool_call>");
  expect_equal(original, Tokenizer::from_gguf(metadata_of(original, 4096), "f.gguf"), texts);
}

TEST(TokenizerGguf, RefusesWhatTheKeysCannotSay) {
  const auto message = [](const std::function<void(json&)>& change, int64_t vocab_size = 270) {
    json file = small_json();
    change(file);
    const Tokenizer tokenizer = Tokenizer::parse(file.dump(), "f");
    return message_of([&] { metadata_of(tokenizer, vocab_size); });
  };
  EXPECT_EQ(message([](json&) {}, 264), "accepted");
  EXPECT_THAT(message([](json&) {}, 263), HasSubstr("vocabulary: expected at most 263 ids (vocab_size), found 264"));
  EXPECT_THAT(message([](json& f) { f["normalizer"] = nullptr; }), HasSubstr("does not bring text to NFC"));
  EXPECT_THAT(message([](json& f) { f["added_tokens"][0]["rstrip"] = true; }),
              HasSubstr("takes the spaces beside it"));
  EXPECT_THAT(message([](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "a+"; }),
              HasSubstr("split pattern is not Qwen's"));
}

TEST(TokenizerGguf, RefusesBadMetadata) {
  using Metadata = GgufMetadata;
  const auto tokens_with = [](size_t i, const std::string& text) {
    return message_after([&](Metadata& m) {
      auto tokens = array_of<std::string>(m, "tokenizer.ggml.tokens");
      tokens[i] = text;
      m.set("tokenizer.ggml.tokens", GgufArray(tokens));
    });
  };
  const auto type_with = [](size_t i, int32_t type) {
    return message_after([&](Metadata& m) {
      auto types = array_of<int32_t>(m, "tokenizer.ggml.token_type");
      types[i] = type;
      m.set("tokenizer.ggml.token_type", GgufArray(types));
    });
  };
  const auto merges = [](std::vector<std::string> list) {
    return message_after([&](Metadata& m) { m.set("tokenizer.ggml.merges", GgufArray(list)); });
  };
  EXPECT_EQ(message_after([](Metadata&) {}), "accepted");
  EXPECT_THAT(message_after([](Metadata& m) { m.set("tokenizer.ggml.model", "llama"); }),
              HasSubstr("f.gguf: tokenizer.ggml.model: expected \"gpt2\", found \"llama\""));
  EXPECT_THAT(message_after([](Metadata& m) { m.set("tokenizer.ggml.pre", "llama-bpe"); }),
              HasSubstr("tokenizer.ggml.pre: expected \"qwen2\", found \"llama-bpe\""));
  EXPECT_THAT(message_after([](Metadata& m) { m.set("tokenizer.ggml.add_bos_token", true); }),
              HasSubstr("add_bos_token: expected false, found true"));
  EXPECT_THAT(message_after([](Metadata& m) { m.set("tokenizer.ggml.tokens", 7); }),
              HasSubstr("tokens: expected an array of strings, found 7"));
  EXPECT_THAT(
      message_after([](Metadata& m) { m.set("tokenizer.ggml.token_type", GgufArray(std::vector<int32_t>{1})); }),
      HasSubstr("token_type: expected an array of 270 integers, one for each token, found an array of 1 i32"));
  EXPECT_THAT(
      message_after([](Metadata& m) { m.set("tokenizer.ggml.tokens", GgufArray(std::vector<std::string>{})); }),
      HasSubstr("token_type: expected an array of 0 integers"));
  EXPECT_THAT(type_with(5, -1), HasSubstr("token_type[5]: expected 1 (normal), 3 (control), 4 (user defined) or 5"));
  EXPECT_THAT(type_with(5, 6), HasSubstr("found 6"));
  EXPECT_THAT(type_with(5, 5), HasSubstr("expected a token for each of the 256 bytes, found none for byte 0x"));
  EXPECT_THAT(tokens_with(256, "a b"), HasSubstr("tokens[256]: expected characters of the byte-level alphabet"));
  EXPECT_THAT(tokens_with(256, "\xFF"), HasSubstr("tokens[256]: expected characters of the byte-level alphabet"));
  EXPECT_THAT(tokens_with(256, ""), HasSubstr("tokens[256]: expected characters"));
  EXPECT_THAT(tokens_with(256, "abc"), HasSubstr("tokens[257]: expected each token once, found \"abc\" again"));
  EXPECT_THAT(tokens_with(263, "<think>"), HasSubstr("tokens[263]: expected each token once"));
  EXPECT_THAT(tokens_with(263, std::string(1025, 'x')), HasSubstr("tokens[263]: expected 1 to 1024 bytes"));
  EXPECT_THAT(merges({"a"}), HasSubstr("merges[0]: expected two tokens with a space between, found \"a\""));
  EXPECT_THAT(merges({"a b", "a b c"}), HasSubstr("merges[1]: expected two tokens with a space between"));
  EXPECT_THAT(merges({"a zz"}), HasSubstr("merges[0]: expected two tokens of the vocabulary, found \"a zz\""));
  EXPECT_THAT(merges({"x y"}), HasSubstr("merges[0]: expected tokens that make one of the vocabulary"));
  EXPECT_THAT(merges({"a b", "a b"}), HasSubstr("merges[1]: expected each pair once, found \"a b\" again"));
}

}  // namespace
}  // namespace qnext
