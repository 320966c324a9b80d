"""Rows of a better and a worse answer -> preferences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core import samples
from framework.core.samples import Message, Row, RowError
from framework.reading.messages import in_order, optional_text, optional_tools, read_column
from framework.reading.prompts import (
    check_different,
    common_prompt,
    read_continuation,
    read_prompt,
    read_turns_or_text,
)
from framework.reading.shapes import columns_hold

_CONVERSATION = "messages | turns"
_ANSWER = "messages | turns | a message | a turn | text"


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Reads `prompt`, `chosen` and `rejected`, texts or messages; `margin` when a row has it.

    `chosen` and `rejected` may be whole conversations: without a prompt, what both begin with is
    it. The prompt's turns may stand in `conversations` instead, with `from` and `value`. A text is
    one turn. `system` and `tools` are read when a row has them.
    """

    produces: ClassVar[type[samples.Sample]] = samples.Preference

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """Two answers to a prompt, or two conversations."""
        return (
            columns_hold(row, conversations=_CONVERSATION, chosen=_ANSWER, rejected=_ANSWER)
            or columns_hold(row, prompt="messages | text", chosen=_ANSWER, rejected=_ANSWER)
            or columns_hold(row, chosen=_CONVERSATION, rejected=_CONVERSATION)
        )

    def __call__(self, row: Row) -> samples.Preference:
        """
        Raises:
            RowError: a column is missing or does not fit, or both answers are the same.
        """
        column = next((name for name in ("prompt", "conversations") if name in row), None)
        if column is None:
            whole = (_conversation(row, "chosen"), _conversation(row, "rejected"))
            prompt, chosen, rejected = common_prompt(*whole)
            prompt = in_order(prompt, system=optional_text(row, "system"), where="chosen")
        else:
            prompt = read_prompt(row, column)
            chosen = read_continuation(row, "chosen", prompt)
            rejected = read_continuation(row, "rejected", prompt)
            check_different(chosen, rejected)
        return samples.Preference(
            messages=prompt,
            chosen=chosen,
            rejected=rejected,
            tools=optional_tools(row),
            margin=_margin(row),
        )


def _conversation(row: Row, column: str) -> tuple[Message, ...]:
    if isinstance(read_column(row, column), str):
        raise RowError(
            f"column {column!r} is text, and there is no 'prompt' that it goes on from",
            "name the prompt's column: `columns: {prompt: ...}`; whole dialogues with `Human:` and "
            "`Assistant:` in one text are read with `format: hh_rlhf`",
        )
    return in_order(read_turns_or_text(row, column, "assistant"), where=column)


def _margin(row: Row) -> float | None:
    margin = row.get("margin")
    if margin is None:
        return None
    number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
    if not number or not math.isfinite(margin):
        raise RowError(f"column 'margin' is {margin!r}, not a number", "write a number, or null")
    return float(margin)
