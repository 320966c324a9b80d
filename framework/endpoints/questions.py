"""A recipe's prompt, in Jinja, and a sample or a row -> the text that a model is asked."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from framework.core.problems import Problem, UserError, did_you_mean
from framework.core.samples import Completion, Conversation, Document, Message, RowError, Sample

SHOWN_SAMPLES = (Conversation, Completion, Document)
"""Kinds of sample that can be put into a prompt."""

VARIABLES = ("answer", "prompt", "text")
"""What a prompt about a sample may use: the last answer, what stands before it, and both."""

Target = Literal["answer", "prompt"]


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The prompt's text.

    Raises:
        RowError: it uses a variable that is not there, or fails on the values.
        UserError: it takes more time or memory than any real prompt.
    """
    from framework.core.sandbox import FAILURES, render_bounded
    from framework.core.template_bounds import TemplateExceeds

    try:
        return render_bounded(_compiled(template), variables)
    except TemplateExceeds as error:
        raise UserError(f"the prompt {error}: {template[:80]!r}", "write a simpler one") from None
    except FAILURES as error:
        names = ", ".join(sorted(variables))
        raise RowError(f"the prompt fails: {error}", f"it can use: {names}") from None


def sample_template_problems(
    template: str, key: str, further: Collection[str] = ()
) -> Iterator[Problem]:
    """What is wrong with a prompt about a sample.

    Args:
        key: of the setting, with a leading dot.
        further: variables besides `VARIABLES`, none of which shows the sample.
    """
    used = _used(template, key)
    if isinstance(used, Problem):
        yield used
        return
    unknown = used - {*VARIABLES, *further}
    for name in sorted(unknown):
        hint = did_you_mean(name, (*VARIABLES, *further))
        yield Problem(key=key, what=f"there is no variable {name!r}", hint=hint)
    if not unknown and not used & {*VARIABLES, "target"}:
        hint = "write one of these in it: {{ prompt }}, {{ answer }}, {{ text }}"
        yield Problem(key=key, what="shows nothing of the sample", hint=hint)


def row_template_problems(template: str, key: str) -> Iterator[Problem]:
    """What is wrong with a prompt about a row, whose columns are not known yet."""
    used = _used(template, key)
    if isinstance(used, Problem):
        yield used
    elif not used:
        yield Problem(
            key=key,
            what="uses no column, so that every row asks the same",
            hint="write a column's name in it: `{{ topic }}`",
        )


def _used(template: str, key: str) -> set[str] | Problem:
    """The variables that a template uses, or why it is none."""
    import jinja2
    import jinja2.meta

    try:
        parsed = _environment().parse(template)
    except jinja2.TemplateSyntaxError as error:
        return Problem(key=key, what=f"line {error.lineno} is not Jinja: {error.message}")
    return jinja2.meta.find_undeclared_variables(parsed) - {"range"}


def sample_variables(sample: Sample) -> dict[str, str]:
    """`VARIABLES` of a sample.

    Raises:
        RowError: it is none of `SHOWN_SAMPLES`.
    """
    if isinstance(sample, Document):
        return {"prompt": "", "answer": sample.text, "text": sample.text}
    if isinstance(sample, Completion):
        both = sample.prompt + sample.completion
        return {"prompt": sample.prompt, "answer": sample.completion, "text": both}
    sample = _conversation(sample)
    at = _last(sample, "assistant")
    before = sample.messages if at is None else sample.messages[:at]
    return {
        "prompt": _talk(before),
        "answer": "" if at is None else _said(sample.messages[at]),
        "text": _talk(sample.messages),
    }


def part_of(sample: Sample, target: Target) -> str:
    """The text that `with_part` replaces, empty when the sample has none.

    Of a conversation that is the content of the last assistant, or of the last user.

    Raises:
        RowError: it is none of `SHOWN_SAMPLES`.
    """
    if isinstance(sample, Document):
        return sample.text if target == "answer" else ""
    if isinstance(sample, Completion):
        return sample.completion if target == "answer" else sample.prompt
    sample = _conversation(sample)
    at = _last(sample, _ROLES[target])
    return "" if at is None else sample.messages[at].content


def with_part(sample: Sample, target: Target, text: str) -> Sample:
    """The sample with another text in the place of `part_of`."""
    if isinstance(sample, Document):
        return replace(sample, text=text)
    if isinstance(sample, Completion):
        changed = {"completion" if target == "answer" else "prompt": text}
        return replace(sample, **changed)
    sample = _conversation(sample)
    at = _last(sample, _ROLES[target])
    assert at is not None, "only what is there is replaced"
    message = replace(sample.messages[at], content=text)
    messages = (*sample.messages[:at], message, *sample.messages[at + 1 :])
    return replace(sample, messages=messages)


def _conversation(sample: Sample) -> Conversation:
    if not isinstance(sample, Conversation):
        raise RowError(f"a {type(sample).__name__} can't be put into a prompt")
    return sample


_ROLES = {"answer": "assistant", "prompt": "user"}


def _last(sample: Conversation, role: str) -> int | None:
    numbers = range(len(sample.messages) - 1, -1, -1)
    return next((at for at in numbers if sample.messages[at].role == role), None)


def _talk(messages: tuple[Message, ...]) -> str:
    return "\n\n".join(f"{message.role}: {_said(message)}" for message in messages)


def _said(message: Message) -> str:
    calls = (
        json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
        for call in message.tool_calls
    )
    return "\n".join(part for part in (message.content, *calls) if part)


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    from framework.core.sandbox import compile_template

    return compile_template(_environment(), template)


@functools.cache
def _environment() -> Any:
    import jinja2

    from framework.core.sandbox import BoundedEnvironment

    environment = BoundedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
    environment.globals = {"range": environment.globals["range"]}
    return environment
