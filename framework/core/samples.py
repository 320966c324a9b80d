"""What a formatter makes of a row: the typed samples between data files and trainers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""One record of a data file, as its source read it."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call that an assistant makes."""

    name: str
    arguments: Mapping[str, Any]
    identifier: str = ""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str
    reasoning: str = ""
    """The thinking that comes before `content`, for templates that render it."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    """For role `tool`: the call that this message answers."""
    name: str = ""
    train: bool | None = None
    """Overrides the recipe's choice of trained turns for this message."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns to be rendered by a chat template."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """JSON schemas of the tools that the assistant may call."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A prompt and its continuation as plain text, without any template."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """Raw text, every token of which is trained."""

    text: str


Sample = Conversation | Completion | Document


@dataclass(frozen=True, kw_only=True)
class NumberedSample:
    """A sample and the row it was made from."""

    dataset: str
    """Name of its dataset, as in sample ids."""
    row: int
    """As its source counts, from 1."""
    sample: Sample


class RowError(ValueError):
    """A row does not fit its format; the message says what is missing and what to write.

    The reader of the row adds the file and the row number.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class TooLong(RowError):
    """A sample has more tokens than the recipe allows; never skipped as a bad row is."""
