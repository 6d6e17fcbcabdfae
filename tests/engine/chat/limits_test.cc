// Hostile templates and inputs end in a typed error, quickly, within their memory.
#include <chrono>

#include "tests/engine/chat/render.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

std::string repeat(std::string_view text, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += text;
  return out;
}

TEST(ChatTemplateLimits, HostileTemplatesRunIntoALimit) {
  const std::vector<std::string> sources = {
      "{{ 'a' * 10**9 }}",
      "{{ [1] * 10**9 }}",
      "{{ [[1] * 1000] * 1000000 }}",
      "{% set ns = namespace(s='a') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% "
      "endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% "
      "endfor %}",
      "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{% set ns = namespace(l=[]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% "
      "endfor %}{{ ns.l }}",
      "{% set ns = namespace(l=[]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% "
      "endfor %}{{ ns.l|tojson }}",
      "{% set ns = namespace(l=[],m=[]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% "
      "set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
      "{% set ns = namespace() %}{% set ns.me = [ns] %}{{ ns ~ '' }}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(n) %}{{ f(n + 1) ~ f(n + 1) }}{% endmacro %}{{ f(0) }}",
      "{{ ('a' * 1000000).replace('', 'b' * 1000) }}",
      "{{ ('a' * 1000000) is in ('a' * 999999 ~ 'b') }}"
      "{% for i in range(9999) %}{{ ('a' * 900000 ~ 'b') in ('a' * 1000000) }}{% endfor %}",
      "{{ ('a,' * 8000000).split(',') }}",
      "{{ ('a' * 8000000)|list }}",
      "{{ 'a'|center(10**9) }}",
      "{{ 'a'.ljust(10**15) }}",
      "{{ '%1000000000d' % 5 }}",
      "{{ '{:>1000000000}'.format(5) }}",
      "{{ 'a\na'|indent(10**9) }}",
      "{{ [1]|tojson(indent=10**9) }}",
      "{{ [1]|batch(10**9, 1)|list }}",
      "{{ [1]|slice(10**9, 1)|list }}",
      "{{ ('a' * 9999999) == ('a' * 9999999) }}" +
          repeat("{% set x = ('a' * 9999999) ~ 'b' %}", 200),
      "{% set a = 'a' * 9000000 %}{% for i in range(99999) %}{{ a.startswith(a) }}{% endfor %}",
      "{% set a = 'a' * 9000000 %}{% for i in range(99999) %}{{ a.removeprefix(a) }}{% endfor %}",
      "{% set a = '\u00e9' * 900000 %}{% for i in range(99999) %}{% if a[i] %}{% endif %}{% endfor "
      "%}",
      "{% for i in range(99999) %}{% set x = range(99999)|list %}{% endfor %}",
      "{% set ns = namespace() %}{% for i in range(99999) %}{% macro m() %}{% endmacro %}{% set x "
      "= namespace(a=i) %}{% endfor %}" +
          repeat("{% for i in range(99999) %}{% set x = namespace(a=i) %}{% endfor %}", 20),
      "{{ strftime_now('%A' * 9999) }}",
  };
  ChatTemplateLimits limits;
  limits.steps /= 20;  // the default's time is 20 times this test's
  for (const std::string& source : sources) {
    SCOPED_TRACE(source.substr(0, 200));
    const auto start = std::chrono::steady_clock::now();
    const auto parts = render(source, {}, limits);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    ASSERT_FALSE(parts) << join(*parts).substr(0, 100);
    EXPECT_EQ(parts.error().code, ErrorCode::resource_exhausted) << to_string(parts.error());
    EXPECT_EQ(parts.error().reason, "template_limit");
    EXPECT_LT(took.count(), 20.0);  // a hang, even under a sanitizer on a busy machine
  }
}

TEST(ChatTemplateLimits, DeepSourcesAreRefused) {
  const std::vector<std::string> sources = {
      "{{ " + repeat("(", 50000) + "1" + repeat(")", 50000) + " }}",
      "{{ " + repeat("[", 50000) + repeat("]", 50000) + " }}",
      "{{ " + repeat("{1:", 50000) + "1" + repeat("}", 50000) + " }}",
      "{{ " + repeat("not ", 50000) + "1 }}",
      "{{ " + repeat("-", 50000) + "1 }}",
      "{{ 1" + repeat(" + 1", 50000) + " }}",
      "{{ 1" + repeat(" or 1", 40000) + " }}",
      "{{ a" + repeat(".a", 50000) + " }}",
      "{{ a" + repeat("[0]", 50000) + " }}",
      "{{ a" + repeat("()", 50000) + " }}",
      "{{ a" + repeat("|list", 50000) + " }}",
      "{{ " + repeat("1 if 1 else ", 20000) + "1 }}",
      "{{ 1" + repeat(" if 1", 40000) + " }}",
      "{{ " + repeat("a(", 50000) + repeat(")", 50000) + " }}",
      "{{ " + repeat("a is in [", 20000) + repeat("]", 20000) + " }}",
      repeat("{% if 1 %}", 10000) + repeat("{% endif %}", 10000),
      repeat("{% for a in b %}", 6000) + repeat("{% endfor %}", 6000),
      "{% set " + repeat("(", 50000) + "a" + repeat(")", 50000) + " = 1 %}",
  };
  for (const std::string& source : sources) {
    SCOPED_TRACE(source.substr(0, 60));
    const auto parsed = ChatTemplate::parse(source);
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().code, ErrorCode::resource_exhausted) << to_string(parsed.error());
  }
}

TEST(ChatTemplateLimits, WideSourcesAreFine) {
  std::string branches = "{% if 0 %}";
  for (int i = 0; i < 2000; ++i) branches += "{% elif 0 %}";
  EXPECT_EQ(join(*render(branches + "{% else %}x{% endif %}")), "x");
  EXPECT_EQ(join(*render("{{ [" + repeat("1,", 5000) + "]|length }}")), "5000");
  EXPECT_EQ(join(*render("{{ ''" + repeat(" ~ 'a'", 3000) + " }}")), repeat("a", 3000));
}

TEST(ChatTemplateLimits, SourceAndOutputBytes) {
  ChatTemplateLimits limits;
  limits.source_bytes = 10;
  EXPECT_TRUE(ChatTemplate::parse("0123456789", limits));
  EXPECT_EQ(ChatTemplate::parse("0123456789a", limits).error().code, ErrorCode::resource_exhausted);
  limits = {};
  limits.output_bytes = 10;
  EXPECT_TRUE(render("01234{{ '56789' }}", {}, limits));
  EXPECT_EQ(render("01234{{ '567890' }}", {}, limits).error().code, ErrorCode::resource_exhausted);
}

TEST(ChatTemplateLimits, DeepContextIsRefused) {
  const std::string deep = repeat("[", 1000) + repeat("]", 1000);
  const auto parts = render("{{ x }}", {{"x", Json::parse(deep)}});
  ASSERT_FALSE(parts);
  EXPECT_EQ(parts.error().code, ErrorCode::resource_exhausted);
}

TEST(ChatTemplateLimits, LargeContextIsRefusedByMemory) {
  ChatTemplateLimits limits;
  limits.memory_bytes = 1 << 20;
  const Json small = {{"x", std::string(200'000, 'a')}};
  EXPECT_EQ(join(*render("{{ x|length }}", small, limits)), "200000");
  const Json large = {{"x", std::string(1'200'000, 'a')}};
  EXPECT_EQ(render("{{ x|length }}", large, limits).error().code, ErrorCode::resource_exhausted);
}

TEST(ChatTemplateLimits, LongConversationsFit) {
  Json messages = Json::array();
  for (int i = 0; i < 2000; ++i) {
    messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"},
                        {"content", std::string(1000, 'x') + " </think> \u00e9"}});
  }
  const auto parts = render(
      "{% for m in messages %}{% set c = m.content.split('</think>')[-1]|trim %}"
      "{{ '<|im_start|>' + m['role'] + '\\n' + c + m.content + '<|im_end|>\\n' }}{% endfor %}",
      {{"messages", messages}});
  ASSERT_TRUE(parts) << to_string(parts.error());
  EXPECT_GT(join(*parts).size(), 2'000'000u);
}

TEST(ChatTemplateErrors, SayWhere) {
  const auto syntax = ChatTemplate::parse("one\ntwo {{ 1 + }}\n");
  ASSERT_FALSE(syntax);
  EXPECT_EQ(syntax.error().code, ErrorCode::malformed);
  EXPECT_EQ(syntax.error().offset, 15u);
  EXPECT_NE(syntax.error().message.find("line 2"), std::string::npos) << syntax.error().message;

  const auto use = render("\n\n{{ missing.content }}");
  ASSERT_FALSE(use);
  EXPECT_EQ(use.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(use.error().reason, "template_error");
  EXPECT_EQ(use.error().message, "chat template, line 3: 'missing' is undefined");
}

TEST(ChatTemplateErrors, RaisedByTheTemplateKeepItsMessage) {
  const auto parts = render("{{ raise_exception('Roles must ' ~ 'alternate') }}");
  ASSERT_FALSE(parts);
  EXPECT_EQ(parts.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(parts.error().reason, "template_raised");
  EXPECT_EQ(parts.error().message, "Roles must alternate");
}

TEST(ChatTemplateErrors, UnsupportedIsNamed) {
  for (const auto& [source, word] : std::vector<std::pair<std::string, std::string>>{
           {"{% include 'x' %}", "include"},
           {"{% extends 'x' %}", "extends"},
           {"{% block a %}{% endblock %}", "block"},
           {"{% for x in y recursive %}{% endfor %}", "recursive"},
           {"{{ x|urlize }}", "urlize"},
           {"{{ x is nope }}", "nope"},
           {"{{ f(*x) }}", "*"},
           {"{{ 2 ** 200 }}", "128 bits"},
           {"{{ 'a'.encode() }}", "encode"}}) {
    SCOPED_TRACE(source);
    const auto parts = render(source, {{"x", 1}});
    ASSERT_FALSE(parts);
    EXPECT_EQ(parts.error().code, ErrorCode::unsupported);
    EXPECT_NE(parts.error().message.find(word), std::string::npos) << parts.error().message;
  }
}

TEST(ChatTemplateErrors, BadBytes) {
  EXPECT_EQ(ChatTemplate::parse("\xff").error().code, ErrorCode::malformed);
  EXPECT_EQ(render("{{ x }}", {{"x", "\xff"}}).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(ChatTemplate::parse("x")->render(Json::array()).error().code,
            ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace plimsoll
