"""Rows that repeat what is held out -> a preparation that ends, so that evaluation stays honest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framework.cleaning.overlap import OverlapIndex
from framework.cleaning.row_list import RowList
from framework.cleaning.sample_texts import beginning, own_text, prompt_of, texts
from framework.cleaning.similarity import SimilarityIndex
from framework.cleaning.words import words_of
from framework.core.cleaning import Finding, RowName
from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.samples import NumberedSample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """Training rows that repeat rows of `data.eval` or `data.test`."""

    run_length: int = setting(13, at_least=3, at_most=100)
    """Words in a row that count as repeated."""
    min_overlap: float = setting(0.5, above=0, at_most=1)
    """Share of a held-out text's runs of words that a training row must hold. Runs that more than 3
    held-out rows, and more than 1 % of them, have in common don't count."""
    similarity: float | None = setting(0.8, at_least=0.5, at_most=1)
    """Jaccard similarity of the sets of word pairs from which two rows count as one, found by
    MinHash; it finds copies with changed words. Null: don't look for them; for rows that are
    alike but for a number or a name."""
    min_prompt_words: int = setting(5, at_least=1)
    """A shorter prompt is found only together with its answer."""
    action: Literal["refuse", "drop", "report"] = "refuse"
    """`refuse` ends the preparation with the rows of both sides; `drop` takes them out of
    `data.train`."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """There must be rows to compare with, and the package where similarity is asked."""
        if self.similarity is not None:
            yield from missing_extra("rensa", "cleaning", key=".type")
        if not (recipe.data.datasets_of("eval") or recipe.data.datasets_of("test")):
            yield Problem(
                key=".type",
                what="compares with `data.eval` and `data.test`, which are empty",
                hint="add one of them, or remove the cleaner",
            )

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`; remembers about 12 bytes for each held-out word."""
        known = _HeldOut(self, held_out())

        def find(numbered: NumberedSample) -> Finding | None:
            found = known.like(numbered)
            if found is None:
                return None
            row, how = found
            return Finding(
                action=self.action,
                reason=f"{how} row {row}",
                hint="take the row out of one side, or write action: drop under the cleaner "
                "contamination (data.dry_run: true lists all of them)",
                like=row,
                excerpts=beginning(numbered.sample),
            )

        return find


class _HeldOut:
    """What is known of the held-out rows."""

    def __init__(self, settings: Contamination, held_out: Iterable[NumberedSample]) -> None:
        self._settings = settings
        self._rows = RowList()
        self._row_of_text: list[int] = []
        self._whole: dict[bytes, int] = {}
        self._prompts: dict[bytes, int] = {}
        self._similar = (
            None if settings.similarity is None else SimilarityIndex(settings.similarity, 2)
        )
        self._row_of_sketch: list[int] = []
        index = OverlapIndex(settings.run_length)
        for numbered in held_out:
            self._add(index, numbered)
        self._overlap = index.finished()

    def _add(self, index: OverlapIndex, numbered: NumberedSample) -> None:
        row = self._rows.append(numbered)
        sample = numbered.sample
        for one in texts(sample):
            if one.is_own:
                index.add(words_of(one.text), row)
                self._row_of_text.append(row)
        words = words_of(own_text(sample))
        self._whole.setdefault(_digest(words), row)
        prompt = words_of(prompt_of(sample))
        if len(prompt) >= self._settings.min_prompt_words:
            self._prompts.setdefault(_digest(prompt), row)
        sketch = self._similar.sketch(words) if self._similar else None
        if self._similar and sketch is not None:
            self._similar.add(sketch)
            self._row_of_sketch.append(row)

    def like(self, numbered: NumberedSample) -> tuple[RowName, str] | None:
        """(the held-out row that this one repeats, in which way), None if it repeats none."""
        sample = numbered.sample
        words = words_of(own_text(sample))
        if not words:
            return None
        if (row := self._whole.get(_digest(words))) is not None:
            return self._rows[row], "says the same as"
        if (row := self._prompts.get(_digest(words_of(prompt_of(sample))))) is not None:
            return self._rows[row], "asks the same as"
        for one in texts(sample):
            found = self._overlap.most_repeated(words_of(one.text)) if one.is_own else None
            if found is not None and found[1] >= self._settings.min_overlap:
                how = f"holds {found[1]:.0%} of the runs of {self._settings.run_length} words of"
                return self._rows[self._row_of_text[found[0]]], how
        sketch = self._similar.sketch(words) if self._similar else None
        similar = self._similar.find(sketch) if self._similar and sketch is not None else None
        if similar is None:
            return None
        return self._rows[self._row_of_sketch[similar[0]]], f"has similarity {similar[1]:.2f} to"


def _digest(words: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
