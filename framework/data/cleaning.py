"""Samples -> those that the recipe's cleaners leave, and a file that lists what they found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from framework.core.cleaning import Finding
from framework.core.protocols import Cleaner
from framework.core.registries import component_name
from framework.core.samples import NumberedSample

ACTIONS = ("change", "drop", "report", "refuse")


class Cleaning:
    """One pass of the recipe's cleaners over the samples of a part."""

    def __init__(
        self,
        cleaners: Sequence[Cleaner],
        held_out: Callable[[], Iterator[NumberedSample]],
        folder: Path,
        *,
        dry_run: bool,
    ) -> None:
        self._passes = [_Pass(at, one, held_out, folder) for at, one in enumerate(cleaners)]
        self._dry_run = dry_run

    def __call__(self, numbered: NumberedSample) -> tuple[NumberedSample | None, Finding | None]:
        """(the sample as it is now, None when a cleaner dropped it; what ends the preparation)."""
        for one in self._passes:
            finding = one.look(numbered)
            if finding is None or self._dry_run:
                continue
            if finding.action == "refuse":
                return None, finding
            if finding.action == "drop":
                return None, None
            if finding.action == "change":
                assert finding.sample is not None, "a change has a sample to put in place"
                numbered = NumberedSample(
                    dataset=numbered.dataset, row=numbered.row, sample=finding.sample
                )
        return numbered, None

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
        cleaner: Cleaner,
        held_out: Callable[[], Iterator[NumberedSample]],
        folder: Path,
    ) -> None:
        self.name = component_name(cleaner) or type(cleaner).__name__
        self.file = f"cleaner-{position + 1}-{self.name}.jsonl"
        self.stream = (folder / self.file).open("w", encoding="utf-8")
        self.numbers = dict.fromkeys(ACTIONS, 0)
        self.find = cleaner.start(held_out)

    def look(self, numbered: NumberedSample) -> Finding | None:
        finding = self.find(numbered)
        if finding is not None:
            self.numbers[finding.action] += 1
            row = {
                "dataset": numbered.dataset,
                "row": numbered.row,
                "action": finding.action,
                "reason": finding.reason,
                "before": finding.before,
                "after": finding.after,
            }
            self.stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return finding

    def counts(self) -> dict[str, Any]:
        numbers = {f"num_{action}": count for action, count in self.numbers.items()}
        return {"cleaner": self.name, "file": self.file, **numbers}
