"""Rows that say the same over and over -> dropped."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from framework.cleaning.sample_texts import texts
from framework.cleaning.words import words_of
from framework.core.cleaning import Excerpt, Finding
from framework.core.samples import NumberedSample
from framework.core.settings import setting

_FEWEST_LINES = 6
_FEWEST_CHARACTERS = 400
"""A text shorter than this compresses badly, whatever it says."""


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """Texts that repeat lines or runs of words, or that compress as only loops do."""

    max_repeated_lines: float | None = setting(0.5, at_least=0, at_most=1)
    """Largest share of a text's lines that equal an earlier line of it, of texts with at least 6
    lines that aren't blank."""
    max_repeated_runs: float | None = setting(0.4, at_least=0, at_most=1)
    """Largest share of a text's runs of words that it has said before."""
    run_length: int = setting(5, at_least=1, at_most=50)
    """Words in a run."""
    min_runs: int = setting(20, at_least=1)
    """Texts with fewer runs are not judged by them."""
    min_compressed: float | None = setting(0.12, at_least=0, below=1)
    """Smallest size after compression (zlib), as a share of the text's, of texts with at least 400
    characters."""
    action: Literal["drop", "report"] = "drop"
    """What becomes of such a row."""

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`."""
        return self._find

    def _find(self, numbered: NumberedSample) -> Finding | None:
        for one in texts(numbered.sample):
            reason = self._fault(one.text) if one.is_own else ""
            if reason:
                return Finding(
                    action=self.action,
                    reason=reason,
                    excerpts=(Excerpt(where=one.where, before=one.text),),
                )
        return None

    def _fault(self, text: str) -> str:
        if self.max_repeated_lines is not None:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            share = 1 - len(set(lines)) / len(lines) if len(lines) >= _FEWEST_LINES else 0.0
            if share > self.max_repeated_lines:
                return f"{share:.0%} of the lines repeat an earlier one"
        if self.max_repeated_runs is not None:
            words = words_of(text)
            shifted = (words[at:] for at in range(self.run_length))
            counts = Counter(zip(*shifted, strict=False))
            total = counts.total()
            share = 1 - len(counts) / total if total >= self.min_runs else 0.0
            if share > self.max_repeated_runs:
                return f"{share:.0%} of the runs of {self.run_length} words were said before"
        if self.min_compressed is not None and len(text) >= _FEWEST_CHARACTERS:
            raw = text.encode("utf-8", errors="replace")
            share = len(zlib.compress(raw)) / len(raw)
            if share < self.min_compressed:
                return f"compresses to {share:.1%} of its size"
        return ""
