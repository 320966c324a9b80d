"""Length of an answer -> how near it is to what is wanted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.core.problems import Problem
from framework.core.rollouts import Answer, Scorer
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Length:
    """1 for an answer of a wanted length, falling to 0 at twice as much outside or at nothing."""

    at_least: int = setting(0, at_least=0)
    """Shortest wanted length; a shorter answer of n gets n / at_least."""
    at_most: int | None = setting(None, at_least=1)
    """Longest wanted length; a longer answer of n gets 2 - n / at_most, and 0 from twice as much
    on. None: no limit."""
    unit: Literal["tokens", "characters", "words"] = "tokens"
    """What is counted; tokens include the one at which the model stopped."""
    weight: float = 1.0
    """What its numbers are multiplied by."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """There must be something to reward."""
        if not self.at_least and self.at_most is None:
            yield Problem(
                key=".at_most",
                what="rewards every length alike",
                hint="write at_least: or at_most:",
            )
        if self.at_most is not None and self.at_most < self.at_least:
            yield Problem(
                key=".at_most",
                what=f"{self.at_most} is less than at_least {self.at_least}",
                hint=f"write at_most: {self.at_least} or more",
            )

    def needs_columns(self) -> Sequence[str]:
        """None."""
        return ()

    def start(self, device: str) -> Scorer:
        """See `protocols.Reward`."""
        return self._scores

    def _scores(self, answers: Sequence[Answer]) -> list[float]:
        return [self._score(self._measured(answer)) for answer in answers]

    def _measured(self, answer: Answer) -> int:
        if self.unit == "tokens":
            return len(answer.tokens)
        return len(answer.text if self.unit == "characters" else answer.text.split())

    def _score(self, length: int) -> float:
        if length < self.at_least:
            return length / self.at_least
        if self.at_most is not None and length > self.at_most:
            return max(0.0, 2 - length / self.at_most)
        return 1.0
