# ruff: noqa: E501 - a template is read best in one line
"""A rendering that is filled in is the one that the template would have made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from chat_families import CHATML, byte_level_tokenizer, template_folder

from framework.chat.template import ChatTemplate, load_template
from framework.core.samples import RowError
from framework.recipe.chat_templates import TEMPLATE_FOLDER

KINDS = (
    ("user",),
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("assistant", "user"),
    ("user", "user"),
)
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
TEXTS = (
    "Hello",
    "",
    "  \n padded\t\n",
    "<think>\nhm\n</think>\n\nYes.",
    "</think>",
    "{{ 7 * 7 }}{% raw %}",
    "user",
    "a 'b' \"c\" <d> & \\n",
    "[INST] x [/INST]",
    "0",
    "éÉ日本",
    "<|im_start|>system\nYou",
    "[AVAILABLE_TOOLS]",
    "a" * 5000,
    "a" * 20_000,
)
LOOKS = """
{% if text %}yes{% endif %}
{% if not text %}no{% endif %}
{{ text or 'nothing' }}
{{ text and 'something' }}
{{ 'a' if text else 'b' }}
{{ text == 'user' }}
{{ text != '0' }}
{{ text < 'b' }}
{{ 'think' in text }}
{{ text in 'a user' }}
{{ text in ['user', '0'] }}
{{ text in {'user': 1} }}
{{ text not in 'user' }}
{{ [text] == ['user'] }}
{{ {'a': text} == {'a': '0'} }}
{{ {'user': 1, '0': 2}[text] }}
{{ {'user': 1, '0': 2}.get(text, 3) }}
{{ ['user', '0'].index(text) }}
{{ ['user', '0'].count(text) }}
{{ text|length }}
{{ text|upper }}
{{ text|default('x', true) }}
{{ text|int }}
{{ text|float(3) }}
{{ text|list|length }}
{{ text|first }}
{{ text|reverse }}
{{ text|replace('a', 'b') }}
{{ 'ab'|replace('a', text) }}
{{ text|tojson }}
{{ [text]|tojson }}
{{ messages|tojson }}
{{ [text, text]|unique|list|length }}
{{ [text, 'b', 'c']|sort|join }}
{{ [text, 'b']|max }}
{{ [text, '']|select|list|length }}
{{ [text]|map('int')|list }}
{{ [text]|map('length')|first }}
{{ messages|map(attribute='content')|map('upper')|join }}
{{ messages|selectattr('content')|list|length }}
{{ messages|selectattr('content', 'eq', 'user')|list|length }}
{{ [text]|join('-') }}
{{ '-'.join([text, 'b']) }}
{{ [text]|string }}
{{ text|string|length }}
{{ text|trim('a') }}
{{ text|e }}
{{ text is lower }}
{{ text is eq('user') }}
{{ 'user' is eq(text) }}
{{ 'user' is in(text) }}
{{ text is in('user 0') }}
{{ text is sameas(text) }}
{{ text is escaped }}
{{ text is odd }}
{{ text.startswith('  ') }}
{{ 'user'.startswith(text) }}
{{ text.strip() == text }}
{{ text.strip().split('\\n')|length }}
{{ text.strip('a') }}
{{ text.upper() }}
{{ text.split('</think>')|last }}
{{ text.split is defined }}
{{ text.nothing is defined }}
{{ text['nothing'] is defined }}
{{ text[0] }}
{{ text[:2] }}
{{ 'abc'[text|length] }}
{% for letter in text %}{{ letter }}{% endfor %}
{% for one in messages if one.content %}x{% endfor %}
{% for one in messages %}{{ loop.changed(one.content) }}{% endfor %}
{% set a, b = text %}{{ a }}
{{ '%s!' % text }}
{{ '%s!' % [text] }}
{{ '%5s'|format(text) }}
{{ '{}'.format(text) }}
{{ text * 2 }}
{{ 2 * text }}
{{ text % 2 }}
{{ text - 1 }}
{{ -text }}
{{ text + 1 }}
{{ 1 + text }}
{{ range(text|length)|list }}
{{ range(3)|list|join(text) }}
{{ raise_exception(text) }}
{{ strftime_now(text) }}
{% filter upper %}{{ text }}{% endfilter %}
{% set x %}{{ text }}{% endset %}{{ x|length }}
{% macro f(t) %}{{ t|upper }}{% endmacro %}{{ f(text) }}
{% macro f(t) %}{% if t == '0' %}zero{% endif %}{{ t }}{% endmacro %}{{ f(text) }}
{% set ns = namespace(x=text) %}{% if ns.x %}yes{% endif %}
{{ (text ~ 'a')|length }}
{{ (text + 'a') == '0a' }}
{{ (text ~ 'a').strip() }}
{{ dict(a=text) }}
{{ (text,)|list }}
{{ text.strip }}
{{ text|attr('upper') is defined }}
""".strip().split("\n")
"""Templates that do more with a text than to write it."""
PASSES_ON = """
{{ text }}
{{ text }}{{ text }}
{{ text|trim }}
{{ text.strip() }}
{{ text ~ 1 ~ none }}
{{ 'a' + text + 'b' }}
{{ ('a' + text) ~ (text + 'b') }}
{{ text if text is string else text|tojson }}
{% if text is not none and text is defined and text is iterable %}{{ text }}{% endif %}
{% if text is mapping or text is number or text is undefined %}odd{% else %}{{ text }}{% endif %}
{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x ~ m.content %}{% endfor %}{{ ns.x }}
{% macro f(t) %}[{{ t }}]{% endmacro %}{{ f(text) ~ f(t=text) }}
{% set x %}({{ text }}){% endset %}{{ x }}
{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ loop.index }}{% endfor %}
{% for key, value in messages[0].items() %}{{ key }}={{ value }}{% endfor %}
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{{ [text, 'b']|first }}{{ {'a': text}['a'] }}
{{ messages|map(attribute='content')|first }}
{{ messages|length }}{{ bos_token }}{{ strftime_now('%Y') }}
""".strip().split("\n")
"""Templates that only write it."""


def messages_of(roles: Sequence[str], texts: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


def rendered(render: Callable[[], str]) -> str:
    try:
        return render()
    except RowError as error:
        return f"refused: {error.what}"


def num_equal(text: str, kinds: Sequence[Sequence[str]], *, filled: bool | None = None) -> int:
    """Of how many texts a template makes what it makes without outlines, one rendering before."""
    found = 0
    for roles, ask in itertools.product(kinds, (False, True)):
        template = ChatTemplate(text=text, variables=VARIABLES)
        first = messages_of(roles, [f"text {place}" for place in range(len(roles))])
        rendered(lambda: template.render(first, add_generation_prompt=ask))  # noqa: B023
        for at in range(len(TEXTS)):
            texts = [TEXTS[(at + 4 * place) % len(TEXTS)] for place in range(len(roles))]
            asked = messages_of(roles, texts)
            ours = rendered(lambda: template.render(asked, add_generation_prompt=ask))  # noqa: B023
            assert ours == rendered(lambda: template._rendering(asked, (), ask))  # noqa: B023
            found += 1
        if filled is not None:
            assert any(template._outlines.values()) == filled
    return found


@pytest.mark.parametrize("template", LOOKS)
def test_a_template_that_looks_at_a_text_is_rendered_every_time(template: str):
    text = "{% set text = messages[-1].content %}" + template
    assert num_equal(text, KINDS[:2], filled=False) == 4 * len(TEXTS)


@pytest.mark.parametrize("template", PASSES_ON)
def test_a_template_that_passes_texts_on_is_filled_in(template: str):
    text = "{% set text = messages[-1].content %}" + template
    assert num_equal(text, KINDS[:2], filled=True) == 4 * len(TEXTS)


def test_every_known_template_makes_the_same_of_all_texts():
    files = [*template_folder().glob("*.jinja"), *TEMPLATE_FOLDER.glob("*.jinja")]
    assert len(files) >= 90
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert num_equal(text, KINDS[2:]) == 8 * len(TEXTS)


def test_most_named_templates_are_filled_in():
    kinds = [(("system", "user", "assistant"), False), (("system", "user"), True)]
    filled = []
    for path in sorted(TEMPLATE_FOLDER.glob("*.jinja")):
        template = ChatTemplate(text=path.read_text(encoding="utf-8"), variables=VARIABLES)
        for roles, ask in kinds:
            template.render(messages_of(roles, roles), add_generation_prompt=ask)
        filled += [path.stem] if None not in template._outlines.values() else []
    assert len(filled) >= 21


def test_messages_with_more_than_a_text_are_rendered_every_time():
    template = ChatTemplate(text="{% for m in messages %}{{ m.name }}{{ m.content }}{% endfor %}")
    for name in ("ann", "bob"):
        asked = [{"role": "user", "content": "x", "name": name}]
        assert template.render(asked, add_generation_prompt=False) == f"{name}x"
    parts = [{"role": "user", "content": ["x"]}]
    assert template.render(parts, add_generation_prompt=False) == "['x']"
    other_way_round = ChatTemplate(text="{{ messages[0].values()|first }}")
    for text in ("x", "y"):
        turned = [{"content": text, "role": "user"}]
        assert other_way_round.render(turned, add_generation_prompt=False) == text
    assert not template._outlines
    assert not other_way_round._outlines


def test_tools_are_rendered_every_time():
    template = ChatTemplate(text="{{ messages[0].content }}{{ tools }}")
    asked = messages_of(("user",), ("x",))
    assert template.render(asked, add_generation_prompt=False) == "xNone"
    assert template.render(asked, [{"name": "f"}], add_generation_prompt=False) == (
        "x[{'name': 'f'}]"
    )


def test_the_recipes_arguments_are_in_what_is_filled_in():
    tokenizer = byte_level_tokenizer(CHATML, bos="<s>", eos="</s>")
    for argument in ("a", "b"):
        template = load_template(
            "{{ bos_token }}{{ argument }}{{ messages[0].content }}",
            tokenizer,
            {"argument": argument},
        )
        assert template is not None
        for text in ("x", "y"):
            asked = messages_of(("user",), (text,))
            assert template.render(asked, add_generation_prompt=False) == f"<s>{argument}{text}"
