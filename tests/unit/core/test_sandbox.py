# ruff: noqa: E501 - a template is read best in one line
"""Templates that would run forever, fill the memory or leave the sandbox end in an error, soon."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from framework.core.sandbox import (
    FAILURES,
    BoundedEnvironment,
    compile_template,
    render_bounded,
)
from framework.core.template_bounds import TemplateExceeds

BIG = "{% set ns = namespace(x='0123456789' * 100000) %}"
"""A megabyte in `ns.x`."""
TOWER = "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = ITEM %}{% endfor %}"

HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a loop in a loop's head": "{% for a in range(99999) if range(99999)|list|length == 1 %}{% endfor %}",
    "macros that call themselves twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a recursive loop": "{% for a in range(999) recursive %}{{ loop(range(999)) if loop.depth < 9 }}{% endfor %}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "blocks without end": "{% block a %}{{ self.a() }}{% endblock %}",
    "a long text": "{{ 'x' * 10**10 }}",
    "a long text, set": "{% set x = 10**9 * 'x' %}",
    "a long list": "{% set x = [0] * 10**9 %}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "a product": "{% set ns = namespace(x=7) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a remainder of large numbers": "{% set x = ('f' * 9999999)|int(base=16) % 3 %}{{ 1/0 }}",
    "doubling with ~": BIG + "{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling with +": BIG + "{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling with a block": BIG
    + "{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling with a macro": BIG
    + "{% macro f(t) %}{{ t }}{{ t }}{% endmacro %}{% for i in range(99) %}{% set ns.x = f(ns.x) %}{% endfor %}",
    "one text many times": BIG + "{% for i in range(99999) %}{{ ns.x }}{% endfor %}",
    "many texts of one": BIG + "{% for i in range(99999) %}{{ ns.x ~ i }}{% endfor %}",
    "joining": BIG + "{{ range(99999)|join(ns.x) }}",
    "joining by method": BIG + "{{ ns.x.join(['', ''] * 9999) }}",
    "replacing": BIG + "{{ ns.x.replace('0', ns.x) }}",
    "replacing by filter": BIG + "{{ ns.x|replace('', ns.x) }}",
    "an indentation": "{{ 'a\\n'|indent(10**10) }}",
    "an indentation by text": BIG + "{{ ('a\\n' * 99999)|indent(ns.x) }}",
    "padding": "{{ 'a'.ljust(10**10) }}",
    "padding by filter": "{{ 'a'|center(10**10) }}",
    "padding by %": "{{ '%9999999999d' % 1 }}",
    "padding by a width that is passed": "{{ '%*d' % (10**10, 1) }}",
    "padding by the filter format": "{{ '%9999999999d'|format(1) }}",
    "padding by format": "{{ '{:>9999999999}'.format(1) }}",
    "padding by a width in format": "{{ '{:{}}'.format(1, 10**9) }}",
    "filling in": BIG + "{{ ('%s' * 99999) % (([ns.x] * 99999)) }}",
    "filling in by name": BIG + "{{ ('%(a)s' * 99999) % {'a': ns.x} }}",
    "filling in by format": BIG + "{{ ('{0}' * 99999).format(ns.x) }}",
    "a translation": BIG + "{{ ns.x.translate({48: ns.x}) }}",
    "a list of itself": TOWER.replace("ITEM", "[ns.x, ns.x]") + "{{ ns.x }}",
    "a tuple of itself as a key": TOWER.replace("ITEM", "(ns.x, ns.x)") + "{{ {ns.x: 1} }}",
    "a mapping of itself": TOWER.replace("ITEM", "{'a': ns.x, 'b': ns.x}") + "{{ ns.x|tojson }}",
    "dict() of itself": TOWER.replace("ITEM", "dict(a=ns.x, b=ns.x)") + "{{ ns.x }}",
    "lists in a sum": TOWER.replace("ITEM", "[ns.x] + [ns.x]") + "{{ ns.x == [] }}",
    "lists in a product": TOWER.replace("ITEM", "[ns.x] * 9") + "{{ ns.x }}",
    "arguments of itself": "{% macro f(n) %}{% if n %}{{ f(n-1, varargs, varargs) }}{% else %}{{ {varargs: 1} }}"
    "{% endif %}{% endmacro %}{{ f(60) }}",
    "namespaces as text": "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{{ [ns] }}",
    "chained filters": "{{ range(99999)" + "|map('string')" * 4000 + "|join }}",
    "long comparisons": BIG
    + "{% set ns.x = ns.x * 15 %}"
    + "{% if ns.x + 'a' in ns.x %}{% endif %}" * 1000,
    "long sorts": "{% set x = range(99999)|map('string')|list %}"
    + "{% if x|sort %}{% endif %}" * 1000,
    "lipsum": "{{ lipsum(n=10**9) }}",
    "cycler": "{{ cycler('a').next() }}",
    "a large template": "x" * 70_000,
    "deep nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a wide format of a time": "{{ strftime_now('%9999999d') }}",
    "rounding": "{{ 1|round(10**9, 'floor') }}",
    "indented JSON": "{{ [1]|tojson(indent=10**10) }}",
    "separated JSON": BIG + "{{ range(9999)|list|tojson(separators=(ns.x, ns.x)) }}",
    "bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "batches": "{{ [1]|batch(10**9, 'x')|list }}",
}

ESCAPES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes by filter": "{{ ''|attr('__class__') }}",
    "classes by item": "{{ ''['__class__']['__mro__'] }}",
    "classes by map": "{{ ['']|map(attribute='__class__')|list }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f.__globals__ }}",
    "globals of a function": "{{ namespace.__init__.__globals__ }}",
    "globals of one that was taken away": "{{ lipsum.__globals__['os'].system('touch canary') }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "format by map": "{{ ['{0.__class__}']|map('format', '')|list ~ 1/0 }}",
    "the environment": "{{ self.__init__.__globals__ }}",
    "a template's code": "{{ self._TemplateReference__context }}",
    "the frame of a generator": "{{ ([1]|map('string')).gi_frame.f_globals }}",
    "another file": "{% include '/etc/passwd' %}",
    "another template": "{% import 'os' as os %}{{ os }}",
    "changing the data": "{{ data.append(1) }}",
    "hidden attributes": "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "hidden attributes by item": "{% set ns = namespace() %}{% set ns['__class__'] = 1 %}",
}


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """2 GiB more than the process has now: what asks for more fails, and this machine lives on."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    now = int(pages) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def render(text: str) -> str:
    return render_bounded(compile_template(BoundedEnvironment(), text), {"data": [1]})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_without_bounds_ends_in_an_error_within_two_seconds(name):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Of this thread alone: what other tests left running in this process is not the template's.
    started = time.thread_time()
    with pytest.raises((TemplateExceeds, *FAILURES)) as raised:
        render(HOSTILE[name])
    assert time.thread_time() - started < 2
    assert not isinstance(raised.value, MemoryError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 600 << 10


@pytest.mark.parametrize("name", ESCAPES)
def test_a_template_can_not_leave_the_sandbox(name):
    try:
        text = render(ESCAPES[name])
    except FAILURES:
        return
    assert text in {"", "[Undefined]"}, "what may not be had is undefined"


def test_what_the_sandbox_leaves_out_is_still_defined_as_where_it_is_served():
    assert render("{{ lipsum is defined }} {{ ''.center is defined }}") == "True True"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{{ 1 }}{{ none }}{{ [1, 'a'] }}{{ missing }}", "1None[1, 'a']"),
        ("{{ 'a' ~ 1 ~ none }}", "a1None"),
        ("{{ 'a' + 'b' + 'c' }}{{ 1 + 2 + 3.5 }}{{ ([1] + [2])|length }}", "abc6.52"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x }}", "a1"),
        ("{{ '%s-%02d' % ('a', 3) }}{{ '%s'|format(1) }}{{ '{:>3}'.format(7) }}", "a-031  7"),
        ("{{ [3, 1]|sort|join(',') }}{{ 'a-b'.split('-')|map('upper')|list }}", "1,3['A', 'B']"),
        ("{{ 'aa'.replace('a', 'bc', 1) }}{{ 'aa'|replace('a', 'b') }}", "bcabb"),
        ("{{ 'a\nb'|indent(2) }}{{ 2.567|round(1) }}{{ '7'|int + [1, 2]|sum }}", "a\n  b2.610"),
        ("{% for x in [1, 2] %}{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}", "1, 2"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "a1"),
        ("{{ {'a': 1}.get('b', 2) }}{{ 'abc'[1:] }}{{ [1, 2, 3][-1] }}", "2bc3"),
        ("{% if 2 in [1, 2] and 1 < 2 <= 2 and 3 is divisibleby(3) %}y{% endif %}", "y"),
        (
            "{% macro f(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{% endmacro %}{{ f(1, 3, 4) }}",
            "13(4,)",
        ),
        ("{{ '<' | escape }}{{ ('<'|safe) + '&' }}", "&lt;<&amp;"),
    ],
)
def test_what_templates_do_is_what_jinja_does(text, wanted):
    assert render(text) == wanted


def test_a_long_conversation_stays_within_the_bounds():
    text = "{% for m in messages %}{{ '<' + m.role + '>' + m.content|trim + '\\n' }}{% endfor %}"
    messages = [{"role": "user", "content": "word " * 200} for _ in range(4000)]
    compiled = compile_template(BoundedEnvironment(), text)
    assert len(render_bounded(compiled, {"messages": messages})) > 4_000_000
