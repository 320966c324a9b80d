"""Rows of turns with `from` and `value` -> conversations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Conversation, Row, Sample
from framework.data.messages import (
    Dialect,
    as_list,
    conversation,
    optional_text,
    optional_tools,
    parse_turns,
    read_column,
)

_SHAREGPT = Dialect(
    role="from",
    content="value",
    roles={
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "assistant": "assistant",
        "function_call": "assistant",
        "observation": "tool",
        "function_response": "tool",
        "tool": "tool",
    },
    hint="turns with `role` and `content` are read with `format: messages` and "
    "`columns: {messages: conversations}`",
)


@dataclass(frozen=True, kw_only=True)
class Sharegpt:
    """Reads `conversations` of `from` and `value`; `system` and `tools` when a row has them.

    A `function_call` turn's value is the JSON text of `{"name": ..., "arguments": {...}}`, or of a
    list of them; an `observation` is its result. A turn may have `train` or `weight`.
    """

    produces: ClassVar[type[Sample]] = Conversation

    def __call__(self, row: Row) -> Conversation:
        """
        Raises:
            RowError: a turn does not fit, or follows one that it can't follow.
        """
        column = as_list(read_column(row, "conversations"), "conversations")
        turns = [_with_calls(turn) for turn in column]
        return conversation(
            parse_turns(turns, "conversations", _SHAREGPT),
            system=optional_text(row, "system"),
            tools=optional_tools(row),
            where="conversations",
        )


def _with_calls(turn: object) -> object:
    """A call that is a turn of its own -> a turn with `tool_calls`."""
    if isinstance(turn, Mapping) and turn.get("from") == "function_call":
        return {**turn, "value": None, "tool_calls": turn.get("value")}
    return turn
