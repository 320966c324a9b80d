"""A message and a text -> whether the text says all of the message, in order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

from framework.core.samples import Message

_OPEN, _CLOSE = "<think>", "</think>"
_TAGS = re.compile(r"</?think>")
_NEVER_ESCAPED = re.compile(r"[ !#-&(-\[\]-~]{1,16}")
"""No quotes, backslashes or line ends, and ASCII only."""


def said_until(content: str, text: str, start: int, end: int) -> int:
    """Where `content` first ends in text[start:end]; -1 where it isn't there.

    White space around it doesn't count, and a template may write it as JSON or as Python does: then
    it is not what a later message says as it stands.
    """
    wanted = content.strip()
    if not wanted:
        return start
    place = text.find(wanted, start, end)
    reached = place + len(wanted) if place >= 0 else -1
    if place >= 0 and not _may_begin_before(place, wanted, text, start):
        return reached
    for write in _ESCAPED:
        form = write(wanted)
        place = text.find(form, start, end if reached < 0 else reached)
        if place >= 0:
            reached = place + len(form)
    return reached


def _may_begin_before(place: int, wanted: str, text: str, start: int) -> bool:
    """Whether text[start:] may have another form of `wanted` that begins before `place`: no form is
    shorter, and all begin alike as far as nothing is escaped."""
    alike = _NEVER_ESCAPED.match(wanted)
    if alike is None:
        return place > start
    return text.find(alike.group(), start, place + alike.end() - 1) >= 0


def unsaid_part(message: Message, text: str, start: int, end: int) -> str | None:
    """The first part of an assistant's message that text[start:end] lacks, None if it has all."""
    position = start
    for kind, part in _parts(message):
        position = said_until(part, text, position, end)
        if position < 0:
            return f"{kind} {part.strip()[:40]!r}"
    return None


def thinking_and_rest(content: str) -> tuple[str, str]:
    """An answer's text before `</think>`, without the tag that opens it, and what follows; rows in
    which that tag stands more than once are refused before."""
    before, closing, rest = content.rpartition(_CLOSE)
    return (before.rpartition(_OPEN)[2], rest) if closing else ("", content)


def _parts(message: Message) -> Iterator[tuple[str, str]]:
    if message.reasoning:
        yield "the thinking", message.reasoning
    if "think>" in message.content:
        for part in _TAGS.split(message.content):
            yield "the content", part
    else:
        yield "the content", message.content
    for call in message.tool_calls:
        yield "the call of", call.name
        yield from _arguments(call.arguments)


def _arguments(arguments: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in arguments.items():
        yield "the argument", str(name)
        if isinstance(value, str):
            yield "the argument's value", value


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _ascii(text: str) -> str:
    return json.dumps(text)[1:-1]


_ESCAPED: tuple[Callable[[str], str], ...] = (
    _json,
    _ascii,
    lambda text: repr(text)[1:-1],
    lambda text: _json(_json(text)),
    lambda text: _ascii(_ascii(text)),
)
