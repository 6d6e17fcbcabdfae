// Templates of any bytes, and of fragments strung together so that more of them parse: rendering
// ends within its limits, and no text of the context ever counts as the template's own.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/chat/chat_template.h"

namespace {

using namespace plimsoll;

constexpr std::string_view mark = "\u2603";  // in every string of the context

constexpr std::string_view fragments[] = {
    "{{ ",
    " }}",
    "{{- ",
    " -}}",
    "{% ",
    " %}",
    "{%- ",
    " -%}",
    "{% if ",
    "{% elif ",
    "{% else %}",
    "{% endif %}",
    "{% for x in ",
    "{% for k, v in ",
    "{% endfor %}",
    "{% set x = ",
    "{% set x %}",
    "{% endset %}",
    "{% set ns.a = ",
    "{% set ns = namespace(a=s) %}",
    "{% macro f(x, y=1) %}",
    "{% endmacro %}",
    "{{ f(x) }}",
    "{% call f(1) %}",
    "{% endcall %}",
    "caller()",
    "{% filter ",
    "{% endfilter %}",
    "{% with x = ",
    "{% endwith %}",
    "{% break %}",
    "{% continue %}",
    "{% raw %}",
    "{% endraw %}",
    "{% generation %}",
    "{% endgeneration %}",
    "{# ",
    " #}",
    "messages",
    "message",
    "s",
    "l",
    "d",
    "n",
    "x",
    "ns",
    "ns.a",
    "loop",
    "loop.index",
    "loop.last",
    "loop.length",
    "loop.previtem",
    "loop.changed(x)",
    "messages[0]",
    ".content",
    ".role",
    "['content']",
    "[0]",
    "[-1]",
    "[1:]",
    "[::-1]",
    "[:3:2]",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "'a': ",
    "'a'",
    "'%s'",
    "'{}'",
    "' '",
    "''",
    "1",
    "0",
    "-",
    "2.5",
    "1e9",
    "99999",
    "true",
    "none",
    " + ",
    " * ",
    " ** ",
    " / ",
    " // ",
    " % ",
    " ~ ",
    " == ",
    " < ",
    " >= ",
    " in ",
    " not in ",
    " and ",
    " or ",
    "not ",
    " if ",
    " else ",
    " is ",
    " is not ",
    "defined",
    "string",
    "mapping",
    "none",
    "odd",
    "divisibleby",
    "equalto",
    "|trim",
    "|upper",
    "|title",
    "|length",
    "|tojson",
    "|tojson(indent=2)",
    "|join",
    "|join(', ')",
    "|list",
    "|first",
    "|last",
    "|sort",
    "|reverse",
    "|unique",
    "|map('upper')",
    "|map(attribute='content')",
    "|selectattr('role', 'equalto', s)",
    "|select",
    "|items",
    "|dictsort",
    "|replace('a', s)",
    "|indent",
    "|default(s)",
    "|int",
    "|float",
    "|round",
    "|sum",
    "|min",
    "|batch(2)",
    "|slice(2)",
    "|groupby('role')",
    "|e",
    "|safe",
    "|format(s)",
    "|center(9)",
    "|truncate(3)",
    "|string",
    ".strip()",
    ".strip(s)",
    ".split()",
    ".split('a')",
    ".rsplit(s, 1)",
    ".replace(s, 'b')",
    ".replace('', s)",
    ".format(s, x)",
    ".join(l)",
    ".title()",
    ".lower()",
    ".startswith(s)",
    ".find(s)",
    ".partition('a')",
    ".splitlines()",
    ".zfill(9)",
    ".items()",
    ".get('a', s)",
    ".keys()",
    "range(",
    "dict(a=s)",
    "namespace(a=",
    "strftime_now('%Y')",
    "raise_exception(s)",
    "\n",
    " ",
    "text <|im_start|>",
};

const nlohmann::ordered_json& context() {
  static const auto json = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "user☃", "content": " Hello ☃, a b\n"},
                 {"role": "assistant☃", "content": "☃"}],
    "s": "a☃b", "l": ["☃", "é☃", "☃a"], "d": {"a": "☃", "b☃": {"c": ["☃"]}}, "n": 3,
    "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true})");
  return json;
}

void check(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string source;
  if (size > 0 && data[0] % 2 == 0) {
    source.assign(reinterpret_cast<const char*>(data) + 1, size - 1);
  } else {
    for (std::size_t i = 1; i < size; ++i) source += fragments[data[i] % std::size(fragments)];
  }
  ChatTemplateLimits limits;
  limits.steps = 100'000;
  limits.memory_bytes = 16 << 20;
  limits.output_bytes = 1 << 20;
  const auto parsed = ChatTemplate::parse(source, limits);
  if (!parsed) {
    check(parsed.error().code != ErrorCode::internal && !parsed.error().message.empty());
    return 0;
  }
  const auto parts = parsed->render(context(), 0);
  if (!parts) {
    check(parts.error().code != ErrorCode::internal);
    return 0;
  }
  const bool source_may_hold_mark =
      source.find(mark) != std::string::npos || source.find('\\') != std::string::npos;
  for (std::size_t i = 0; i < parts->size(); ++i) {
    const RenderedPart& part = (*parts)[i];
    check(!part.text.empty());
    check(i == 0 || part.from_template != (*parts)[i - 1].from_template);
    check(!part.from_template || source_may_hold_mark || part.text.find(mark) == std::string::npos);
  }
  return 0;
}
