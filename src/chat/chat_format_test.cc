#include "chat/chat_format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

/// A model directory of the test's own.
class ChatFormatFiles : public testing::Test {
 protected:
  ChatFormatFiles() {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    directory_ = std::filesystem::temp_directory_path() /
                 fmt::format("qnext_chat_{}_{}", info->name(), testing::UnitTest::GetInstance()->random_seed());
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  ~ChatFormatFiles() override { std::filesystem::remove_all(directory_); }

  void write(const char* name, const std::string& text) const { std::ofstream(directory_ / name) << text; }
  std::string render() const {
    return ChatFormat::load(directory_)
        .render(Json::parse(R"([{"role": "user", "content": "hi"}])"), nullptr, true, {{"extra", "E"}});
  }
  std::string failure() const {
    try {
      render();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  std::filesystem::path directory_;
};

TEST_F(ChatFormatFiles, ChatMlWithoutTemplate) {
  EXPECT_EQ(render(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(ChatFormat::load(directory_).source_name(), "ChatML");
  write("tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(render(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ChatFormatFiles, TemplateOfTheConfigWithSpecialTokens) {
  write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ extra }}{{ eos_token }}{{ tools is none }}"})");
  EXPECT_EQ(render(), "<s>hiE</s>True");
}

TEST_F(ChatFormatFiles, DefaultOfAList) {
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d{{ bos_token is defined }}"}]})");
  EXPECT_EQ(render(), "dFalse");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "t"}]})");
  EXPECT_THAT(failure(), HasSubstr("chat_template: expected a template named default"));
}

TEST_F(ChatFormatFiles, JinjaFileComesFirst) {
  write("tokenizer_config.json", R"({"chat_template": "config", "eos_token": "</s>"})");
  write("chat_template.jinja", "file{{ eos_token }}");
  EXPECT_EQ(render(), "file</s>");
  EXPECT_THAT(ChatFormat::load(directory_).source_name(), HasSubstr("chat_template.jinja"));
}

TEST_F(ChatFormatFiles, BadFilesAreNamed) {
  write("tokenizer_config.json", "{");
  EXPECT_THAT(failure(), HasSubstr("tokenizer_config.json: content: expected JSON"));
  write("tokenizer_config.json", "[]");
  EXPECT_THAT(failure(), HasSubstr("content: expected an object, found array"));
  write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_THAT(failure(), HasSubstr("chat_template: expected a string or a list of {name, template}, found number"));
  write("tokenizer_config.json", R"({"chat_template": [1]})");
  EXPECT_THAT(failure(), HasSubstr("chat_template: expected a list of {name, template}"));
  write("tokenizer_config.json", R"({"eos_token": 5})");
  EXPECT_THAT(failure(), HasSubstr("eos_token: expected a string, null, or an object"));
  write("tokenizer_config.json", "{}");
  write("chat_template.jinja", "a\n{% if %}");
  EXPECT_THAT(failure(), HasSubstr("chat_template.jinja: template line 2: expected an expression"));
  write("chat_template.jinja", std::string(2 << 20, 'x'));
  EXPECT_THAT(failure(), HasSubstr("file size: expected at most 1048576 bytes"));
  std::filesystem::remove(directory_ / "chat_template.jinja");
  std::filesystem::create_directory(directory_ / "chat_template.jinja");
  EXPECT_THAT(failure(), HasSubstr("not a regular file"));
}

TEST(ChatFormat, RefusesWhatIsNoConversation) {
  EXPECT_THROW(ChatFormat::chatml().render(Json::object(), nullptr, true, nullptr), Error);
  EXPECT_THROW(ChatFormat::chatml().render(Json::array(), nullptr, true, Json::array()), Error);
  EXPECT_THROW(ChatFormat::chatml().render(Json::array({Json::object()}), nullptr, true, nullptr), Error);
  EXPECT_EQ(ChatFormat::chatml().render(Json::array(), nullptr, false, nullptr), "");
}

}  // namespace
}  // namespace qnext
