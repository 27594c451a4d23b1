#include "chat/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/mapped_file.h"

namespace qnext {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

std::string render(const std::string& source, const Json& variables = Json::object(),
                   const TemplateLimits& limits = {}) {
  return ChatTemplate::parse(source, "test", limits).render(variables, 1'700'000'000);
}

/// What rendering or parsing fails with, empty if it does not.
std::string failure(const std::string& source, const TemplateLimits& limits = {},
                    const Json& variables = Json::object()) {
  try {
    render(source, variables, limits);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string repeated(std::string_view unit, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += unit;
  return out;
}

// ---- jinja2's own results, recorded by tests/chat/make_golden.py

Json golden(const std::string& name) {
  return Json::parse(read_text_file(std::string(QNEXT_SOURCE_DIR "/tests/golden/chat/") + name, 16 << 20));
}

void expect_golden(const std::string& source, const Json& variables, const Json& expected) {
  SCOPED_TRACE(source.substr(0, 400));
  std::string text, error;
  try {
    text = render(source, variables);
  } catch (const Error& e) {
    error = e.what();
  }
  if (expected.contains("text")) {
    EXPECT_EQ(error, "");
    EXPECT_EQ(text, expected.at("text").get<std::string>());
  } else {
    EXPECT_NE(error, "") << "jinja2 fails with " << expected.at("error");
  }
}

class GoldenConversations : public testing::TestWithParam<const char*> {};
TEST_P(GoldenConversations, EqualJinja2) {
  const Json file = golden(GetParam());
  const std::string path = QNEXT_SOURCE_DIR "/" + file.at("template_file").get<std::string>();
  const std::string source = read_text_file(path, 1 << 20);
  for (const Json& one : file.at("cases")) expect_golden(source, one.at("variables"), one);
}
INSTANTIATE_TEST_SUITE_P(Templates, GoldenConversations,
                         testing::Values("instruct.json", "thinking.json", "coder.json"));

TEST(Template, ExpressionsAndStatementsEqualJinja2) {
  const Json file = golden("expressions.json");
  ASSERT_GE(file.at("cases").size(), 600u);
  for (const Json& one : file.at("cases")) {
    expect_golden(one.at("template").get<std::string>(), file.at("variables"), one);
  }
}

// ---- what the goldens cannot show

TEST(Template, ReadsTheGivenTime) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  EXPECT_EQ(render("{{ strftime_now('%d %B %Y, %H:%M') }}"), "14 November 2023, 22:13");
}

TEST(Template, RaisesWithTheTemplatesWords) {
  EXPECT_EQ(failure("a\n{{ raise_exception('only ' ~ 3 ~ ' roles') }}"), "only 3 roles");
}

TEST(Template, RuntimeErrorsNameFileAndLine) {
  EXPECT_EQ(failure("a\n{% if true %}\n{{ x.y }}{% endif %}"), "test: template line 3: 'x' is undefined");
  EXPECT_EQ(failure("{{ d.x.y }}", {}, {{"d", Json::object()}}),
            "test: template line 1: 'dict object' has no attribute 'x'");
  EXPECT_THAT(failure("{{ [].append(1) }}"), HasSubstr("access to attribute 'append' of 'list' object is unsafe"));
}

TEST(Template, ParseErrorsNameFileLineExpectedAndFound) {
  EXPECT_EQ(failure("a\n\n{% if x %}"),
            "test: template line 3: expected {% elif or else or endif %}, found the end of the template");
  EXPECT_EQ(failure("{{ 1 +\n }}"), "test: template line 2: expected an expression, found \"}}\"");
  EXPECT_THAT(failure("{{ x | shrink }}"), HasSubstr("expected a filter that chat templates use, found \"shrink\""));
  EXPECT_THAT(failure("{% include 'x' %}"), HasSubstr("expected a tag that chat templates use"));
  EXPECT_THAT(failure("{% for x in y recursive %}{% endfor %}"), HasSubstr("recursive loops are not supported"));
  EXPECT_THAT(failure("{% break %}"), HasSubstr("expected a loop around break"));
  EXPECT_THAT(failure("{{ (1] }}"), HasSubstr("expected \")\", found \"]\""));
  EXPECT_THAT(failure("{{ 'abc }}"), HasSubstr("expected the end of the string"));
  EXPECT_THAT(failure("{# abc"), HasSubstr("expected the end of the comment"));
  EXPECT_THAT(failure("\xff"), HasSubstr("expected UTF-8 text"));
}

TEST(Template, ReachesNoPythonAttributes) {
  for (const char* source :
       {"{{ ''.__class__ }}", "{{ {}.__init__ }}", "{{ [].__class__ }}", "{{ (1).__class__ }}"}) {
    EXPECT_EQ(render(source), "") << source;
  }
  EXPECT_THAT(failure("{{ ''.__class__.__mro__ }}"), HasSubstr("unsafe"));
  EXPECT_NE(failure("{{ messages.__init__.__globals__ }}", {}, {{"messages", Json::array()}}), "");
}

TEST(Template, IntegersAreExactOrRefused) {
  EXPECT_EQ(render("{{ n }} {{ n|tojson }} {{ n + 1 }}", {{"n", UINT64_MAX}}),
            "18446744073709551615 18446744073709551615 18446744073709551616");
  EXPECT_EQ(render("{{ 2 ** 126 }}"), "85070591730234615865843651857942052864");
  EXPECT_THAT(failure("{{ 2 ** 127 }}"), HasSubstr("beyond 127 bits"));
  EXPECT_THAT(failure("{{ 99999999999999999999999999999999999999999 }}"), HasSubstr("an integer below 2^127"));
}

TEST(Template, RefusesWhatPythonPrintsAsAnAddress) {
  EXPECT_THAT(failure("{{ [1]|map('int') }}"), HasSubstr("cannot print a generator"));
  EXPECT_THAT(failure("{{ 'a'.upper }}"), HasSubstr("cannot print"));
}

TEST(Template, MarkupIsOrdinaryText) { EXPECT_EQ(render("{{ ('<'|safe) + '>' }}{{ '<'|e }}"), "<>&lt;"); }

// ---- limits

TEST(TemplateLimits, StepsEndLongLoops) {
  const std::string loops = repeated("{% for i in range(100000) %}", 4) + "x" + repeated("{% endfor %}", 4);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(failure(loops), HasSubstr("rendering takes more than 5000000 steps"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));  // 0.3 s where nothing else runs
  EXPECT_THAT(failure("{{ range(100001) }}"), HasSubstr("Range too big"));
  EXPECT_THAT(failure("{{ [0] * 10**9 }}"), HasSubstr("steps"));
}

TEST(TemplateLimits, DepthEndsSelfCallingMacros) {
  EXPECT_THAT(failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), HasSubstr("nests deeper than 800 levels"));
  EXPECT_THAT(failure("{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}"
                      "{% endmacro %}{{ n() }}"),
              HasSubstr("nests deeper"));
}

TEST(TemplateLimits, DepthOfTheSource) {
  const int many = 50'000;
  for (const auto& [open, close] : {std::pair{"(", ")"},
                                    {"[", "]"},
                                    {"{1:", "}"},
                                    {"not ", ""},
                                    {"-", ""},
                                    {"x[", "]"},
                                    {"x(", ")"},
                                    {"1 if 1 else ", ""},
                                    {"x|default(", ")"}}) {
    EXPECT_THAT(failure("{{ " + repeated(open, many) + "1" + repeated(close, many) + " }}"),
                HasSubstr("expected at most 200 levels of nesting"))
        << open;
  }
  EXPECT_THAT(failure("{{ 1" + repeated(" + 1", many) + " }}"), HasSubstr("levels of nesting"));
  EXPECT_THAT(failure("{{ x" + repeated("|e", many) + " }}"), HasSubstr("levels of nesting"));
  EXPECT_THAT(failure("{{ x" + repeated(".a", many) + " }}"), HasSubstr("levels of nesting"));
  EXPECT_THAT(failure(repeated("{% if 1 %}", many)), HasSubstr("levels of nesting"));
  EXPECT_THAT(failure("{% for " + repeated("(", many) + "x" + repeated(")", many) + " in y %}"),
              HasSubstr("levels of nesting"));
  EXPECT_EQ(render("{{ " + repeated("(", 90) + "1" + repeated(")", 90) + " }}"), "1");
}

TEST(TemplateLimits, DepthOfData) {
  const std::string deep = "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ";
  for (const char* next : {"[ns.x]", "{1: ns.x}", "ns.x|map('int')", "(ns.x, 1)", "[ns.x].copy"}) {
    EXPECT_THAT(failure(deep + next + " %}{% endfor %}"), HasSubstr("data nests deeper than 200 levels")) << next;
  }
  Json json = 1;
  for (int i = 0; i < 1000; ++i) json = Json::array({json});
  EXPECT_THAT(failure("x", {}, {{"a", json}}), HasSubstr("data nests deeper than 200 levels"));
  // Shared twice at each level, it is small in memory and endless on paper.
  const std::string shared =
      "{% set ns = namespace(x=[]) %}{% for i in range(150) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
  EXPECT_THAT(failure(shared + "{{ ns.x }}"), HasSubstr("more than"));
  EXPECT_THAT(failure(shared + "{{ ns.x|tojson }}"), HasSubstr("more than"));
  EXPECT_EQ(failure("{% set ns = namespace() %}{% set ns.ns = ns %}{% set ns.l = [ns] %}"), "");
  EXPECT_NE(failure("{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}"), "");
}

TEST(TemplateLimits, TextsThatExplode) {
  TemplateLimits limits;
  limits.output_bytes = 10'000;
  for (const char* source :
       {"{{ 'x' * 10001 }}", "{{ 'x' * 10**30 }}", "{{ ('x' * 5000).replace('', 'yy') }}", "{{ ['x' * 9000] * 2 }}",
        "{{ ['x' * 9000, 'y' * 9000]|join }}", "{{ 'x'.join(['y' * 9000, 'z' * 9000]) }}",
        "{{ 'x' * 9000 ~ 'y' * 9000 }}", "{{ 'x'|indent(10**12) }}", "{{ 'x'.center(10**12) }}",
        "{{ '%9999s' % 'x' ~ '%9999s' % 'x' }}", "{% for i in range(10001) %}x{% endfor %}",
        "{% set x %}{{ 'x' * 9000 }}{{ 'x' * 9000 }}{% endset %}",
        "{% macro m() %}{{ 'x' * 9000 }}{{ 'x' * 9000 }}{% endmacro %}{{ m() }}", "{{ range(9000)|list }}",
        "{{ range(9000)|list|tojson(indent=100) }}", "{{ '{}{}'.format('x' * 9000, 'x' * 9000) }}"}) {
    EXPECT_THAT(failure(source, limits), HasSubstr("exceeds the limit of 10000 bytes")) << source;
  }
  EXPECT_THAT(failure("{{ '%99999s' % 'x' }}"), HasSubstr("width"));
  EXPECT_THAT(failure("{{ [1]|tojson(indent=10**6) }}"), HasSubstr("at most 1000"));
}

TEST(TemplateLimits, TextsTogether) {
  // No single text is too long, but 5,000,000 steps are 320 MB of text in all.
  EXPECT_THAT(failure("{% set ns = namespace(l=[]) %}{% for i in range(100000) %}"
                      "{% set ns.l = ns.l + ['x' * 10000000 ~ i] %}{% endfor %}"),
              HasSubstr("more than 5000000 steps"));
  // Searches made to be quadratic end as soon.
  EXPECT_THAT(
      failure("{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{{ a.find('a' * 500000 ~ 'b') }}{% endfor %}"),
      HasSubstr("steps"));
}

TEST(TemplateLimits, SizeOfTheSource) {
  EXPECT_THAT(failure(std::string((1 << 20) + 1, 'x')), HasSubstr("template: expected at most 1048576 bytes"));
  EXPECT_EQ(failure(std::string(1 << 20, 'x')), "");
}

TEST(Template, RendersInSeveralThreads) {
  const auto parsed = ChatTemplate::parse(
      "{% set ns = namespace(n=0) %}{% for i in l %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "t");
  std::vector<std::thread> threads;
  std::vector<std::string> results(4);
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) result = parsed.render({{"l", {1, 2, 3}}});
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(results, testing::Each("6"));
}

}  // namespace
}  // namespace qnext
