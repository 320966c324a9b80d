"""Rows that are too short or too long -> dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.cleaning.sample_texts import beginning, texts
from framework.core.cleaning import Finding
from framework.core.problems import Problem
from framework.core.samples import Conversation, NumberedSample, Sample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_UNITS = ("characters", "words", "turns")


@dataclass(frozen=True, kw_only=True)
class Length:
    """Rows with too few or too many characters, words or turns."""

    of: Literal["sample", "answer"] = "sample"
    """What is counted: all texts of a row but the system's, or its answers alone."""
    min_characters: int | None = setting(None, at_least=1)
    """Fewest characters."""
    max_characters: int | None = setting(None, at_least=1)
    """Most characters."""
    min_words: int | None = setting(None, at_least=1)
    """Fewest words, as white space parts them."""
    max_words: int | None = setting(None, at_least=1)
    """Most words, as white space parts them."""
    min_turns: int | None = setting(None, at_least=1)
    """Fewest messages besides the system's; rows that are no conversation are not counted."""
    max_turns: int | None = setting(None, at_least=1)
    """Most messages besides the system's; rows that are no conversation are not counted."""
    action: Literal["drop", "report"] = "drop"
    """What becomes of such a row."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """There must be a bound, and no minimum above its maximum."""
        if all(bound is None for unit in _UNITS for bound in self._bounds(unit)):
            yield Problem(key=".type", what="has no bound", hint="write one, such as min_words: 3")
        for unit in _UNITS:
            least, most = self._bounds(unit)
            if least is not None and most is not None and least > most:
                yield Problem(
                    key=f".min_{unit}",
                    what=f"{least} is above max_{unit}, {most}",
                    hint="exchange the two",
                )

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`."""
        return self._find

    def _find(self, numbered: NumberedSample) -> Finding | None:
        own = [one for one in texts(numbered.sample) if one.is_own]
        counted = [one.text for one in own if self.of == "sample" or one.is_answer]
        counts = {
            "characters": sum(map(len, counted)),
            "words": sum(len(text.split()) for text in counted),
            "turns": _num_turns(numbered.sample),
        }
        for unit, count in counts.items():
            least, most = self._bounds(unit)
            if count is None or not ((least and count < least) or (most and count > most)):
                continue
            bound = f"min_{unit} is {least}" if least and count < least else f"max_{unit} is {most}"
            return Finding(
                action=self.action,
                reason=f"{count:,} {unit}, {bound}",
                excerpts=beginning(numbered.sample),
            )
        return None

    def _bounds(self, unit: str) -> tuple[int | None, int | None]:
        return {
            "characters": (self.min_characters, self.max_characters),
            "words": (self.min_words, self.max_words),
            "turns": (self.min_turns, self.max_turns),
        }[unit]


def _num_turns(sample: Sample) -> int | None:
    if not isinstance(sample, Conversation):
        return None
    return sum(message.role != "system" for message in sample.messages)
