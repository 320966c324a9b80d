"""Calls and results that stand in a turn's text, in tags -> tool calls and tool turns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from framework.core.samples import Message, ToolCall
from framework.reading.strict_json import BrokenJson, parse_json

_OPEN = "<tool_call>"
_CALLS = re.compile(r"(?:<tool_call>(?:(?!</tool_call>).)*</tool_call>\s*)+", re.DOTALL)
_CALL = re.compile(r"<tool_call>((?:(?!</tool_call>).)*)</tool_call>", re.DOTALL)
_RESULTS = re.compile(
    r"(?:<tool_response>(?:(?!</tool_response>).)*</tool_response>\s*)+", re.DOTALL
)
_RESULT = re.compile(r"<tool_response>((?:(?!</tool_response>).)*)</tool_response>", re.DOTALL)


def read_tagged_calls(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns with calls and results in the places where templates look for them.

    Reads `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` at the end of an assistant's
    text, and tool turns that are `<tool_response>...</tool_response>`, one result each.
    """
    return tuple(part for turn in turns for part in _parts(turn))


def _parts(turn: Message) -> Iterator[Message]:
    if turn.role == "assistant" and not turn.tool_calls:
        yield _with_calls(turn)
    elif turn.role == "tool" and _RESULTS.fullmatch(turn.content.strip()):
        for result in _RESULT.findall(turn.content):
            yield replace(turn, content=result.strip())
    else:
        yield turn


def _with_calls(turn: Message) -> Message:
    text, _, _ = turn.content.partition(_OPEN)
    tagged = turn.content[len(text) :]
    if not _CALLS.fullmatch(tagged):
        return turn
    calls = [_call(inside) for inside in _CALL.findall(tagged)]
    known = tuple(call for call in calls if call is not None)
    return (
        replace(turn, content=text.rstrip(), tool_calls=known) if len(known) == len(calls) else turn
    )


def _call(text: str) -> ToolCall | None:
    """None where the text is no call: it is then left as it stands."""
    try:
        written = parse_json(text)
    except BrokenJson:
        return None
    if not isinstance(written, Mapping):
        return None
    name, arguments = written.get("name"), written.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return None
    return ToolCall(name=name, arguments=arguments)
