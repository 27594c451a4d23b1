#include "formats/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace qnext {
namespace {

using ::testing::HasSubstr;

/// The message of the error that the action ends in, or "none".
template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(ParseJsonObject, RefusesWhatParsersDisagreeAbout) {
  const auto error = [](std::string_view text) { return error_of([&] { parse_json_object(text, "f.json"); }); };
  EXPECT_EQ(error(R"({"a":{"b":1},"b":{"b":2}})"), "none");
  EXPECT_EQ(error(R"({"a":{"b":1,"b":2}})"), "f.json: \"b\": expected each key once, found the key twice");
  EXPECT_EQ(error("[]"), "f.json: JSON: expected an object, found a list of 0");
  for (const char* text :
       {"", "{", "{}}", "{\"a\":NaN}", "{\"a\":1e999}", "{\"\xFF\":1}", "{\"a\":01}", "{\"a\":1,}"}) {
    EXPECT_THAT(error(text), HasSubstr("f.json: JSON: expected valid JSON, found \"")) << text;
  }
  const auto nested = [&](int levels) {
    return error("{\"a\":" + std::string(static_cast<size_t>(levels), '[') +
                 std::string(static_cast<size_t>(levels), ']') + "}");
  };
  EXPECT_EQ(nested(60), "none");
  EXPECT_EQ(nested(100), "f.json: JSON: expected nesting of at most 64 levels, found more");
  EXPECT_EQ(nested(1'000'000), "f.json: JSON: expected nesting of at most 64 levels, found more");
}

TEST(JsonFields, ChecksTypesAndRanges) {
  const std::string file = "f.json";
  const nlohmann::json tree = parse_json_object(
      R"({"int":7,"negative":-7,"max":9223372036854775807,"beyond":9223372036854775808,
          "huge":123456789012345678901234,
          "real":1.5,"whole":3.0,"true":true,"text":"a\nb","null":null,"list":[1,2],"object":{"inner":0}})",
      file);
  const JsonFields fields(tree, file);
  EXPECT_EQ(fields.integer("int", 0, 10), 7);
  EXPECT_EQ(fields.integer("negative", -10, 10), -7);
  EXPECT_EQ(fields.integer("max", 0, INT64_MAX), INT64_MAX);
  EXPECT_EQ(fields.integer("null", 0, 10), std::nullopt);
  EXPECT_EQ(fields.integer("absent", 0, 10), std::nullopt);
  EXPECT_EQ(fields.number("int", 0, 10), 7.0);
  EXPECT_EQ(fields.number("real", 1.5, 1.5), 1.5);
  EXPECT_EQ(fields.boolean("true"), true);
  EXPECT_EQ(fields.text("text"), "a\nb");
  EXPECT_EQ(fields.object("object")->integer("inner", 0, 0), 0);
  EXPECT_FALSE(fields.has("null"));

  const auto integer = [&](const char* key) { return error_of([&] { fields.integer(key, 0, 10); }); };
  EXPECT_EQ(integer("negative"), "f.json: negative: expected an integer from 0 to 10, found -7");
  EXPECT_EQ(integer("beyond"), "f.json: beyond: expected an integer from 0 to 10, found 9223372036854775808");
  EXPECT_THAT(integer("huge"), HasSubstr("huge: expected an integer from 0 to 10, found 1.23456789"));
  EXPECT_EQ(integer("whole"), "f.json: whole: expected an integer from 0 to 10, found 3.0");
  EXPECT_EQ(integer("true"), "f.json: true: expected an integer from 0 to 10, found true");
  EXPECT_EQ(integer("text"), "f.json: text: expected an integer from 0 to 10, found \"a\\x0ab\"");
  EXPECT_EQ(integer("list"), "f.json: list: expected an integer from 0 to 10, found a list of 2");
  EXPECT_EQ(error_of([&] { fields.required_integer("null", 0, 1); }),
            "f.json: null: expected an integer from 0 to 1, found nothing");
  EXPECT_EQ(error_of([&] { fields.number("text", 0, 1); }),
            "f.json: text: expected a number from 0 to 1, found \"a\\x0ab\"");
  EXPECT_EQ(error_of([&] { fields.number("real", 0, 1); }), "f.json: real: expected a number from 0 to 1, found 1.5");
  EXPECT_EQ(error_of([&] { fields.boolean("int"); }), "f.json: int: expected true or false, found 7");
  EXPECT_EQ(error_of([&] { fields.text("int"); }), "f.json: int: expected a string, found 7");
  EXPECT_EQ(error_of([&] { fields.object("list"); }), "f.json: list: expected an object, found a list of 2");
  EXPECT_EQ(error_of([&] { fields.object("object")->integer("inner", 1, 2); }),
            "f.json: object.inner: expected an integer from 1 to 2, found 0");
}

}  // namespace
}  // namespace qnext
