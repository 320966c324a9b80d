"""Rows of chat messages -> conversations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Conversation, Row, Sample
from framework.reading.messages import conversation, optional_tools, read_turns
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class Messages:
    """Reads `messages` as OpenAI's API takes them, and `tools` when a row has them.

    A message has `role` and `content` (text, or a list of text parts, joined by line ends). An
    assistant's may have `tool_calls` and `reasoning_content`, `reasoning` or `thinking`; a tool's
    result may have `tool_call_id`; any may have `name`, and `train` or `weight` to override which
    turns are trained. Other keys are not read. Both columns may be JSON text.
    """

    produces: ClassVar[type[Sample]] = Conversation

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """Messages."""
        return columns_hold(row, messages="messages")

    def __call__(self, row: Row) -> Conversation:
        """
        Raises:
            RowError: a message does not fit, or follows one that it can't follow.
        """
        turns = read_turns(row, "messages")
        return conversation(turns, tools=optional_tools(row), where="messages")
