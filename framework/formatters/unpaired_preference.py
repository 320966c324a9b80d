"""Rows of an answer and whether it is good -> unpaired preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core import samples
from framework.core.samples import Message, Row, RowError
from framework.reading.messages import in_order, optional_text, optional_tools, read_column
from framework.reading.prompts import (
    check_continuation,
    check_prompt,
    read_continuation,
    read_prompt,
    read_turns_or_text,
)
from framework.reading.shapes import columns_hold


@dataclass(frozen=True, kw_only=True)
class UnpairedPreference:
    """Reads `prompt`, `completion` and `label`, which says whether the completion is good.

    Prompt and completion are texts (a turn each) or messages. Instead of both, `messages` may hold
    a conversation that ends with the completion. `label` is true or false, or 1 or 0. `system` and
    `tools` are read when a row has them.
    """

    produces: ClassVar[type[samples.Sample]] = samples.UnpairedPreference

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """An answer, and a label that is true or false."""
        text = "messages | text"
        return columns_hold(
            row, prompt=text, completion=text, label="true or false | 0 or 1"
        ) or columns_hold(row, messages="messages", label="true or false")

    def __call__(self, row: Row) -> samples.UnpairedPreference:
        """
        Raises:
            RowError: a column is missing or does not fit.
        """
        if "messages" in row:
            prompt, completion = _last_answer(row)
        else:
            prompt = read_prompt(row, "prompt")
            completion = read_continuation(row, "completion", prompt)
        return samples.UnpairedPreference(
            messages=prompt, completion=completion, label=_label(row), tools=optional_tools(row)
        )


def _last_answer(row: Row) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    turns = read_turns_or_text(row, "messages", "user")
    turns = in_order(turns, system=optional_text(row, "system"), where="messages")
    check_continuation(turns[-1:], turns[:-1], "the last of messages")
    check_prompt(turns[:-1], "messages")
    return turns[:-1], turns[-1:]


def _label(row: Row) -> bool:
    label = read_column(row, "label")
    if not isinstance(label, (bool, int)) or label not in (0, 1):
        raise RowError(
            f"column 'label' is {label!r}, not true or false",
            "write true for a good completion, false for a bad one",
        )
    return bool(label)
