"""Rows of an instruction and its output -> conversations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Conversation, Message, Row, Sample
from framework.reading.messages import conversation, optional_pairs, optional_text, read_text
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class Alpaca:
    """Reads `instruction`, `input` and `output`; `system` and `history` when a row has them."""

    produces: ClassVar[type[Sample]] = Conversation

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """An instruction and its output."""
        return columns_hold(row, instruction="text", output="text")

    def __call__(self, row: Row) -> Conversation:
        """The request is the instruction and, on the next line, the input.

        Raises:
            RowError: a column is missing, holds no text, or the history holds no pairs of texts.
        """
        instruction, given = read_text(row, "instruction"), optional_text(row, "input")
        request = f"{instruction}\n{given}" if given.strip() else instruction
        pairs = [*optional_pairs(row, "history"), (request, read_text(row, "output"))]
        turns: list[Message] = []
        for asked, said in pairs:
            turns += [Message(role="user", content=asked), Message(role="assistant", content=said)]
        return conversation(turns, system=optional_text(row, "system"))
