"""Faults of many rows -> few problems: each kind once, with its first row and how many have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from framework.core.problems import Problem
from framework.core.samples import RowError, TooLong
from framework.reading.rows import BadRow, row_problem

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset

MOST_KINDS = 20
"""Kinds of faults that are reported, each with its first row; rows of other kinds are counted."""
MOST_LONG_ROWS = 5
"""Rows that are too long and are reported by themselves; the rest are counted."""


@dataclass(kw_only=True)
class _Kind:
    first: Problem
    skippable: bool
    num_rows: int = 1

    def problem(self) -> Problem:
        rest = self.num_rows - 1
        if not rest:
            return self.first
        rows = "row" if rest == 1 else "rows"
        return replace(self.first, what=f"{self.first.what} (the same in {rest:,} more {rows})")


class RowProblems:
    """What is wrong with rows; holds a few of them, however many there are."""

    def __init__(self, max_length: int) -> None:
        self.num_rows = 0
        """That have a fault."""
        self._max_length = max_length
        self._kinds: dict[str, _Kind] = {}
        self._num_of_other_kinds = 0
        self._num_skippable = 0
        self._long_rows: list[Problem] = []
        self._num_long_rows = 0
        self._longest: tuple[Dataset, int, TooLong] | None = None

    @property
    def full(self) -> bool:
        """Another kind would only be counted."""
        return len(self._kinds) == MOST_KINDS

    def add(
        self, dataset: Dataset, row: int, error: RowError | Problem, *, skippable: bool = False
    ) -> None:
        """Counts a row, and keeps it when it is the first of its kind.

        Args:
            skippable: `data.on_bad_row: skip`, which isn't written, would leave it out.
        """
        self.num_rows += 1
        self._num_skippable += skippable
        if isinstance(error, TooLong) and error.num_tokens:
            self._add_long(dataset, row, error)
            return
        kind = self._kinds.get(error.what)
        if kind is not None:
            kind.num_rows += 1
        elif self.full:
            self._num_of_other_kinds += 1
        else:
            first = row_problem(dataset, BadRow(row=row, error=error))
            self._kinds[error.what] = _Kind(first=first, skippable=skippable)

    def _add_long(self, dataset: Dataset, row: int, error: TooLong) -> None:
        self._num_long_rows += 1
        if len(self._long_rows) < MOST_LONG_ROWS:
            self._long_rows.append(row_problem(dataset, BadRow(row=row, error=error)))
        if self._longest is None or error.num_tokens > self._longest[2].num_tokens:
            self._longest = (dataset, row, error)

    def problems(self, *, skip_helps: bool = True) -> list[Problem]:
        """All of it, in few lines.

        Args:
            skip_helps: the preparation would go on without the rows that can be skipped.
        """
        found = [kind.problem() for kind in self._kinds.values()]
        if self._num_of_other_kinds:
            what = f"and {self._num_of_other_kinds:,} more rows with other problems"
            found.append(Problem(what=what))
        num_listed = sum(kind.skippable for kind in self._kinds.values())
        if skip_helps and self._num_skippable > num_listed:
            what = f"{self._num_skippable:,} rows in all can't be read or don't fit their format"
            hint = "data.on_bad_row: skip leaves them out, counted and listed"
            found.append(Problem(what=what, hint=hint))
        return [*found, *self._too_long()]

    def _too_long(self) -> Sequence[Problem]:
        """The first of these rows, and for all of them together what to write."""
        if self._longest is None or self._num_long_rows == 1:
            return self._long_rows
        dataset, row, error = self._longest
        longest = row_problem(dataset, BadRow(row=row, error=error))
        place = f"{longest.file}:{longest.line}" if longest.line else longest.file
        summary = Problem(
            what=f"{self._num_long_rows:,} rows are longer than data.max_length "
            f"{self._max_length:,}; the longest ({place}) becomes {error.num_tokens:,} tokens",
            hint=error.hint,  # what is enough for the longest is for all
        )
        return [*[replace(one, hint="") for one in self._long_rows], summary]
