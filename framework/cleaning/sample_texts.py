"""A sample of any type -> its texts and where they stand, and the sample with other texts."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from framework.core.cleaning import Excerpt
from framework.core.samples import Message, Sample

_NO_TEXT = frozenset({"role", "name", "identifier", "tool_call_id", "tools", "label", "labels"})
"""Fields that name something, or that a program reads."""

_ANSWERS = frozenset({"assistant", "completion", "chosen", "rejected", "steps"})
"""Roles and fields that hold what a model learns to say."""

_QUESTIONS = frozenset({"user", "tool", "prompt"})
"""Roles and fields that are a prompt though no answer follows."""

_ASIDE = frozenset({"system", "columns"})
"""Roles and fields that many rows share, or that no model reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One text of a sample."""

    where: str
    """Such as `messages[1].content`."""
    role: str
    """The role of a message, else the field of the sample: `prompt`, `completion`, `text` ..."""
    text: str

    @property
    def is_answer(self) -> bool:
        """Whether a model learns to say it, rather than reads it."""
        return self.role in _ANSWERS

    @property
    def is_own(self) -> bool:
        """Whether it is the row's own: neither the system's words nor a column beside."""
        return self.role not in _ASIDE


def texts(sample: Sample) -> Iterator[Text]:
    """Every text that is not empty, in order: of messages, their thinking and their tool calls."""
    return (one for one in _walk(sample, "", "") if one.text)


def own_text(sample: Sample) -> str:
    """What the row itself says, text below text, without the system's words."""
    return "\n".join(one.text for one in texts(sample) if one.is_own)


def prompt_of(sample: Sample) -> str:
    """What the row says before the answers, without the system's words; empty for raw text."""
    own = [one for one in texts(sample) if one.is_own]
    if not any(one.is_answer for one in own):
        own = [one for one in own if one.role in _QUESTIONS]
    return "\n".join(one.text for one in own if not one.is_answer)


def beginning(sample: Sample) -> tuple[Excerpt, ...]:
    """The first text of a sample, to show which row is meant; nothing where it has none."""
    first = itertools.islice(texts(sample), 1)
    return tuple(Excerpt(where=one.where, before=one.text) for one in first)


def with_texts(sample: Sample, change: Callable[[Text], str]) -> Sample:
    """The sample with `change` applied to every text; the very same one if none differs."""
    return _changed(sample, "", "", change)


@functools.cache
def _fields(owner: type) -> tuple[str, ...]:
    return tuple(one.name for one in dataclasses.fields(owner) if one.name not in _NO_TEXT)


def _parts(value: Any, where: str, role: str) -> Iterator[tuple[Any, Any, str, str]]:
    """(key, part, where, role) of a dataclass's fields, a tuple's or a list's items, a mapping."""
    if dataclasses.is_dataclass(value):
        if isinstance(value, Message):
            role = value.role
        for name in _fields(type(value)):
            place = f"{where}.{name}" if where else name
            yield name, getattr(value, name), place, role or name
    elif isinstance(value, (tuple, list)) and value and not isinstance(value[0], (int, float)):
        for index, item in enumerate(value):
            yield index, item, f"{where}[{index}]", role
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key, item, f"{where}.{key}", role


def _walk(value: Any, where: str, role: str) -> Iterator[Text]:
    if isinstance(value, str):
        yield Text(where=where, role=role, text=value)
        return
    for _, part, place, part_role in _parts(value, where, role):
        yield from _walk(part, place, part_role)


def _changed(value: Any, where: str, role: str, change: Callable[[Text], str]) -> Any:
    if isinstance(value, str):
        now = change(Text(where=where, role=role, text=value)) if value else value
        return value if now == value else now
    new = {
        key: now
        for key, part, place, part_role in _parts(value, where, role)
        if (now := _changed(part, place, part_role, change)) is not part
    }
    if not new:
        return value
    if isinstance(value, Mapping):
        return {**value, **new}
    if isinstance(value, (tuple, list)):
        return type(value)(new.get(index, item) for index, item in enumerate(value))
    return dataclasses.replace(value, **new)
