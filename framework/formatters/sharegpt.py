"""Rows of turns with `from` and `value` -> conversations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Conversation, Row, Sample
from framework.reading.messages import (
    SHAREGPT,
    conversation,
    optional_text,
    optional_tools,
    read_turns,
)
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class Sharegpt:
    """Reads `conversations` of `from` and `value`; `system` and `tools` when a row has them.

    A `function_call` turn's value is the JSON text of `{"name": ..., "arguments": {...}}`, or of a
    list of them; an `observation` is its result. A turn may have `train` or `weight`.
    """

    produces: ClassVar[type[Sample]] = Conversation

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """Turns."""
        return columns_hold(row, conversations="turns")

    def __call__(self, row: Row) -> Conversation:
        """
        Raises:
            RowError: a turn does not fit, or follows one that it can't follow.
        """
        return conversation(
            read_turns(row, "conversations", SHAREGPT),
            system=optional_text(row, "system"),
            tools=optional_tools(row),
            where="conversations",
        )
