"""Rows of an instruction and its output -> conversations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Conversation, Message, Row, RowError, Sample
from framework.data.messages import conversation, optional_text, read_text


@dataclass(frozen=True, kw_only=True)
class Alpaca:
    """Reads `instruction`, `input` and `output`; `system` and `history` when a row has them."""

    produces: ClassVar[type[Sample]] = Conversation

    def __call__(self, row: Row) -> Conversation:
        """The request is the instruction and, on the next line, the input.

        Raises:
            RowError: a column is missing, holds no text, or the history holds no pairs of texts.
        """
        instruction, given = read_text(row, "instruction"), optional_text(row, "input")
        request = f"{instruction}\n{given}" if given.strip() else instruction
        turns: list[Message] = []
        for asked, answered in [*_history(row), (request, read_text(row, "output"))]:
            turns.append(Message(role="user", content=asked))
            turns.append(Message(role="assistant", content=answered))
        return conversation(turns, system=optional_text(row, "system"))


def _history(row: Row) -> list[tuple[str, str]]:
    pairs = row.get("history") or []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or [isinstance(text, str) for text in pair] != [True, True]:
            raise RowError("column 'history' is not a list of [request, answer] pairs of texts")
    return [(request, answer) for request, answer in pairs]
