"""A dataset's `rows` and `columns` -> its rows, under the names that its format knows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from framework.core.problems import Problem, did_you_mean
from framework.core.samples import Row, RowError
from framework.recipe.row_slice import slice_bounds

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the columns under the names that the format knows.

    Raises:
        RowError: it has no such column.
    """
    if not columns:
        return row
    missing = [theirs for theirs in columns.values() if theirs not in row]
    if missing:
        raise RowError(
            f"has no column {missing[0]!r}, which `columns` names",
            f"{did_you_mean(missing[0], row)}; the row has: {', '.join(row)}",
        )
    taken = set(columns.values())
    kept = {name: value for name, value in row.items() if name not in taken}
    return {**kept, **{ours: row[theirs] for ours, theirs in columns.items()}}


def chosen_rows(dataset: Dataset, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
    """(number, row) of the rows that the dataset's `rows` chooses, from number `start` on.

    Raises:
        UserError: the source can't be read, or `rows` is not a slice.
    """
    if dataset.rows is None:
        return dataset.source.rows(start)
    bounds = slice_bounds(dataset.rows)
    relative = any(bound and (bound.startswith("-") or bound.endswith("%")) for bound in bounds)
    total = sum(1 for _ in dataset.source.rows()) if relative else 0
    first, stop = (_position(bound, total) for bound in bounds)
    rows = itertools.islice(dataset.source.rows(), first or 0, stop)
    # A slice counts rows, and only reading tells how many there are before a number.
    return itertools.dropwhile(lambda numbered: numbered[0] < start, rows)


def num_chosen_rows(dataset: Dataset, total: int) -> int:
    """How many of `total` rows the dataset's `rows` chooses.

    Raises:
        UserError: it is not a slice.
    """
    if dataset.rows is None:
        return total
    start, stop = (_position(bound, total) for bound in slice_bounds(dataset.rows))
    return len(range(total)[start or 0 : stop])


def _position(bound: str | None, total: int) -> int | None:
    if bound is None:
        return None
    if bound.endswith("%"):
        share = int(bound[:-1]) * total // 100
        return max(0, total + share) if share < 0 else share
    number = int(bound)
    return max(0, total + number) if number < 0 else number
