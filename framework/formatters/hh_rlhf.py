"""Rows of two dialogues in one text each -> preferences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from framework.core.samples import Message, Preference, Row, RowError, Sample
from framework.reading.messages import in_order, read_text
from framework.reading.prompts import common_prompt
from framework.reading.shapes import columns_hold

_ROLES = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


@dataclass(frozen=True, kw_only=True)
class HhRlhf:
    r"""Reads `chosen` and `rejected`, each a dialogue after `\n\nHuman:` and `\n\nAssistant:`.

    What both begin with is the prompt; white space around a turn is not read.
    """

    produces: ClassVar[type[Sample]] = Preference

    @classmethod
    def recognise(cls, row: Row) -> Mapping[str, str]:
        """Two dialogues."""
        dialogue = "a dialogue in one text"
        return columns_hold(row, chosen=dialogue, rejected=dialogue)

    def __call__(self, row: Row) -> Preference:
        """
        Raises:
            RowError: a column holds no dialogue, or they don't part at an answer.
        """
        prompt, chosen, rejected = common_prompt(_turns(row, "chosen"), _turns(row, "rejected"))
        return Preference(messages=prompt, chosen=chosen, rejected=rejected)


def _turns(row: Row, column: str) -> tuple[Message, ...]:
    before, *parts = _TURN.split(read_text(row, column))
    if before.strip() or not parts:
        raise RowError(
            f"column {column!r} does not begin with a turn: {(before or '').strip()[:40]!r}",
            r"write each turn after `\n\nHuman:` or `\n\nAssistant:`",
        )
    said = zip(parts[::2], parts[1::2], strict=True)
    turns = [Message(role=_ROLES[who], content=text.strip()) for who, text in said]
    return in_order(turns, where=column)
