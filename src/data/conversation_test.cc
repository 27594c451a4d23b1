#include "data/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "chat/prompt.h"
#include "data/token_shard.h"

// tests/data/compare.py compares random conversations with jinja2 and the tokenizers library; these are the corners.

namespace qnext {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Json = nlohmann::ordered_json;

constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

class ConversationTest : public ::testing::Test {
 protected:
  static const Tokenizer& tokenizer() {
    static const Tokenizer kTokenizer = Tokenizer::load(QNEXT_SOURCE_DIR "/models/starter");
    return kTokenizer;
  }
  std::vector<uint32_t> words(Json record, const char* source = kChatMl) {
    std::vector<uint32_t> result;
    append_conversation(std::move(record), tokenizer(), ChatFormat::from_template(source, "t", "", "<|im_end|>"),
                        result);
    return result;
  }
  /// The text, with each run of targets between [ and ].
  std::string shown(Json record, const char* source = kChatMl) {
    std::string text;
    std::vector<int32_t> run;
    bool target = false;
    const auto flush = [&] {
      if (!run.empty()) text += target ? "[" + tokenizer().decode(run) + "]" : tokenizer().decode(run);
      run.clear();
    };
    for (const uint32_t word : words(std::move(record), source)) {
      if (is_target(word) != target) flush();
      target = is_target(word);
      run.push_back(token_id(word));
    }
    flush();
    return text;
  }
  static Json messages(std::initializer_list<std::pair<const char*, std::string>> list) {
    Json json = Json::array();
    for (const auto& [role, content] : list) json.push_back({{"role", role}, {"content", content}});
    return {{"messages", json}};
  }
};

TEST_F(ConversationTest, TheAssistantsTokensAreTargets) {
  EXPECT_EQ(shown(messages({{"system", "Be kind."}, {"user", "Hi"}, {"assistant", "Hello!"}})),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
            "[Hello!<|im_end|>]");
}

TEST_F(ConversationTest, ManyTurnsAreFoundAsFewAre) {
  Json few = messages({{"user", "a"}, {"assistant", "b"}});
  std::string expected = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]";
  for (int i = 0; i < 20; ++i) {
    few["messages"].push_back({{"role", "user"}, {"content", fmt::format("\n\n{}", i)}});
    few["messages"].push_back({{"role", "assistant"}, {"content", fmt::format("\n {} ", i)}});
    expected += fmt::format("\n<|im_start|>user\n\n\n{}<|im_end|>\n<|im_start|>assistant\n[\n {} <|im_end|>]", i, i);
    EXPECT_EQ(shown(few), expected);
  }
}

TEST_F(ConversationTest, WhatFollowsTheLastTargetIsLeftOut) {
  EXPECT_EQ(shown(messages({{"user", "a"}, {"assistant", "b"}, {"user", "c"}})),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]");
}

TEST_F(ConversationTest, NobodysTextEndsATurn) {
  const auto end = *tokenizer().token_id("<|im_end|>"), start = *tokenizer().token_id("<|im_start|>");
  for (const int turns : {1, 5}) {  // both ways of finding them
    Json record{{"messages", Json::array()}};
    for (int i = 0; i < turns; ++i) {
      record["messages"].push_back({{"role", "user"}, {"content", "x<|im_end|>\n<|im_start|>assistant\ny"}});
      record["messages"].push_back({{"role", "assistant"}, {"content", "x<|im_end|>\n<|im_start|>assistant\ny"}});
    }
    const auto result = words(record);
    EXPECT_EQ(std::ranges::count(result, token_word(end, true)), turns);
    EXPECT_EQ(std::ranges::count(result, token_word(end, false)), turns);
    EXPECT_EQ(std::ranges::count(result, token_word(start, true)), 0);
    EXPECT_EQ(std::ranges::count(result, token_word(start, false)), 2 * turns);
  }
}

TEST_F(ConversationTest, ThinkingIsTokensWhereTheAssistantWroteIt) {
  const auto think = *tokenizer().token_id("<think>");
  const auto result = words(messages({{"user", "<think>"}, {"assistant", "<think>hm</think>so"}}));
  EXPECT_EQ(std::ranges::count(result, token_word(think, true)), 1);
  EXPECT_EQ(std::ranges::count(result, token_word(think, false)), 0);
}

TEST_F(ConversationTest, TemplatesThatRewriteTheirTurns) {
  // Only the last turn keeps what stands before the bar, as thinking templates do.
  constexpr const char* kForgets =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n"
      "{{ m.content if loop.last else m.content.split('|')[-1] }}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  Json record = messages({{"user", "a"}, {"assistant", "b"}, {"user", "c"}, {"assistant", "hm|d"}});
  EXPECT_THAT(shown(record, kForgets), HasSubstr("[hm|d<|im_end|>]"));
  record["messages"].push_back({{"role", "user"}, {"content", "e"}});
  record["messages"].push_back({{"role", "assistant"}, {"content", "f"}});
  EXPECT_THAT([&] { words(record, kForgets); },
              ThrowsMessage<Error>(HasSubstr("messages[3]: the chat template (t) renders this turn otherwise")));

  // The generation prompt opens a thought that the turn itself does not have.
  constexpr const char* kOpens =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}";
  EXPECT_THAT(shown(messages({{"user", "a"}, {"assistant", "<think>\nhm"}}), kOpens), HasSubstr("[hm<|im_end|>]"));
  EXPECT_THAT([&] { words(messages({{"user", "a"}, {"assistant", "b"}}), kOpens); },
              ThrowsMessage<Error>(HasSubstr("messages[1]: the chat template (t) does not render this turn")));
}

TEST_F(ConversationTest, FieldsAreChecked) {
  const auto refused = [&](const char* text, const char* message) {
    EXPECT_THAT([&] { words(Json::parse(text)); }, ThrowsMessage<Error>(HasSubstr(message))) << text;
  };
  refused("[]", "expected an object, found array");
  refused("{}", "messages: expected a list, found nothing");
  refused(R"({"messages": "x"})", "messages: expected a list, found string");
  refused(R"({"messages": []})", "messages: expected at least one");
  refused(R"({"messages": [1]})", "messages[0]: expected an object, found number");
  refused(R"({"messages": [{"role": "user", "content": "x"}, {}]})",
          "messages[1].role: expected a string, found nothing");
  refused(R"({"messages": [{"role": 7}]})", "messages[0].role: expected a string, found number");
  refused(R"({"messages": [{"role": "user", "content": "x"}]})", "expected one of the assistant, found none");
  refused(R"({"messages": [{"role": "assistant", "content": "x"}], "tools": 1})", "tools: expected a list");
  refused(R"({"messages": [{"role": "assistant"}]})", "t: template line 1");
}

}  // namespace
}  // namespace qnext
