"""Rows that say what a row before them says -> dropped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from framework.cleaning.row_list import RowList
from framework.cleaning.sample_texts import beginning, prompt_of, texts
from framework.cleaning.words import squeezed
from framework.core.cleaning import Finding
from framework.core.problems import Problem
from framework.core.samples import Document, NumberedSample, Sample

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class ExactDuplicates:
    """Rows that equal an earlier one, capitals, white space and Unicode form aside."""

    compare: Literal["sample", "prompt"] = "sample"
    """`sample`: all texts with their roles. `prompt`: what comes before the answers, without the
    system's words, so that a question asked twice is found though it is answered differently."""
    action: Literal["drop", "report"] = "drop"
    """`drop` keeps the first of equal rows."""

    compares_rows: ClassVar[bool] = True

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Raw text has no prompt to compare."""
        for index, dataset in enumerate(recipe.data.train):
            if self.compare == "prompt" and dataset.format.produces is Document:
                yield Problem(
                    key=".compare",
                    what=f"the raw text of `data.train[{index}]` has no prompt",
                    hint="write compare: sample",
                )

    def start(
        self, held_out: Callable[[], Iterator[NumberedSample]]
    ) -> Callable[[NumberedSample], Finding | None]:
        """See `protocols.Cleaner`; remembers about 170 bytes of each row."""
        first: dict[bytes, int] = {}
        rows = RowList()

        def find(numbered: NumberedSample) -> Finding | None:
            digest = hashlib.blake2b(self._compared(numbered.sample).encode(), digest_size=16)
            earlier = first.setdefault(digest.digest(), len(rows))
            if earlier == len(rows):
                rows.append(numbered)
                return None
            like = rows[earlier]
            return Finding(
                action=self.action,
                reason=f"the {self.compare} equals that of row {like}",
                like=like,
                excerpts=beginning(numbered.sample),
            )

        return find

    def _compared(self, sample: Sample) -> str:
        prompt = squeezed(prompt_of(sample)) if self.compare == "prompt" else ""
        parts = [f"{one.role}\0{squeezed(one.text)}" for one in texts(sample)]
        return prompt or "\0".join(parts) or repr(sample)
