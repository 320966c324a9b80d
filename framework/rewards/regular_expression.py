"""An answer and a pattern -> whether it is found there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.core.problems import Problem, RunFailed
from framework.core.rollouts import Answer, Scorer
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_SECONDS = 5.0
"""Longest search in one answer: some patterns take forever in some texts."""


@dataclass(frozen=True, kw_only=True)
class RegularExpression:
    """1 for an answer in which the pattern is found, 0 for any other; the format of an answer."""

    pattern: str = setting(not_empty=True)
    """A regular expression as the package `regex` reads it; `.` matches line breaks too."""
    whole: bool = False
    """The whole answer must match, white space around it aside."""
    column: str | None = setting(None, not_empty=True)
    """Column of the right answer: the pattern's group `answer` must be it, as in
    `<answer>(?P<answer>.*?)</answer>`. None: any match is right."""
    weight: float = 1.0
    """What its numbers are multiplied by."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The pattern must be one, and have the group that is compared."""
        import regex

        try:
            groups = regex.compile(self.pattern, regex.DOTALL).groupindex
        except regex.error as error:
            what = f"{self.pattern!r} is no regular expression: {error}"
            yield Problem(key=".pattern", what=what, hint="mind that YAML wants '...' around it")
            return
        if self.column is not None and "answer" not in groups:
            yield Problem(
                key=".pattern",
                what="has no group `answer` to compare with the column",
                hint="write (?P<answer>...) around the part that is the answer",
            )

    def needs_columns(self) -> Sequence[str]:
        """That of the right answer, if one is compared."""
        return () if self.column is None else (self.column,)

    def start(self, device: str) -> Scorer:
        """See `protocols.Reward`."""
        return self._scores

    def _scores(self, answers: Sequence[Answer]) -> list[float]:
        return [float(self._right(answer)) for answer in answers]

    def _right(self, answer: Answer) -> bool:
        import regex

        pattern = regex.compile(self.pattern, regex.DOTALL)
        look = pattern.fullmatch if self.whole else pattern.search
        try:
            found = look(answer.text.strip(), timeout=_SECONDS)
        except TimeoutError:
            raise RunFailed(
                f"the pattern {self.pattern!r} needs more than {_SECONDS:g} s in the answer "
                f"{answer.text[:80]!r} to {answer.prompt.identifier}",
                hint="write a pattern without nested repetitions such as (a+)+",
            ) from None
        if found is None or self.column is None:
            return found is not None
        wanted = str(answer.prompt.columns[self.column]).strip()
        return (found["answer"] or "").strip() == wanted
