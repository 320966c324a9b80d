"""An answer and the right result -> whether they are mathematically the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.rollouts import Answer, Scorer
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class MathVerify:
    r"""1 for a result equal to the right one, such as 0.5 and \frac{1}{2}; by math-verify."""

    column: str = setting("answer", not_empty=True)
    """Column of the right result: a number, or LaTeX with or without `$`."""
    precision: int = setting(6, at_least=0)
    """Decimal places to which numbers are compared."""
    timeout_seconds: int = setting(5, at_least=1)
    """Longest time for one answer; what takes longer is wrong."""
    weight: float = 1.0
    """What its numbers are multiplied by."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Its package must be there."""
        yield from missing_extra("math_verify", "rewards", key=".type")

    def needs_columns(self) -> Sequence[str]:
        """That of the right result."""
        return (self.column,)

    def start(self, device: str) -> Scorer:
        """See `protocols.Reward`."""
        return self._scores

    def _scores(self, answers: Sequence[Answer]) -> list[float]:
        return [self._score(answer) for answer in answers]

    def _score(self, answer: Answer) -> float:
        from math_verify import parse, verify

        wanted = str(answer.prompt.columns[self.column]).strip()
        if not wanted.startswith("$"):
            wanted = f"${wanted}$"  # LaTeX is only looked for between these
        seconds = self.timeout_seconds
        right = parse(wanted, parsing_timeout=seconds)
        said = parse(answer.text, parsing_timeout=seconds)
        same = verify(right, said, float_rounding=self.precision, timeout_seconds=seconds)
        return float(bool(right) and same)
