"""A probe's rendering -> what is wrong with it whatever its turns are: BOS, tokens, dates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import jinja2

from framework.chat.template import rendering_clock, template_variables
from framework.chat.template_header import add_tokens_hint, split_tokens
from framework.chat.tokens import Rendered, common_length
from framework.lint.template_case import Case, Fault

_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<\uff5c[^<>\uff5c\s]{1,40}\uff5c>|\[/?[A-Z][A-Z_]+\]"
    r"|<(?:start|end)_of_\w+>|</?s>|<(?:bos|eos)>"
)
"""What looks like a special token."""


def template_faults(case: Case) -> Iterator[Fault]:
    """What needs no comparison of turns: BOS, split special tokens, dates, other servers."""
    yield from _bos_faults(case)
    yield from _split_faults(case)
    yield from _date_faults(case)
    yield from _serving_faults(case)


def _bos_faults(case: Case) -> Iterator[Fault]:
    rendered = Rendered.of(case.full, case.vocabulary)
    bos = case.vocabulary.tokenizer.bos_token_id
    tokens, prefix = rendered.tokens, case.vocabulary.prefix
    begins = bool(prefix) and tuple(tokens[: len(prefix)]) == prefix
    if isinstance(bos, int) and tokens[:2] == [bos, bos]:
        yield Fault(
            rule="double_bos",
            what="the rendering begins with BOS twice",
            hint="take one `bos_token` out of the template",
            trained=(case.full, rendered.offsets[1][0]),
        )
    elif bos in tokens[1:] and bos not in case.stops.ids and not _bos_opens_turns(case):
        yield Fault(
            rule="repeated_bos",
            what="BOS stands inside the rendering too, where a model takes it for the start of "
            "another text",
            hint="write `bos_token` once, before the first message",
            trained=(case.full, rendered.offsets[tokens.index(bos, 1)][0]),
        )
    if prefix and begins:
        yield Fault(
            rule="tokenizer_adds_bos",
            what=f"the template begins with {case.vocabulary.text_of(prefix[0])!r}, and the "
            "tokenizer puts it before every text too; here it is written once",
            hint="a server that tokenizes rendered text must not add special tokens",
            trained=(case.full, 0),
        )
    elif (prefix and not begins) or (case.header.writes_bos and bos is None):
        name = repr(case.vocabulary.text_of(prefix[0])) if prefix else "BOS"
        what = (
            f"the tokenizer begins every text with {name}, the template does not"
            if prefix
            else "the template begins with BOS, and this tokenizer has none"
        )
        yield Fault(
            rule="no_bos",
            what=what,
            hint="see that the model's own template does the same",
            trained=(case.full, 0),
        )


def _bos_opens_turns(case: Case) -> bool:
    """Whether BOS is meant to be in the middle: in ChatML some models call `<|im_start|>` so."""
    if case.header.repeats_bos:
        return True
    opened = case.prompt(case.answers[0]).removeprefix(case.until(case.answers[0]))
    tokens = case.vocabulary.encode(opened).ids
    read = template_variables(case.template)
    return case.vocabulary.tokenizer.bos_token_id in tokens and "bos_token" not in read


def _split_faults(case: Case) -> Iterator[Fault]:
    header = case.header
    if header.declares:
        wanted = header.special_tokens + (header.tool_tokens if case.conversation.tools else ())
    elif case.own_template:
        wanted = ()
    else:
        wanted = tuple(dict.fromkeys(_CONTROL.findall(case.full)))
    split = split_tokens(wanted, case.vocabulary)
    if split:
        yield Fault(
            rule="split_special_token",
            what=f"{', '.join(map(repr, split))} would be read letter by letter: this tokenizer "
            "has no such token",
            hint=add_tokens_hint(split),
            trained=(case.full, max(case.full.find(split[0]), 0)),
        )


def _date_faults(case: Case) -> Iterator[Fault]:
    def on(day: str) -> str:
        def clock(pattern: str) -> str:
            return f"{pattern}@{day}"

        variables = {**case.template.variables, "strftime_now": clock}
        return replace(case.template, variables=variables).render(
            case.messages, case.tools, add_generation_prompt=False
        )

    one, other = on("one"), on("other")
    if one != other:
        same = common_length(one, other)
        yield Fault(
            rule="date_dependent",
            what=f"the template writes the date: {case.full[max(same - 30, 0) :][:60]!r}; what is "
            "trained has the day on which it was prepared, what is served has its own",
            hint="write it in `tokenizer.template_arguments` if the template takes one",
            trained=(case.full, min(same, len(case.full))),
        )


def _serving_faults(case: Case) -> Iterator[Fault]:
    for index in case.answers:
        prompt = case.prompt(index)
        # Of the time, that of training: a template can't do otherwise here for knowing another.
        now = rendering_clock()
        arguments = {"strftime_now": now, **case.template.variables}
        with_tools = case.template.text_with_tools if case.tools else ""
        try:
            served = case.vocabulary.tokenizer.apply_chat_template(
                case.messages[:index],
                tools=case.tools or None,  # pyright: ignore[reportArgumentType]
                chat_template=with_tools or case.template.text,
                add_generation_prompt=True,
                tokenize=False,
                **arguments,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            served = f"{type(error).__name__}: {error}"
        if served != prompt:
            same = common_length(str(served), prompt)
            yield Fault(
                rule="serving_differs",
                what=f"transformers serves {str(served)[same:][:40]!r} before "
                f"{case.called(index)}, training has {prompt[same:][:40]!r}",
                hint="write a `tokenizer.chat_template` that needs nothing but messages and tools",
                trained=(prompt, same),
                served=(str(served), same),
            )


def default_system_faults(case: Case) -> Iterator[Fault]:
    """A text before the first user message that does not stand before the second."""
    first, answer, second = (case.conversation.messages[at].content for at in (0, 1, 2))
    full = case.full
    special = case.vocabulary.special_text(case.vocabulary.special)
    before = special.sub("", full[: full.find(first)])
    between = special.sub("", full[full.find(answer) + len(answer) : full.find(second)])
    same = common_length(before[::-1], between[::-1])
    extra = before[: len(before) - same].strip()
    # What the template declares is not silent.
    if extra != case.header.default_system and any(letter.isalpha() for letter in extra):
        yield Fault(
            rule="default_system",
            what=f"where the data has no system message, the template puts one in: "
            f"{' '.join(extra.split())[:80]!r}",
            hint="write a system message into the data if you want another",
            trained=(full, full.find(extra)),
        )
