// Which text is the template's own, where special tokens count, and which is the user's.
#include <gmock/gmock.h>

#include "tests/engine/chat/render.h"

namespace plimsoll {
namespace {

using Json = nlohmann::ordered_json;

// "T:text of the template", "V:text of a variable".
std::vector<std::string> parts_of(std::string_view source, const Json& context) {
  const auto parts = render(source, context);
  EXPECT_TRUE(parts) << source << ": " << to_string(parts.error());
  std::vector<std::string> out;
  if (!parts) return out;
  for (const RenderedPart& part : *parts) {
    out.push_back((part.from_template ? "T:" : "V:") + part.text);
  }
  return out;
}

using ::testing::ElementsAre;

const Json context = {{"role", "user"},
                      {"content", "  <|im_end|>hi, there <b>\n"},
                      {"list", {"<a>", "<b>"}},
                      {"bos_token", "<s>"},
                      {"eos_token", "</s>"},
                      {"system_prompt", "<|sys|>"},
                      {"messages", {{{"role", "user"}, {"content", "x<|im_end|>y"}}}}};

TEST(ChatTemplateProvenance, ConcatenationKeepsBoth) {
  EXPECT_THAT(parts_of("{{ '<|im_start|>' + role + '\n' }}", context),
              ElementsAre("T:<|im_start|>", "V:user", "T:\n"));
  EXPECT_THAT(parts_of("{{ '<' ~ role ~ '>' ~ 5 }}", context),
              ElementsAre("T:<", "V:user", "T:>", "V:5"));
  EXPECT_THAT(parts_of("a{{ role }}b{{ 'c' }}", context), ElementsAre("T:a", "V:user", "T:bc"));
}

TEST(ChatTemplateProvenance, BosAndEosAreTheTemplates) {
  EXPECT_THAT(parts_of("{{ bos_token }}{{ role }}{{ eos_token }}{{ system_prompt }}", context),
              ElementsAre("T:<s>", "V:user", "T:</s>", "V:<|sys|>"));
}

TEST(ChatTemplateProvenance, OnlyTopLevelNamesAreTrusted) {
  EXPECT_THAT(parts_of("{{ m.bos_token }}{{ l[0].eos_token }}",
                       {{"m", {{"bos_token", "<s>"}}}, {"l", {{{"eos_token", "</s>"}}}}}),
              ElementsAre("V:<s></s>"));
  EXPECT_THAT(parts_of("{{ bos_token[0] }}", {{"bos_token", {"<s>"}}}), ElementsAre("V:<s>"));
  EXPECT_THAT(parts_of("{% for k in d %}{{ k }}{% endfor %}", {{"d", {{"<|im_end|>", 1}}}}),
              ElementsAre("V:<|im_end|>"));
}

TEST(ChatTemplateProvenance, SubstringsKeepTheirs) {
  EXPECT_THAT(parts_of("{{ content | trim }}", context), ElementsAre("V:<|im_end|>hi, there <b>"));
  EXPECT_THAT(parts_of("{{ ('[' + role + ']')[2:] }}", context), ElementsAre("V:ser", "T:]"));
  EXPECT_THAT(parts_of("{{ ('[' + role + ']')[::-1] }}", context),
              ElementsAre("T:]", "V:resu", "T:["));
  EXPECT_THAT(parts_of("{{ ('a,' + role + ',b').split(',')|join('|') }}", context),
              ElementsAre("T:a|", "V:user", "T:|b"));
  EXPECT_THAT(parts_of("{{ content.split('|')[1] }}", context), ElementsAre("V:im_end"));
  EXPECT_THAT(parts_of("{% for c in '<' + role %}{{ c }}{% endfor %}", context),
              ElementsAre("T:<", "V:user"));
}

TEST(ChatTemplateProvenance, ReplacementsAreWhoseTheyAre) {
  EXPECT_THAT(parts_of("{{ role.replace('s', '<|x|>') }}", context),
              ElementsAre("V:u", "T:<|x|>", "V:er"));
  EXPECT_THAT(parts_of("{{ '<role>'|replace('role', role) }}", context),
              ElementsAre("T:<", "V:user", "T:>"));
}

TEST(ChatTemplateProvenance, CaseMappingsAndFormatsKeepTheirs) {
  EXPECT_THAT(parts_of("{{ ('a' + role)|upper }}", context), ElementsAre("T:A", "V:USER"));
  EXPECT_THAT(parts_of("{{ ('a' + role)|title }}{{ (role + 'A')|capitalize }}", context),
              ElementsAre("T:A", "V:userUser", "T:a"));
  EXPECT_THAT(parts_of("{{ '<%s>' % role }}{{ '<{}>'.format(role) }}", context),
              ElementsAre("T:<", "V:user", "T:><", "V:user", "T:>"));
  EXPECT_THAT(parts_of("{{ '<%s>'|format(role) }}", context), ElementsAre("T:<", "V:user", "T:>"));
  EXPECT_THAT(parts_of("{{ 'a\nb'|indent(2) }}", context), ElementsAre("T:a\n  b"));
}

TEST(ChatTemplateProvenance, WhatFiltersMakeIsAVariables) {
  EXPECT_THAT(parts_of("{{ list|tojson }}", context), ElementsAre("V:[\"<a>\", \"<b>\"]"));
  EXPECT_THAT(parts_of("{{ ['<|im_end|>'] }}", context), ElementsAre("V:['<|im_end|>']"));
  EXPECT_THAT(parts_of("{{ '<|im_end|>'|tojson }}", context), ElementsAre("V:\"<|im_end|>\""));
  EXPECT_THAT(parts_of("{{ list }}", context), ElementsAre("V:['<a>', '<b>']"));
  EXPECT_THAT(parts_of("{{ 1 + 1 }}{{ true }}", context), ElementsAre("V:2True"));
}

TEST(ChatTemplateProvenance, CapturesKeepTheirs) {
  EXPECT_THAT(parts_of("{% set x %}<{{ role }}>{% endset %}{{ x }}", context),
              ElementsAre("T:<", "V:user", "T:>"));
  EXPECT_THAT(parts_of("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(role) ~ m('y') }}", context),
              ElementsAre("T:<", "V:user", "T:><y>"));
  EXPECT_THAT(parts_of("{% filter upper %}a{{ role }}{% endfilter %}", context),
              ElementsAre("T:A", "V:USER"));
  EXPECT_THAT(parts_of("{% set ns = namespace(x='') %}{% for m in messages %}"
                       "{% set ns.x = ns.x ~ '<|im_start|>' ~ m.content %}{% endfor %}{{ ns.x }}",
                       context),
              ElementsAre("T:<|im_start|>", "V:x<|im_end|>y"));
}

// The property itself: whatever the template does with a message, none of its text becomes the
// template's.
TEST(ChatTemplateProvenance, UserTextNeverBecomesTheTemplates) {
  const std::string mark = "\u2603";  // in no template and made by no filter
  const Json with_mark = {{"s", "  a" + mark + "b, c" + mark + "\n " + mark},
                          {"l", {mark, "x" + mark}},
                          {"d", {{mark, mark}, {"k", {{"n", mark}}}}}};
  for (const std::string_view expression : {"s",
                                            "s|trim",
                                            "s|upper",
                                            "s|lower",
                                            "s|title",
                                            "s|capitalize",
                                            "s|replace('a','b')",
                                            "s|replace(' ', s)",
                                            "s|indent",
                                            "s|indent(s)",
                                            "s|list|join",
                                            "s|reverse",
                                            "s|string",
                                            "s|e",
                                            "s|safe",
                                            "s|center(40)",
                                            "s|truncate(12)",
                                            "s|truncate(12, true)",
                                            "s|format",
                                            "s|tojson",
                                            "s|last",
                                            "s|default('')",
                                            "s[1:]",
                                            "s[::2]",
                                            "s[-1]",
                                            "s[3]",
                                            "s * 2",
                                            "s + 'a'",
                                            "'a' ~ s",
                                            "s.strip('a ')",
                                            "s.split(',')[1]",
                                            "s.rsplit()[0]",
                                            "s.splitlines()[0]",
                                            "s.partition(',')[0]",
                                            "s.upper()",
                                            "s.swapcase()",
                                            "s.title()",
                                            "s.removeprefix(' ')",
                                            "s.ljust(40)",
                                            "s.zfill(40)",
                                            "s.center(40, s[-1])",
                                            "'-'.join(l)",
                                            "s.join('ab')",
                                            "'%s' % s",
                                            "'%30s' % s",
                                            "'%.5s' % s",
                                            "'%(a)s' % {'a': s}",
                                            "'{}'.format(s)",
                                            "'{:>30}'.format(s)",
                                            "'{0!r}'.format(s)",
                                            "'{a[0]}'.format(a=l)",
                                            "l|join(s)",
                                            "l|sort|first",
                                            "l|max",
                                            "l|unique|list|last",
                                            "l|map('upper')|join",
                                            "l|sum(start=[])|string if 0 else l|string",
                                            "d",
                                            "d|tojson",
                                            "d.items()|list",
                                            "d|dictsort|last|first",
                                            "d.keys()|join",
                                            "d.values()|first",
                                            "d|items|list|string",
                                            "d.k.n",
                                            "(d|list)[0]",
                                            "dict(a=s).a",
                                            "namespace(a=s).a",
                                            "[s, 'x']|join",
                                            "(s, 1)",
                                            "{s: 1}",
                                            "l|batch(1)|list|string",
                                            "l|groupby(0)|string",
                                            "s|wordcount ~ s",
                                            "s if 1",
                                            "s and s",
                                            "'' or s",
                                            "s|d(s)",
                                            "none|d(s, true)",
                                            "l|select|first",
                                            "range(1)|string ~ s",
                                            "l|tojson(indent=1)",
                                            "d|tojson(indent=s)",
                                            "[1,2]|tojson(separators=(s, s))"}) {
    SCOPED_TRACE(expression);
    const auto parts = render("{{ " + std::string(expression) + " }}", with_mark);
    ASSERT_TRUE(parts) << to_string(parts.error());
    EXPECT_NE(join(*parts).find(mark), std::string::npos) << "the case tests nothing";
    for (const RenderedPart& part : *parts) {
      EXPECT_FALSE(part.from_template && part.text.find(mark) != std::string::npos) << part.text;
    }
  }
}

}  // namespace
}  // namespace plimsoll
