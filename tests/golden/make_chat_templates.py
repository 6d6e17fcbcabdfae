#!/usr/bin/env python3
"""Renders the chat templates of tests/engine/chat/templates, and small expressions, with Jinja2 as
transformers sets it up, and writes what came out to tests/engine/chat/golden.

Made with transformers 5.23.0 and Jinja2 3.1.6:
    pip install transformers==5.23.0 jinja2==3.1.6 && python tests/golden/make_chat_templates.py
"""

import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parent.parent / "engine" / "chat"
NOW = datetime.datetime(2025, 3, 4, 9, 26, 53)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather <now> in a city & \"region\"",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Größe, 東京"},
                    "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                    "days": {"type": "integer", "default": 3},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "area": {
                        "type": "object",
                        "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
                        "required": ["lat"],
                    },
                },
                "required": ["city"],
            },
            "return": {"type": "string"},
        },
    },
    {"type": "function", "function": {"name": "now", "description": "Time", "parameters": {}}},
]
USER = {"role": "user", "content": " Hello, <b>wörld</b>! \n"}
ANSWER = {"role": "assistant", "content": "Hi there.\n"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm, 2+2\n</think>\n\nIt is 4."}
SYSTEM = {"role": "system", "content": "Be brief. /no_think"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "abcdef123",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 2}},
        }
    ],
}
RESULT = {"role": "tool", "content": "18 degrees", "tool_call_id": "abcdef123", "name": "get_weather"}

CONTEXTS = {
    "one": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [USER, ANSWER, {"role": "user", "content": "And 2+2?"}, THOUGHT,
                           {"role": "user", "content": "Thanks <|im_end|> [/INST]"}]},
    "system_turns": {"messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "Bye"}]},
    "tools": {"messages": [SYSTEM, USER], "tools": TOOLS},
    "tool_call": {"messages": [USER, CALL, RESULT, ANSWER], "tools": TOOLS},
    "tool_results": {"messages": [USER, CALL, RESULT, dict(RESULT, content="again")]},
    "parts": {"messages": [{"role": "user", "content": [
        {"type": "image"}, {"type": "text", "text": " What is this? "}]}]},
    "out_of_turn": {"messages": [USER, USER]},
}
EXTRA = {  # for some templates
    "llama31": {"builtin": {"messages": [SYSTEM, USER, CALL, RESULT],
                            "builtin_tools": ["get_weather", "code_interpreter"],
                            "tools_in_user_message": False, "tools": TOOLS,
                            "date_string": "1 May 2025"},
                "no_user": {"messages": [SYSTEM], "tools": TOOLS}},
    "qwen3": {"no_think": {"messages": [USER], "enable_thinking": False},
              "reasoning": {"messages": [USER, {"role": "assistant", "content": "4",
                                                "reasoning_content": "2+2"}]}},
    "smollm3": {"no_think": {"messages": [USER], "enable_thinking": False},
                "override": {"messages": [{"role": "system",
                                           "content": "X /system_override "}, USER]}},
    "phi4_mini": {"system_tools": {"messages": [dict(SYSTEM, tools="[]"), USER]}},
    "schema_macros": {"nothing": {"messages": []}},
    "mistral_v3": {"bad_id": {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [
        dict(CALL["tool_calls"][0], id="short")]}]}},
}

# What the expressions below see.
VALUES = {
    "n": 7, "x": 2.5, "s": "Hello, Wörld", "empty": "", "t": True, "no": None,
    "l": [3, 1, 2], "words": ["b", "A", "c", "a"], "nested": [[1, 2], [3]],
    "d": {"b": 1, "a": {"k": "v"}, "items_": [1]},
    "users": [{"name": "Ann", "age": 30, "ok": True}, {"name": "bob", "age": 25, "ok": False},
              {"name": "Cy", "age": 30}],
    "text": "  one two\n three\n\n", "uni": "日本語テキスト", "tricky": "it's \"q\" \\ \n\t\x7f\u00a0é",
    "big": 18446744073709551615, "tool": TOOLS[0], "floats": [1.0, 0.1, 1e16, 1.5e-7, 123456789.125],
}

EXPRESSIONS = r"""
1 + 2 * 3
7 // 2, -7 // 2, 7 // -2, 7.5 // 2, -7.5 // 2
7 % 3, -7 % 3, 7 % -3, 7.5 % 2, -7.5 % 2
2 ** 10, 2 ** -1, 2 ** 0.5, (-2) ** 3, 2 ** 3 ** 2
-2 ** 2
7 / 2, 6 / 2, 1 / 3
1_000, 0x1f, 0b101, 0o17, 1e3, 1.5e-3, 2E5
1.0, 100.0, 1e15, 1e16, 1e22, 1.5e300, 1e-4, 1e-5, 0.1 + 0.2
123456789012345678, 2 ** 100
big, big + 1, big * 2 // big
true, false, none, True, False, None
true + 1, true == 1, 1 == 1.0, 'a' == 'a', 1 == '1'
1 < 2 < 3, 1 < 3 < 2, 3 > 2 >= 2, 1 != 2
'a' < 'b', 'B' < 'a', 'é' > 'z', [1, 2] < [1, 3], (1,) < (1, 0)
not true, not none, not [], not [0], not 0.0, not ' '
1 and 2, 0 and 2, 1 or 2, 0 or '' or 'x', none or 0
1 if t else 2, 1 if no else 2, (1 if no) is defined
'a' ~ 1 ~ none ~ 1.5 ~ [1, 'x'] ~ true
'a' 'b' "c"
'ab' * 3, 3 * 'ab', [1] * 2, 'x' * -1, (1, 2) * 2
[1] + [2], (1,) + (2,)
2 in l, 9 in l, 'ell' in s, 'a' in d, 'z' in d, 1 not in l, 'x' in undefined_thing
'a' in words, 'Z' in words, (1, 2) in [(1, 2)], none in [none], 2 in range(3)
[1, 'two', 3.0, none, true, [4], (5,), (6, 7), {}, {'k': 'v', 1: 2}]
(), (1,), [], {}
{'a': 1, 'b': [1, 2], 'c': {'d': none}}
{1: 'a', 1.0: 'b', true: 'c'}
{'a': 1}.a, {'a': 1}['a'], {'a': 1}.get('b'), {'a': 1}.get('b', 2), {'a': 1}.b is defined
l[0], l[-1], l[9] is defined, l['0'] is defined, l.0
l[1:], l[:1], l[-2:], l[::-1], l[::2], l[5:], l[:-5], l[2:0:-1], l[None:2]
s[0], s[-1], s[7:], s[:5], s[::-1], s[1:9:3], s[-5:-1], s[20:], s[99] is defined
uni[0], uni[-1], uni[2:4], uni[::-1], uni[::2], uni|length, uni[4:1:-2]
(1, 2, 3)[1:], range(10)[2:5], range(10)[-1], range(10)[::3], range(3)[5:]
range(3), range(1, 4), range(0, 10, 3), range(3, 0, -1)|list, range(5)|length, range(0)|list
d.items(), d.keys(), d.values(), d.items()|list
d['a']['k'], d.a.k, d.items_[0], d.missing is defined, d['missing'] is defined
{'items': 5}.items is callable, {'items': 5}['items'], {'get': 1}['get']
tool.function.parameters.properties.keys()|list
s.upper(), s.lower(), s.title(), s.capitalize(), s.swapcase()
'ß'.upper(), 'ŉ'.upper(), 'ﬁx'.upper(), 'ﬁx'.title(), 'ΑΣ'.lower(), 'ΣΑ Σ'.lower(), 'İ'.lower()
"they're bill's".title(), "they're bill's"|title, 'a-b (c) <d> e_f'|title, 'hELLO wORLD'|capitalize
text.strip(), text.lstrip(), text.rstrip(), text|trim
'xxabcxx'.strip('x'), 'xyabyx'.strip('xy'), 'xxa'.lstrip('x'), 'axx'.rstrip('x'), 'éaé'.strip('é'), 'xax'|trim('x'), 'a'.strip('')
'a,b,c'.split(','), 'a,b,c'.split(',', 1), 'a,b,c'.rsplit(',', 1), ' a  b '.split(), ' a  b c '.split(none, 1), ' a  b c '.rsplit(none, 1)
'a,b'.split(sep=','), 'abc'.split('x'), ''.split(','), ''.split(), 'a,,b'.split(','), 'a,b,c'.split(',')[-1]
'a\nb\r\nc\x0bd'.splitlines(), 'a\n\nb\n'.splitlines(), 'a\nb'.splitlines(true), ''.splitlines()
'abc'.startswith('a'), 'abc'.startswith(('x', 'ab')), 'abc'.endswith('bc'), 'abc'.startswith('b', 1), 'abc'.endswith('b', 0, 2)
'hello'.replace('l', 'L'), 'hello'.replace('l', 'L', 1), 'aaa'.replace('aa', 'b'), 'abc'.replace('', '-'), 'abc'.replace('', '-', 2), 'x'.replace('y', '')
'hello'.find('l'), 'hello'.find('z'), 'hello'.rfind('l'), '日本語'.find('語'), 'hello'.index('e'), 'hello'.count('l'), 'aaa'.count('aa'), 'abc'.count(''), 'hello'.find('l', 3), 'hello'.find('o', -2)
', '.join(['a', 'b']), '-'.join('abc'), ''.join([]), ', '.join({'a': 1, 'b': 2})
'{} {}'.format(1, 'a'), '{0} {1} {0}'.format('x', 'y'), '{a}-{b}'.format(a=1, b=2), '{{}}'.format(), '{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c')
'{:.2f} {:05d} {:,} {:x} {:+d} {:e}'.format(3.14159, 42, 1234567, 255, 5, 12345.678), '{!r} {!s}'.format('a', 'b'), '{0.a} {0[b]}'.format({'a': 1, 'b': 2})
'{:*^9}'.format('mid'), '{:08.3f}'.format(-3.14159), '{:%}'.format(0.25), '{}'.format(1.0), '{:g}'.format(0.0001), '{:10}|'.format(5), '{:10}|'.format('s')
'%s and %d' % ('a', 5), '%s' % 'x', '%05.2f|%-5s|%5s|%+d|%x|%%' % (3.14159, 'a', 'b', 5, 255), '%(a)s' % {'a': 1}, '%r' % ['q'], '%s' % [1], '%s' % none
'%d' % 3.99, '%e' % 12345.678, '%g' % 1e-5, '%.3s' % 'abcdef', '%5d|%-5d|%05d' % (42, 42, -42), '%o' % 8, '%X' % 255
'abc'.removeprefix('a'), 'abc'.removesuffix('bc'), 'abc'.removeprefix('x'), 'a-b'.partition('-'), 'a-b-c'.rpartition('-'), 'ab'.partition('-')
'5'.zfill(3), '-5'.zfill(4), 'a'.ljust(3) ~ '|', 'a'.rjust(3, '*'), 'a'.center(4, '-'), 'ab'.center(5, '-')
'123'.isdigit(), 'a1'.isalnum(), 'ab'.isalpha(), ' '.isspace(), ''.isspace(), 'Ab'.isupper(), 'AB1'.isupper(), 'ab1'.islower(), '1'.islower(), 'é'.isalpha()
l.index(1), l.count(3), (1, 1, 2).count(1), d.copy(), l.copy()
s|length, l|length, d|length, undefined_thing|length, l|count
s|upper, s|lower, 5|upper, none|lower, true|string, 1.50|string, l|string
l|first, l|last, []|first is defined, ''|last is defined, s|first, s|last, d|first, d|last
l|join, l|join(', '), words|join('-'), users|join(', ', attribute='name'), 'abc'|join('.'), [1, none, 'x']|join('|')
l|sort, words|sort, words|sort(case_sensitive=true), l|sort(reverse=true), users|sort(attribute='age')|map(attribute='name')|list, users|sort(attribute='age,name', reverse=true)|map(attribute='name')|list
l|reverse|list, s|reverse, words|unique|list, words|unique(case_sensitive=true)|list, [1, 1.0, true, 2]|unique|list
l|max, l|min, words|max, words|min, words|min(case_sensitive=true), []|max is defined, users|max(attribute='age')
l|sum, [0.5, 1]|sum, users|sum(attribute='age'), [[1], [2]]|sum(start=[])
l|list, s|list, d|list, (1, 2)|list, 'é日'|list, range(3)|list
users|map(attribute='name')|list, users|map(attribute='ok', default='?')|list, words|map('upper')|list, words|map('replace', 'a', 'z')|join, nested|map('first')|list, nested|map(attribute=0)|list, nested|map('length')|sum
l|select('odd')|list, l|reject('odd')|list, l|select('>', 1)|list, [0, 1, '', 'a']|select|list, l|select('in', [1, 2])|list, l|select('divisibleby', 3)|list
users|selectattr('ok')|map(attribute='name')|list, users|selectattr('age', 'equalto', 30)|map(attribute='name')|list, users|rejectattr('ok', 'defined')|map(attribute='name')|list, users|rejectattr('age', '==', 30)|list|length, users|selectattr('name', 'in', ['Cy'])|list
l|select('odd') is defined, (l|select('even')) and 1
d|items|list, d|dictsort, {'b': 2, 'A': 1}|dictsort, {'b': 2, 'A': 1}|dictsort(true), {'b': 1, 'a': 2}|dictsort(false, 'value'), {'b': 1, 'a': 2}|dictsort(reverse=true), undefined_thing|items|list
users|groupby('age')|map('first')|list, users|groupby('age'), l|batch(2)|list, l|batch(2, 'x')|list, range(7)|slice(3)|list, range(7)|slice(3, 'x')|list
'5'|int, '5.9'|int, 'x'|int, 'x'|int(7), '0x1f'|int(base=16), '1f'|int(0, 16), 5.9|int, -5.9|int, true|int, none|int, ' 42 '|int, '1_000'|int, ''|int
'1.5'|float, 'x'|float, 'x'|float(2.5), 3|float, 'inf'|float, '1e3'|float, none|float, ' 2 '|float
2.5|round, 3.5|round, 2.675|round(2), 42.55|round(1, 'floor'), 42.54|round(1, 'ceil'), 5|round, 1234|round(-2), 1.005|round(2), 2.5|round|int
-5|abs, 5.5|abs, n|abs, -0.0|abs
undefined_thing|default('x'), no|default('x'), ''|default('x', true), 0|d(5, true), s|default('x'), d.zz|default('q'), undefined_thing|default
undefined_thing, undefined_thing ~ 'x', undefined_thing is defined, undefined_thing|list, undefined_thing == other_thing, undefined_thing|string|length, [undefined_thing], undefined_thing|join, undefined_thing|upper
d|tojson, l|tojson, s|tojson, none|tojson, true|tojson, 1.0|tojson, (1, 2)|tojson, []|tojson, {}|tojson, {1: 2, none: 3, true: 4, 1.5: 6}|tojson
d|tojson(indent=2)
[[], {}, [1, [2, {'a': []}]]]|tojson(indent=4)
tricky|tojson, tricky|tojson(ensure_ascii=true), '😀'|tojson(ensure_ascii=true), '</script>&'|tojson, '\x01\x1f\x7f'|tojson
{'b': 1, 'a': 2}|tojson(sort_keys=true), d|tojson(separators=(',', ':')), d|tojson(indent='--'), [1]|tojson(indent=0), {'a': 1}|tojson(indent=none)
floats, floats|tojson, floats|sum
tricky, [tricky], ["it's"], ['"'], ['\'"'], ['\\'], ['\u200b\x00\ufeff'], ['日本'], ['\U0001F600']
'a\nb\nc'|indent, 'a\nb'|indent(2, true), 'a\n\nb'|indent(2, blank=true), 'a\nb\n'|indent('> '), ''|indent(2, true), 'a\n\nb'|indent
text|wordcount, 'a-b c_d é1'|wordcount, 'x'|center(5) ~ '|', 'foo bar baz qux'|truncate(9), 'foo bar baz qux'|truncate(9, true), 'foo bar'|truncate(11), 'foo bar baz qux'|truncate(11, false, '..', 0)
'<a href="x">&\'</a>'|e, '<b>'|safe, '<b>'|e|e, '<b>'|safe ~ '<i>', '<b>'|safe + '<i>', '<i>' + '<b>'|safe, 5|e
'%s=%s'|format('a', 1), '%(x)s'|format(x=5), s|replace('l', 'L')|replace('L', '1', 1), 5|replace(5, 6), [1, 2]|replace(', ', ';')
n is number, x is number, t is number, s is number, n is integer, x is integer, t is integer, x is float, n is float
s is string, n is string, no is none, no is not none, undefined_thing is none, d is mapping, l is mapping, t is boolean, n is boolean
l is iterable, s is iterable, d is iterable, n is iterable, no is iterable, undefined_thing is iterable, l is sequence, s is sequence, d is sequence, n is sequence, undefined_thing is sequence, d.items() is sequence, (l|map('abs')) is sequence, (l|map('abs')) is iterable
t is true, t is false, no is false, 1 is true, false is false, n is odd, n is even, 8 is divisibleby 4, 9 is divisibleby(4), 2.0 is even
n is equalto 7, n is eq 7, n == 7 is true, n is ne 8, n is gt 5, n is ge 7, n is lt 5, n is le 7, n is greaterthan 6, n is lessthan 8, 'a' is in 'abc', 2 is in l, n is sameas 7, none is sameas none, true is sameas 1
'abc' is lower, 'ABC' is upper, 'Abc' is lower, '1' is upper, 'upper' is filter, 'nope' is filter, 'odd' is test, range is callable, s is callable, s.upper is callable, s is escaped, ('a'|e) is escaped
n is not string, not n is string, n is defined and n is not none, n is string or n is number, 1 + 1 is odd, (1 + 1) is odd
-n is odd, -n|abs, -(n|abs), n.__class__ is defined, s.nope is defined, n.nope is defined, no.nope is defined, l.append is defined, d.pop is defined, d.update
namespace(a=1).a, namespace({'a': 1}, b=2).b, namespace(a=1).b is defined, namespace(a=1)['a'], namespace(a='x', b=2), namespace() is mapping
dict(a=1, b=2), dict({'a': 1}, b=2), dict([('a', 1), ['b', 2]]), dict()
strftime_now('%Y-%m-%d %H:%M:%S'), strftime_now('%d %B %Y'), strftime_now('%A %j %p %%'), strftime_now('')
users|map(attribute='name')|map('lower')|join(' ')|title, l|map('string')|map('length')|list, (l|sort)[0], (users|last).name, (l|first) + 1
s.split(', ')[1][1:], s.split(', ')|last|first, s.upper().lower()[0:1] ~ s[-1], (s ~ n)[-2:], users[0]['name'][0], users[-1].name.upper()
(1, 2) == (1, 2), [1] == (1,), {'a': 1} == {'a': 1.0}, {'a': 1, 'b': 2} == {'b': 2, 'a': 1}, range(3) == range(0, 3), none == false, '' == none, d == d, users[0] == users[0], users[0] == users[1]
'x' if n > 5 and s else 'y', ('a' if no else 'b') ~ 'c', 'a' if no else 'b' if t else 'c', ('x' if false)|default('dflt')
'\x41\u00e9\n\t\\\'\"\101\q', "a'b", 'a"b', '\u65e5'
{'a': 1,}, [1, 2,], (1, 2,), 'a'.join(['x', 'y'],)
'a'.b is defined, [].a is defined, {}.a is defined
'é'|upper, 'É'|lower, 'straße'|upper, 'ǆ'|capitalize, 'ΌΣΟΣ'|lower, 'x\u00a0y'.split(), '\u2003a\u2003'|trim, 'a\u2028b'.splitlines(), '\x1ca\x1f'.strip()
[3, 1]|sort == [1, 3], 'b' in ['a', 'b']|map('upper')|list, 'B' in ['a', 'b']|map('upper'), n in [7]|select('odd')
('a', 'b')|join, d.values()|list, d.keys()|join, d.items()|length, d.keys()|length, d.items()|first, d.values()|first
5 // 0.3, 5 % 0.3, -5 % 0.3, 1e308 * 10, 0 * -1.0, 3 * 1.5, 10 ** 15, 10.0 ** 15, 10.0 ** 16
loop is defined, caller is defined, self_ is defined, varargs_ is defined
"""

FAILING = r"""
{{ undefined_thing.attribute }}
{{ undefined_thing['item'] }}
{{ undefined_thing() }}
{{ undefined_thing + 1 }}
{{ 'a' + undefined_thing }}
{{ undefined_thing < 1 }}
{{ -undefined_thing }}
{{ undefined_thing|int }}
{{ undefined_thing|tojson }}
{{ undefined_thing|dictsort }}
{{ undefined_thing|abs }}
{{ d.missing.deeper }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ 1 + none }}
{{ [1] + (2,) }}
{{ 'a' - 'b' }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.5 % 0 }}
{{ 'a' < 1 }}
{{ none < 1 }}
{{ [1] < 1 }}
{{ {} < {} }}
{{ 1 in 5 }}
{{ 1 in 'abc' }}
{{ none in 'abc' }}
{{ 'a' in none }}
{{ 'x' * 'y' }}
{{ 'x' * 1.5 }}
{{ -'a' }}
{{ none() }}
{{ s() }}
{{ l.append(1) }}
{{ d.update({}) }}
{{ d.pop('a') }}
{{ s.nope() }}
{{ s.__class__() }}
{{ d[1:] }}
{{ l['a':] }}
{{ l[::0] }}
{{ n|length }}
{{ n|list }}
{{ n|first }}
{{ n|join }}
{{ (l|map('upper'))|length }}
{{ (l|map('upper'))|last }}
{{ ['a', 1]|sort }}
{{ [none, 1]|sort }}
{{ [{}, {}]|sort }}
{{ [[]]|unique|list }}
{{ ['a', 1]|max }}
{{ ['a']|sum }}
{{ l|map('nope')|list }}
{{ l|map|list }}
{{ l|select('nope')|list }}
{{ l|selectattr|list }}
{{ n|items|list }}
{{ l|items|list }}
{{ l|dictsort }}
{{ d|dictsort(by='x') }}
{{ range(3)|tojson }}
{{ (l|map('upper'))|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ namespace()|tojson }}
{{ {[]: 1} }}
{{ {{}: 1} }}
{{ range() }}
{{ range(1, 2, 0) }}
{{ range(200000) }}
{{ range('a') }}
{{ range(1.5) }}
{{ 'x'|round }}
{{ 'x'|abs }}
{{ 5|round(1, 'x') }}
{{ n|indent }}
{{ s|upper(1) }}
{{ s|replace('a') }}
{{ s|default(1, 2, 3) }}
{{ s|trim(nope=1) }}
{{ s.replace('a') }}
{{ s.split('') }}
{{ s.split(1) }}
{{ s.startswith(1) }}
{{ s.startswith(['a']) }}
{{ s.strip(1) }}
{{ s.index('zzz') }}
{{ ','.join([1]) }}
{{ ','.join(5) }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{{ '%s' % ('a', 'b') }}
{{ '%s' % () }}
{{ '%(a)s' % {} }}
{{ '{} {}'.format(1) }}
{{ '{a}'.format(b=1) }}
{{ '{'.format() }}
{{ '{:d}'.format('x') }}
{{ n is divisibleby 0 }}
{{ s is odd }}
{{ n is gt 'a' }}
{{ raise_exception('stop') }}
{{ raise_exception() }}
{{ dict(1) }}
{{ dict([1]) }}
{{ namespace(_a=1) }}
{% set ns = namespace() %}{% set ns._a = 1 %}
{% set d.a = 1 %}
{% set undefined_thing.a = 1 %}
{% set a, b = 1 %}
{% set a, b = [1, 2, 3] %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in l %}{{ loop(x) }}{% endfor %}
{% for x in l %}{{ loop.cycle() }}{% endfor %}
{% macro m(a) %}{{ a.b }}{% endmacro %}{{ m() }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=1) }}
{% macro m(a) %}{% endmacro %}{{ m(1, a=1) }}
{% macro m() %}{% endmacro %}{% call m() %}{% endcall %}
{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}
{% if %}{% endif %}
{% if x %}
{% endif %}
{% else %}
{% for x in y %}
{% for x y %}{% endfor %}
{% for in y %}{% endfor %}
{% set %}
{% set x = %}
{% set 1 = 2 %}
{% set none = 2 %}
{% nope %}
{% endnope %}
{% do l %}
{% break %}
{% continue %}
{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}
{% for loop in l %}{% endfor %}
{% for x in l %}{% set loop = 1 %}{% endfor %}
{% macro m(a=1, b) %}{% endmacro %}
{% macro %}{% endmacro %}
{% call x %}{% endcall %}
{% filter %}{% endfilter %}
{% filter nope %}{% endfilter %}
{% raw %}x
{% if x %}{% endfor %}
{{ }}
{{ 1 + }}
{{ + }}
{{ (1 }}
{{ [1 }}
{{ {1: } }}
{{ {1 2} }}
{{ 1 2 }}
{{ a..b }}
{{ a. }}
{{ a[] }}
{{ a| }}
{{ a|nope }}
{{ a is nope }}
{{ a is }}
{{ a is string is string }}
{{ 'abc }}
{{ "abc }}
{{ a ? b }}
{{ a ) }}
{{ a ] }}
{{ a & b }}
{{ f(a=1, 2) }}
{{ f(a=1, a=2) }}
{{ f(,) }}
{{ x if }}
{{ not }}
{{ 1 = 2 }}
{{ '\x4' }}
{{ '\u12' }}
{{
{%
{# x
{{ x
{% if x
{{ x %}
{% if x }}{% endif %}
"""

# Whole templates whose whitespace and scoping matter. One a line; ⏎ is a newline, ␍ a carriage return.
SOURCES = r"""
a⏎
a⏎⏎
⏎
␍⏎a␍␍b␍
{{ 1 }}⏎{{ 2 }}⏎
{% if true %}⏎  a⏎{% endif %}⏎b
  {% if true %}  a  {% endif %}  b
a  {%- if true -%}  b  {%- endif -%}  c
a⏎  {%+ if true +%}⏎  b⏎  {%+ endif +%}⏎ c
a {{- 1 -}} b {{ 2 }} c
a⏎  {{ 1 }}⏎  b
a⏎  {# c #}  ⏎b
a⏎  {#- c -#}  ⏎b
a⏎  {#+ c +#}⏎b
{# a #}⏎⏎{# b #}⏎c
{% raw %}⏎ {{ x }} {% if %}⏎{% endraw %}⏎b
a {%- raw -%} {{ x }} {%- endraw -%} b
{%raw%}{%endraw%}x
\t{% set a = 1 %}⏎\t{% set b = 2 %}\t⏎{{ a }}{{ b }}
 x {% set a = 1 %}⏎ y
{{ '{{' }} {{ '%}' }} {{ "}}" }} {{ {'a': {'b': 1}} }}
{{ 'a\nb' }} {a} {  %  #} }} %}
{% if 1 %}{% if 0 %}x{% else %}y{% endif %}{% endif %}
{% if 0 %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}
{% if true: %}x{% endif %}
{% for i in [1, 2, 3] %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for i in range(3) %}{% for j in range(2) %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{{ loop.index }};{% endfor %}
{% for c in 'aé日' %}[{{ c }}]{% endfor %}
{% for k in d %}{{ k }},{% endfor %}{% for k, v in d|items %}{{ k }}{{ v }}{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{{ loop.length }}{{ loop.last }}{% else %}none{% endfor %}
{% for x in l if x > 9 %}{{ x }}{% else %}none {{ l }}{% endfor %}
{% for x in l|map('string') %}{{ loop.length }}{{ x }}{{ loop.revindex }}{% endfor %}
{% for x in l|reverse %}{{ x }}{% endfor %}{% for x in l|sort|batch(2) %}{{ x }}{% endfor %}
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}
{% for x in l %}{% break %}{% else %}e{% endfor %}{% for x in l %}{% continue %}{% else %}e{% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}
{% for x in l %}{% set y = x %}{% endfor %}{{ y }}
{% set y = 0 %}{% for x in l %}{% set y = y + x %}{{ y }} {% endfor %}{{ y }}
{% set ns = namespace(y=0) %}{% for x in l %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}
{% set n = n + 1 %}{{ n }}{% if true %}{% set n = n + 1 %}{% endif %}{{ n }}
{% for n in [1] %}{{ n }}{% endfor %}{{ n }}
{% macro m(a, b=2, c=b) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(a=4, c=5) }} {{ m() }}
{% macro m() %}{{ n }}{{ later }}{% endmacro %}{{ m() }}{% set later = 'x' %}{{ m() }}
{% macro m() %}{% set n = 1 %}{{ n }}{% endmacro %}{{ m() }}{{ n }}
{% macro f(k) %}{{ k }}{% if k > 0 %}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% macro m() %}[{{ caller('a', 'b') }}]{% endmacro %}{% call(x, y) m() %}{{ x }}-{{ y }}-{{ n }}{% endcall %}
{% macro m(x) %}({{ x }}{{ caller() if caller }}){% endmacro %}{{ m(1) }}{% call m(2) %}c{% endcall %}{{ m(3)|upper }}{{ m(4)|length }}
{% macro m() %}x{% endmacro %}{{ m.name }}{{ m }}
{% set x %}a{{ n }}b{% endset %}[{{ x }}]{% set y | upper %}q{% endset %}{{ y }}
{% set x %}{% set z = 5 %}{{ z }}{% endset %}{{ x }}{{ z }}
{% filter trim %}  a {{ n }}  {% endfilter %}|{% filter replace('a', 'b')|upper %}aXa{% endfilter %}
{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}
{% set t = 1, 2 %}{{ t }}{% set u = 1, %}{{ u }}{{ 1, 2 }}
{% set ns = namespace(a=1) %}{% set ns.a, ns.b = 5, 6 %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}
{% set g = l|map('string') %}{{ g|list }}{{ g|list }}{{ g|first is defined }}
{% set g = l|map('string') %}{% for x in g %}{{ x }}{% break %}{% endfor %}{{ g|join }}
{% generation %}a{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}
{% if messages is defined and messages %}y{% else %}n{% endif %}
{% for x in undefined_thing %}{{ x }}{% else %}e{% endfor %}{{ undefined_thing }}
{% for u in users %}{{ u.name }}:{{ u.ok }}:{{ u.ok is defined }} {% endfor %}
{%- set z = 'a' -%} {{- z -}} {%- if z -%} b {%- endif %}
{% set range = 5 %}{{ range }}{% set namespace = 1 %}{{ namespace }}
{{ (x for x) if false else 1 }}
{{ [l[0], *l] }}
{% print 1, 'a' %}{% print n %}
{% for x in l %}{{ loop.changed(x > 1) }}{{ loop.cycle('a', 'b') }} {% endfor %}{% for x in l %}{{ loop }}{% endfor %}
{% for a in nested %}{% for b in a %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in l %}{{ loop.index0 }}{% set outer = loop %}{% for y in l %}{{ outer.index }}{% endfor %}{% endfor %}
{{ s|upper|lower|title|trim|length }}{{ 'a' if s|length > 3 else 'b' }}
{% if n > 5 and (s or no) and not (t and no) %}y{% endif %}
{% macro m() %}{% for x in l %}{{ x }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}{% endmacro %}{{ m() }}
{{ 'a'⏎ ~ 'b' }}{%⏎ if true⏎ %}c{%⏎ endif %}
{{ n }}{# {{ n }} {% if %} #}{{ n }}
{{-n-}}  {{- -n -}}
{% raw %}
{#
{%-if true%}a{%-endif%}
"""


def render(source, context):
    """The text, or None where Jinja2 refuses."""
    try:
        template = chat_template_utils._compile_jinja_template(source)
        template.globals["strftime_now"] = NOW.strftime
        return template.render(json.loads(json.dumps(context)))
    except Exception as error:  # whatever it refuses with
        assert not isinstance(error, (AssertionError, KeyboardInterrupt)), error
        return None


def template_cases():
    cases = []
    for path in sorted((ROOT / "templates").glob("*.jinja")):
        source = path.read_text()
        contexts = dict(CONTEXTS, **EXTRA.get(path.stem, {}))
        for name, context in contexts.items():
            prompts = [True, False] if name in ("one", "turns", "tool_call") else [True]
            for prompt in prompts:
                full = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": prompt}
                full.update(context)
                case = {"template": path.stem, "context": name, "prompt": prompt,
                        "output": render(source, full)}
                if name not in CONTEXTS:
                    case["extra"] = context
                cases.append(case)
    return cases


def expression_cases():
    sources = ["{{ [" + line + "] }}" for line in EXPRESSIONS.strip().split("\n")]
    # Each one alone too: printed as text and not as a repr.
    for line in EXPRESSIONS.strip().split("\n"):
        sources += ["{{ " + part + " }}" for part in top_level_parts(line)]
    sources += FAILING.strip().split("\n")
    sources += [line.replace("⏎", "\n").replace("␍", "\r") for line in SOURCES.strip().split("\n")]
    return [[source, render(source, VALUES)] for source in dict.fromkeys(sources)]


def top_level_parts(line):
    """The expressions that commas part at the top level."""
    parts, depth, quote, start, i = [], 0, None, 0, 0
    while i < len(line):
        c = line[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == quote:
                quote = None
        elif c in "'\"":
            quote = c
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(line[start:i].strip())
            start = i + 1
        i += 1
    parts.append(line[start:].strip())
    return [part for part in parts if part]


def write(name, data, **more):
    header = {"jinja2": jinja2.__version__, "transformers": transformers.__version__}
    path = ROOT / "golden" / name
    path.parent.mkdir(exist_ok=True)
    cases = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in data)
    head = json.dumps(dict(header, **more), ensure_ascii=False, separators=(",", ":"))
    path.write_text(head[:-1] + ',"cases":[\n' + cases + "\n]}\n")
    refused = sum((c["output"] if isinstance(c, dict) else c[1]) is None for c in data)
    print(f"{path.name}: {len(data)} cases, {refused} refused, {path.stat().st_size} bytes")


write("templates.json", template_cases(), contexts=CONTEXTS)
write("expressions.json", expression_cases(), values=VALUES)
