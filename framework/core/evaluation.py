"""What an evaluator found: a number and the answers it was counted from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One held-out request and what the model said."""

    prompt: str
    expected: str
    answer: str
    correct: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluator's result."""

    metric: str
    value: float
    answers: tuple[Answer, ...]
    evaluator: Mapping[str, Any] | None = None
    """Name and settings of what asked; None: whoever wrote it down didn't say."""

    def is_comparable(self, other: Evaluation) -> bool:
        """Whether both asked the same requests in the same way, as far as they say."""
        is_said = self.evaluator is not None and other.evaluator is not None
        if is_said and self.evaluator != other.evaluator:
            return False
        mine, theirs = (
            [(answer.prompt, answer.expected) for answer in one.answers] for one in (self, other)
        )
        return self.metric == other.metric and mine == theirs


def paired(
    before: Sequence[Evaluation], after: Sequence[Evaluation]
) -> list[tuple[Evaluation | None, Evaluation | None]]:
    """(before, after) of each evaluator; one is None where there is nothing to compare it with: a
    run that goes on may ask otherwise than it did."""
    alone = list(before)
    found: list[tuple[Evaluation | None, Evaluation | None]] = []
    for later in after:
        at = next((at for at, one in enumerate(alone) if one.is_comparable(later)), None)
        found.append((None if at is None else alone.pop(at), later))
    return [*found, *((earlier, None) for earlier in alone)]
