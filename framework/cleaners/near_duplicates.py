"""Rows that share most of their wording with a row before them -> dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.cleaning.row_list import RowList
from framework.cleaning.sample_texts import beginning, own_text, prompt_of
from framework.cleaning.similarity import SimilarityIndex
from framework.cleaning.words import words_of
from framework.core.cleaning import Finding
from framework.core.extras import missing_extra
from framework.core.problems import Problem
from framework.core.samples import NumberedSample
from framework.core.settings import setting

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Rows that share most of their wording with an earlier one, found by MinHash LSH."""

    threshold: float = setting(0.7, at_least=0.5, at_most=1)
    """Jaccard similarity of the sets of word runs from which two rows count as one. It is counted,
    and estimated only for texts of more than 1,024 different runs."""
    run_length: int = setting(2, at_least=1, at_most=20)
    """Words in a run. In a text of 60 words, four changed words leave runs of two 0.76 alike, and
    runs of five 0.47."""
    compare: Literal["sample", "prompt"] = "sample"
    """`sample`: all texts but the system's. `prompt`: only what comes before the answers."""
    action: Literal["drop", "report"] = "drop"
    """`drop` keeps the first of similar rows."""

    compares_rows: ClassVar[bool] = True

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Its package must be there."""
        return missing_extra("rensa", "cleaning", key=".type")

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`; remembers about 2.4 kilobytes of each row that is kept."""
        index = SimilarityIndex(self.threshold, self.run_length)
        rows = RowList()

        def find(numbered: NumberedSample) -> Finding | None:
            sample = numbered.sample
            prompt = prompt_of(sample) if self.compare == "prompt" else ""
            sketch = index.sketch(words_of(prompt or own_text(sample)))
            if sketch is None:
                return None
            found = index.find(sketch)
            if found is None:
                index.add(sketch)
                rows.append(numbered)
                return None
            key, similarity = found
            return Finding(
                action=self.action,
                reason=f"similarity {similarity:.2f} to row {rows[key]}",
                like=rows[key],
                excerpts=beginning(sample),
            )

        return find
