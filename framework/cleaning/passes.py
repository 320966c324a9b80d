"""Samples -> those that the recipe's cleaners leave, and a file that lists what they found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from framework.cleaning.masking import excerpt
from framework.core.cleaning import Excerpt, Finding
from framework.core.protocols.data import Cleaner, CleanerAhead, PassAhead
from framework.core.registries import component_name
from framework.core.samples import NumberedSample

ACTIONS = ("change", "drop", "report", "refuse")
MOST_EXCERPTS = 20
"""Excerpts of one sample that the list shows; all are counted."""


class Cleaning:
    """One pass of the recipe's cleaners over the samples of a part."""

    def __init__(
        self,
        cleaners: Sequence[Cleaner | CleanerAhead],
        held_out: Callable[[], Iterator[NumberedSample]],
        folder: Path,
        *,
        dry_run: bool,
    ) -> None:
        self._passes = [_Pass(at, one, held_out, folder) for at, one in enumerate(cleaners)]
        self._dry_run = dry_run
        self.num_dropped: Counter[str] = Counter()
        """Samples that were left out, by dataset."""

    def __call__(
        self,
        samples: Iterator[NumberedSample],
        refused: Callable[[NumberedSample, Finding], None],
    ) -> Iterator[NumberedSample]:
        """The samples of a dataset as the cleaners leave them, in order.

        Args:
            samples: is read ahead of what is yielded where a cleaner does so.
            refused: is told of every sample that must end the preparation.
        """
        for one in self._passes:
            samples = self._left(one.look(samples), refused)
        return samples

    def _left(
        self,
        looked_at: Iterator[tuple[NumberedSample, Finding | None]],
        refused: Callable[[NumberedSample, Finding], None],
    ) -> Iterator[NumberedSample]:
        for numbered, finding in looked_at:
            if finding is None or self._dry_run or finding.action == "report":
                yield numbered
            elif finding.action == "change":
                assert finding.sample is not None, "a change has a sample to put in place"
                yield replace(numbered, sample=finding.sample)
            elif finding.action == "drop":
                self.num_dropped[numbered.dataset] += 1
            else:
                refused(numbered, finding)

    def counts(self) -> list[dict[str, Any]]:
        """What each cleaner did, and the file that lists it."""
        return [one.counts() for one in self._passes]

    def close(self) -> None:
        """Closes the files."""
        for one in self._passes:
            one.stream.close()


class _Pass:
    """One cleaner's pass and the file of its findings."""

    def __init__(
        self,
        position: int,
        cleaner: Cleaner | CleanerAhead,
        held_out: Callable[[], Iterator[NumberedSample]],
        folder: Path,
    ) -> None:
        self.name = component_name(cleaner) or type(cleaner).__name__
        self.file = f"cleaner-{position + 1}-{self.name}.jsonl"
        self.stream = (folder / self.file).open("w", encoding="utf-8")
        self.numbers = dict.fromkeys(ACTIONS, 0)
        if isinstance(cleaner, CleanerAhead):
            self.find: PassAhead = cleaner.start_ahead(held_out)
        else:
            self.find = _OneByOne(cleaner.start(held_out))

    def look(
        self, samples: Iterator[NumberedSample]
    ) -> Iterator[tuple[NumberedSample, Finding | None]]:
        """Every sample with what was found in it, once that is written down."""
        for numbered, finding in self.find(samples):
            if finding is not None:
                self._write(numbered, finding)
            yield numbered, finding

    def _write(self, numbered: NumberedSample, finding: Finding) -> None:
        self.numbers[finding.action] += 1
        row = _as_json(numbered, finding)
        self.stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def counts(self) -> dict[str, Any]:
        numbers = {f"num_{action}": count for action, count in self.numbers.items()}
        return {"cleaner": self.name, "file": self.file, **numbers, **self.find.tally()}


@dataclass(frozen=True)
class _OneByOne:
    """The pass of a cleaner that looks at each sample when it comes."""

    find: Callable[[NumberedSample], Finding | None]

    def __call__(
        self, samples: Iterator[NumberedSample]
    ) -> Iterator[tuple[NumberedSample, Finding | None]]:
        for numbered in samples:
            yield numbered, self.find(numbered)

    def tally(self) -> Mapping[str, int]:
        return {}


def _as_json(numbered: NumberedSample, finding: Finding) -> dict[str, Any]:
    like = finding.like
    score = {} if finding.score is None else {"score": finding.score}
    return {
        "dataset": numbered.dataset,
        "row": numbered.row,
        "action": finding.action,
        "reason": finding.reason,
        **score,
        "like": str(like) if like else None,
        "excerpts": [_excerpt_as_json(one) for one in finding.excerpts[:MOST_EXCERPTS]],
        "num_excerpts": len(finding.excerpts),
    }


def _excerpt_as_json(one: Excerpt) -> dict[str, str]:
    if one.whole:
        return {"where": one.where, "before": one.before, "after": one.after}
    return {"where": one.where, "before": excerpt(one.before), "after": excerpt(one.after)}
