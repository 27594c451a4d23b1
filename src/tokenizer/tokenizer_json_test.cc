#include "tokenizer/tokenizer_json.h"

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
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

json good_json() {
  json file = testing::tokenizer_json({{"a", "b"}, {"ab", "c"}});
  file["added_tokens"] = {added_token(300, "<|end|>", true)};
  return file;
}

std::string message_of(const std::string& text) {
  try {
    parse_tokenizer_json(text, "dir/tokenizer.json");
  } catch (const FileError& error) {
    return error.what();
  }
  return "accepted";
}

/// What a good file is answered after `change`.
std::string message_after(const std::function<void(json&)>& change) {
  json file = good_json();
  change(file);
  return message_of(file.dump());
}

TEST(TokenizerJson, AlphabetCoversEveryByte) {
  for (int b = 0; b < 256; ++b) {
    std::string bytes;
    ASSERT_TRUE(append_alphabet_bytes(testing::alphabet(std::string(1, static_cast<char>(b))), bytes));
    ASSERT_EQ(bytes, std::string(1, static_cast<char>(b)));
  }
  std::string bytes;
  EXPECT_FALSE(append_alphabet_bytes(" ", bytes));
  EXPECT_FALSE(append_alphabet_bytes("\u0144", bytes));
  EXPECT_FALSE(append_alphabet_bytes("\u4e2d", bytes));
}

TEST(TokenizerJson, AcceptsTheFormsOfTheSameThing) {
  EXPECT_EQ(message_after([](json&) {}), "accepted");
  EXPECT_EQ(message_after([](json& f) { f["model"]["merges"] = {"#version: 0.2", "a b", "ab c"}; }), "accepted");
  EXPECT_EQ(message_after([](json& f) { f["normalizer"] = nullptr; }), "accepted");
  EXPECT_EQ(message_after([](json& f) { f.erase("added_tokens"); }), "accepted");
  EXPECT_EQ(message_after([](json& f) { f["post_processor"] = nullptr; }), "accepted");
  EXPECT_EQ(message_after([](json& f) {
              f["post_processor"] = {{"type", "TemplateProcessing"},
                                     {"single", {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}}};
            }),
            "accepted");
  EXPECT_EQ(message_after([](json& f) { f["model"].erase("type"); }), "accepted");
  EXPECT_EQ(message_after([](json& f) { f["model"]["dropout"] = 0.0; }), "accepted");
  EXPECT_EQ(message_after([](json& f) { f["model"]["vocab"]["abcd"] = 1000; }), "accepted");  // a gap
}

TEST(TokenizerJson, MessageNamesFileFieldExpectedAndFound) {
  EXPECT_EQ(message_after([](json& f) { f["model"]["merges"][1] = {"ab", "zz"}; }),
            "dir/tokenizer.json: model.merges[1]: expected two tokens of the vocabulary, found \"zz\"");
}

struct BadFile {
  const char* name;
  std::function<void(json&)> change;
  const char* message;  ///< part of it
};

class TokenizerJsonBad : public ::testing::TestWithParam<BadFile> {};

TEST_P(TokenizerJsonBad, IsRefusedWithItsField) {
  EXPECT_THAT(message_after(GetParam().change),
              AllOf(StartsWith("dir/tokenizer.json: "), HasSubstr(GetParam().message)));
}

json& split_of(json& file) { return file["pre_tokenizer"]["pretokenizers"][0]; }

const BadFile kBadFiles[] = {
    {"WordPiece", [](json& f) { f["model"]["type"] = "WordPiece"; },
     "model.type: expected \"BPE\", found \"WordPiece\""},
    {"NoModel", [](json& f) { f.erase("model"); }, "model: expected an object, found nothing"},
    {"ModelNull", [](json& f) { f["model"] = nullptr; }, "model: expected an object, found null"},
    {"ModelList", [](json& f) { f["model"] = {1}; }, "model: expected an object, found an array"},
    {"Unigram", [](json& f) { f["model"] = {{"vocab", json::array()}}; },
     "model.vocab: expected an object, found an array"},
    {"NoMerges", [](json& f) { f["model"].erase("merges"); }, "model.merges: expected an array, found nothing"},
    {"MergeOfUnknownPart", [](json& f) { f["model"]["merges"][0] = "a \u4e2d"; },
     "model.merges[0]: expected two tokens of the vocabulary, found \"\u4e2d\""},
    {"MergeWithoutResult", [](json& f) { f["model"]["merges"][1] = {"c", "ab"}; },
     "model.merges[1]: expected tokens that make one of the vocabulary, found \"c\" and \"ab\""},
    {"MergeOfOne", [](json& f) { f["model"]["merges"][0] = "ab"; },
     "model.merges[0]: expected two tokens with a space between, found \"ab\""},
    {"MergeOfThree", [](json& f) { f["model"]["merges"][0] = "a b c"; },
     "model.merges[0]: expected two tokens with a space"},
    {"MergeOfThreeStrings", [](json& f) { f["model"]["merges"][0] = {"a", "b", "c"}; },
     "model.merges[0]: expected a string or two strings, found an array"},
    {"MergeOfNumbers", [](json& f) { f["model"]["merges"][0] = {1, 2}; },
     "model.merges[0]: expected a string or two strings"},
    {"MergeEmptyPart", [](json& f) { f["model"]["merges"][0] = {"", "a"}; },
     "model.merges[0]: expected two tokens of the"},
    {"MergeTwice", [](json& f) { f["model"]["merges"][1] = {"a", "b"}; },
     "model.merges[1]: expected each pair once, found \"a\" and \"b\" again"},
    {"DuplicateId", [](json& f) { f["model"]["vocab"]["abc"] = 97; }, "expected an id of its own, found 97 again"},
    {"NegativeId", [](json& f) { f["model"]["vocab"]["abc"] = -1; },
     "model.vocab[\"abc\"]: expected an id from 0 to 4194303, found -1"},
    {"HugeId", [](json& f) { f["model"]["vocab"]["abc"] = int64_t{1} << 31; },
     "expected an id from 0 to 4194303, found 2147483648"},
    {"FirstIdTooLarge", [](json& f) { f["model"]["vocab"]["abc"] = 1 << 22; },
     "expected an id from 0 to 4194303, found 4194304"},
    {"IdBeyond64Bits", [](json& f) { f["model"]["vocab"]["abc"] = UINT64_MAX; }, "found 18446744073709551615"},
    {"FractionalId", [](json& f) { f["model"]["vocab"]["abc"] = 1.5; },
     "expected an id from 0 to 4194303, found 1.5"},
    {"TextId", [](json& f) { f["model"]["vocab"]["abc"] = "1"; }, "expected an id from 0 to 4194303, found \"1\""},
    {"OutsideAlphabet", [](json& f) { f["model"]["vocab"]["a b"] = 400; },
     "model.vocab[\"a b\"]: expected characters of the byte-level alphabet"},
    {"EmptyToken", [](json& f) { f["model"]["vocab"][""] = 400; }, "expected a token that is not empty"},
    {"MissingByte", [](json& f) { f["model"]["vocab"].erase("z"); },
     "model.vocab: expected a token for each of the 256 bytes, found none for byte 0x7a"},
    {"IgnoreMerges", [](json& f) { f["model"]["ignore_merges"] = true; }, "model.ignore_merges: expected false"},
    {"ByteFallback", [](json& f) { f["model"]["byte_fallback"] = true; }, "model.byte_fallback: expected false"},
    {"Dropout", [](json& f) { f["model"]["dropout"] = 0.1; }, "model.dropout: expected null or 0, found 0.1"},
    {"Prefix", [](json& f) { f["model"]["continuing_subword_prefix"] = "##"; },
     "model.continuing_subword_prefix: expected null or \"\", found \"##\""},
    {"Normalizer", [](json& f) { f["normalizer"]["type"] = "Lowercase"; }, "normalizer.type: expected \"NFC\""},
    {"NormalizerNoType", [](json& f) { f["normalizer"] = json::object(); },
     "normalizer.type: expected \"NFC\", found nothing"},
    {"NoPreTokenizer", [](json& f) { f["pre_tokenizer"] = nullptr; },
     "pre_tokenizer: expected an object, found null"},
    {"Whitespace", [](json& f) { f["pre_tokenizer"] = {{"type", "Whitespace"}}; },
     "pre_tokenizer.type: expected \"Sequence\""},
    {"ShortSequence", [](json& f) { f["pre_tokenizer"]["pretokenizers"].erase(1); },
     "pre_tokenizer.pretokenizers: expected 2 elements, Split and ByteLevel, found 1"},
    {"Removed", [](json& f) { split_of(f)["behavior"] = "Removed"; },
     "behavior: expected \"Isolated\", found \"Removed\""},
    {"Inverted", [](json& f) { split_of(f)["invert"] = true; },
     "pre_tokenizer.pretokenizers[0].invert: expected false"},
    {"PlainPattern", [](json& f) { split_of(f)["pattern"] = {{"String", " "}}; },
     "pre_tokenizer.pretokenizers[0].pattern.Regex: expected a string, found nothing"},
    {"BadPattern", [](json& f) { split_of(f)["pattern"]["Regex"] = "(a"; },
     "expected a regular expression, found \"(a\" (missing"},
    {"LongPattern", [](json& f) { split_of(f)["pattern"]["Regex"] = std::string(5000, 'a'); },
     "expected at most 4096 bytes, found 5000"},
    {"UseRegex", [](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = true; },
     "[1].use_regex: expected false"},
    {"PrefixSpace", [](json& f) { f["pre_tokenizer"]["pretokenizers"][1].erase("add_prefix_space"); },
     "[1].add_prefix_space: expected false"},
    {"Decoder", [](json& f) { f["decoder"]["type"] = "Metaspace"; },
     "decoder.type: expected \"ByteLevel\", found \"Metaspace\""},
    {"NoDecoder", [](json& f) { f.erase("decoder"); }, "decoder: expected an object, found nothing"},
    {"TemplateWithTokens",
     [](json& f) {
       f["post_processor"] = {{"type", "TemplateProcessing"},
                              {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}}}};
     },
     "post_processor.single[0].Sequence: expected a template that adds no tokens"},
    {"Bert", [](json& f) { f["post_processor"] = {{"type", "BertProcessing"}}; },
     "post_processor.type: expected \"ByteLevel\""},
    {"AddedNotList", [](json& f) { f["added_tokens"] = 3; }, "added_tokens: expected an array, found 3"},
    {"AddedWithoutId", [](json& f) { f["added_tokens"][0].erase("id"); },
     "added_tokens[0].id: expected an id from 0 to 4194303, found nothing"},
    {"AddedNegative", [](json& f) { f["added_tokens"][0]["id"] = -7; },
     "added_tokens[0].id: expected an id from 0 to 4194303, found -7"},
    {"AddedTwice", [](json& f) { f["added_tokens"].push_back(added_token(301, "<|end|>")); },
     "added_tokens[1].content: expected a content of its own, found \"<|end|>\" again"},
    {"AddedIdTwice", [](json& f) { f["added_tokens"].push_back(added_token(300, "<x>")); },
     "added_tokens[1].id: expected an id of its own, found 300 again"},
    {"AddedIdOfVocabulary", [](json& f) { f["added_tokens"][0]["id"] = 97; },
     "expected an id that no added token has, found 97"},
    {"AddedOtherIdThanVocabulary", [](json& f) { f["model"]["vocab"]["<|end|>"] = 301; },
     "expected id 300 as in added_tokens, found 301"},
    {"AddedEmpty", [](json& f) { f["added_tokens"][0]["content"] = ""; },
     "added_tokens[0].content: expected 1 to 1024 bytes, found 0"},
    {"AddedLong", [](json& f) { f["added_tokens"][0]["content"] = std::string(1025, 'x'); },
     "expected 1 to 1024 bytes, found 1025"},
    {"AddedSingleWord", [](json& f) { f["added_tokens"][0]["single_word"] = true; },
     "added_tokens[0].single_word: expected false"},
    {"AddedFlagText", [](json& f) { f["added_tokens"][0]["lstrip"] = "yes"; },
     "added_tokens[0].lstrip: expected true or false, found \"yes\""},
    {"AddedSameWhenNormalized",
     [](json& f) {
       f["added_tokens"] = {added_token(300, "e\u0301"), added_token(301, "\u00e9")};
       for (json& token : f["added_tokens"]) token["normalized"] = true;
     },
     "added_tokens[1].content: expected a content of its own"},
};
INSTANTIATE_TEST_SUITE_P(, TokenizerJsonBad, ::testing::ValuesIn(kBadFiles),
                         [](const auto& test) { return test.param.name; });

TEST(TokenizerJson, RefusesWhatIsNoJsonObject) {
  EXPECT_THAT(message_of(""), HasSubstr("dir/tokenizer.json: JSON: expected a well-formed document"));
  EXPECT_THAT(message_of("[1]"), HasSubstr("JSON: expected an object, found an array"));
  EXPECT_THAT(message_of("{\"model\": {\"vocab\": {\"a\": 1"), HasSubstr("JSON: expected a well-formed document"));
  EXPECT_THAT(message_of("{\"model\": \"\xFF\"}"), HasSubstr("JSON: expected a well-formed document"));
  EXPECT_THAT(message_of(std::string(100'000, '[')), HasSubstr("JSON: expected a well-formed document"));
  // A key twice is nothing nlohmann writes, and for a token it would be two ids.
  std::string text = good_json().dump();
  text.insert(text.find("\"a\":97"), "\"a\":500,");
  EXPECT_THAT(message_of(text), HasSubstr("model.vocab[\"a\"]: expected each token once, found it again"));
}

TEST(TokenizerJson, EveryTruncationIsRefused) {
  const std::string text = good_json().dump();
  for (size_t size = 0; size < text.size(); size += 7)
    ASSERT_NE(message_of(text.substr(0, size)), "accepted") << size;
}

TEST(TokenizerJson, LoadingNamesTheFileThatIsMissing) {
  try {
    Tokenizer::load("/nonexistent/tokenizer.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("/nonexistent/tokenizer.json"));
  }
}

}  // namespace
}  // namespace qnext
