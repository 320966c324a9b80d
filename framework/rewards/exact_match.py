"""An answer and the right one -> whether they are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from framework.core.rollouts import Answer, Scorer
from framework.core.settings import setting


@dataclass(frozen=True, kw_only=True)
class ExactMatch:
    """1 for the right answer, 0 for any other; white space around and between words is alike."""

    column: str = setting("answer", not_empty=True)
    """Column of the right answer: a text or a number, or a list of which any is right."""
    compare: Literal["equal", "starts_with", "contains"] = "equal"
    """What the answer must do: be the right one, begin with it, or hold it."""
    ignore_case: bool = False
    """Capitals don't count."""
    weight: float = 1.0
    """What its numbers are multiplied by."""

    def needs_columns(self) -> Sequence[str]:
        """That of the right answer."""
        return (self.column,)

    def start(self, device: str) -> Scorer:
        """See `protocols.Reward`."""
        return self._scores

    def _scores(self, answers: Sequence[Answer]) -> list[float]:
        return [float(self._right(answer)) for answer in answers]

    def _right(self, answer: Answer) -> bool:
        value = answer.prompt.columns[self.column]
        said = self._plain(answer.text)
        wanted = [self._plain(str(one)) for one in (value if isinstance(value, list) else [value])]
        if self.compare == "equal":
            return said in wanted
        if self.compare == "starts_with":
            return said.startswith(tuple(wanted))
        return any(one in said for one in wanted)

    def _plain(self, text: str) -> str:
        plain = re.sub(r"\s+", " ", text).strip()
        return plain.casefold() if self.ignore_case else plain
