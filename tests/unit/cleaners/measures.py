"""Planted rows -> precision and recall of the cleaners that look for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import planted

from framework.cleaners.contamination import Contamination
from framework.cleaners.exact_duplicates import ExactDuplicates
from framework.cleaners.near_duplicates import NearDuplicates
from framework.cleaners.personal_data import ENTITIES, PersonalData
from framework.cleaning.personal_data import Detector
from framework.core.cleaning import Finding
from framework.core.protocols.data import Cleaner
from framework.core.samples import NumberedSample


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well planted items were found."""

    num_planted: int
    num_found: int
    num_right: int
    num_right_rows: int = 0
    """Findings that name the row which was copied."""

    @property
    def precision(self) -> float:
        return self.num_right / max(self.num_found, 1)

    @property
    def recall(self) -> float:
        return self.num_right / max(self.num_planted, 1)


def nothing() -> Iterator[NumberedSample]:
    return iter(())


def findings(cleaner: Cleaner, rows: list[NumberedSample], held_out=nothing) -> dict[int, Finding]:
    """Row -> what was found in it."""
    find = cleaner.start(held_out)
    looked_at = ((one.row, find(one)) for one in rows)
    return {row: finding for row, finding in looked_at if finding is not None}


def of_rows(cleaner: Cleaner, data: planted.Planted) -> Quality:
    """Of a cleaner that compares rows."""
    found = findings(cleaner, data.rows, lambda: iter(data.held_out))
    likes = [(row, finding.like.row) for row, finding in found.items() if finding.like]
    return Quality(
        num_planted=len(data.wanted),
        num_found=len(found),
        num_right=sum(row in data.wanted for row in found),
        num_right_rows=sum(data.wanted.get(row) == like for row, like in likes),
    )


def exact_duplicates(seed: int, num_rows: int) -> Quality:
    return of_rows(ExactDuplicates(), planted.duplicates(seed, num_rows, "exact"))


def near_duplicates(seed: int, num_rows: int) -> Quality:
    return of_rows(NearDuplicates(), planted.duplicates(seed, num_rows, "near"))


def contamination(seed: int, num_rows: int) -> Quality:
    return of_rows(Contamination(), planted.contaminated(seed, num_rows, num_rows // 5))


def personal_data(seed: int, num_each: int) -> dict[str, Quality]:
    """Entity -> how well just its text was found, among items of other kinds and decoys."""
    detect = Detector(ENTITIES, PersonalData().phone_regions)
    wanted, found, right = Counter(), Counter(), Counter()
    for item in planted.items(seed, num_each):
        wanted[item.entity] += 1
        for match in detect(item.text):
            found[match.entity] += 1
            is_right = item.text[match.start : match.end] == item.value
            right[match.entity] += is_right and match.entity == item.entity
    return {
        entity: Quality(
            num_planted=wanted[entity], num_found=found[entity], num_right=right[entity]
        )
        for entity in ENTITIES
    }


SUITES: dict[str, Callable[[int, int], Quality]] = {
    "exact_duplicates": exact_duplicates,
    "near_duplicates": near_duplicates,
    "contamination": contamination,
}
