"""A dataset of the recipe -> its samples, and a problem for every row that does not fit."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError, did_you_mean
from framework.core.protocols import Counted, Deciding, Formatter
from framework.core.recognition import Recognition
from framework.core.registries import component_name
from framework.core.samples import NumberedSample, Row, RowError, Sample
from framework.data.additions import with_system_prompt, with_task_prefix
from framework.data.reasoning import without_thinking

if TYPE_CHECKING:
    from framework.recipe.schema import Data, Dataset

_SLICE = re.compile(r"(-?\d+%?)?:(-?\d+%?)?")


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that can't be read (a `Problem`), or does not fit its format (a `RowError`)."""

    row: int
    error: RowError | Problem


def read_samples(
    dataset: Dataset, name: str, data: Data, start: int = 1
) -> Iterator[NumberedSample | BadRow]:
    """The samples of a dataset that is called `name`, in file order, and the rows that are none.

    Args:
        data: the section around the dataset, which says what becomes of thinking.
        start: number of the first row that is read.

    Raises:
        UserError: the source can't be read from some place on, not one row of the dataset can be
            used, `rows` is not a slice, or the first row decides on no format.
    """
    num_rows, first_bad, usable = 0, None, False
    format_ = decided_format(dataset).format
    for number, row in _sliced(dataset, start):
        result = _sample(dataset, name, data, format_, number, row)
        num_rows += 1
        if isinstance(result, BadRow):
            first_bad = first_bad or result
        else:
            usable = True
        yield result
    if start == 1 and first_bad and not usable:
        first = row_problem(dataset, first_bad)
        what = f"not one of {num_rows:,} rows can be used; the first: {first.what}"
        raise UserError(replace(first, what=what))


def _sample(
    dataset: Dataset, name: str, data: Data, format_: Formatter, number: int, row: Row | Problem
) -> NumberedSample | BadRow:
    if isinstance(row, Problem):
        return BadRow(row=number, error=row)
    try:
        sample = _adjusted(format_(_renamed(row, dataset.columns)), dataset, data)
    except RowError as error:
        return BadRow(row=number, error=error)
    return NumberedSample(dataset=name, row=number, sample=sample)


def expected_rows(dataset: Dataset) -> int | None:
    """Rows that `read_samples` will read at most; None where the source can't tell at once."""
    total = dataset.source.count_rows() if isinstance(dataset.source, Counted) else None
    if total is None or dataset.rows is None:
        return total
    start, stop = (_position(bound, total) for bound in _bounds(dataset.rows))
    return len(range(total)[start or 0 : stop])


def decided_format(dataset: Dataset) -> Recognition:
    """The format that reads all rows: the recipe's, or the one that the first row decides on.

    Raises:
        UserError: the first row fits several formats, or none, with its file and line.
    """
    written = Recognition(
        name=component_name(dataset.format) or type(dataset.format).__name__,
        format=dataset.format,
    )
    if not isinstance(dataset.format, Deciding):
        return written
    first = first_row(dataset)
    if first is None:
        return written
    number, row = first
    try:
        return dataset.format.decide(_renamed(row, dataset.columns))
    except RowError as error:
        raise UserError(row_problem(dataset, BadRow(row=number, error=error))) from None


def first_row(dataset: Dataset) -> tuple[int, Row] | None:
    """(number, row) of the first readable row that `rows` chooses; None when there is none.

    Raises:
        UserError: the source can't be read, or `rows` is not a slice.
    """
    for number, row in _sliced(dataset, 1):
        if not isinstance(row, Problem):
            return number, row
    return None


def _adjusted(sample: Sample, dataset: Dataset, data: Data) -> Sample:
    if data.reasoning == "strip":
        sample = without_thinking(sample)
    if dataset.system_prompt is not None:
        sample = with_system_prompt(sample, dataset.system_prompt)
    if dataset.task_prefix is not None:
        sample = with_task_prefix(sample, dataset.task_prefix)
    return sample


def row_problem(dataset: Dataset, bad: BadRow) -> Problem:
    """The error with its file and line; looking them up may read the files again."""
    if isinstance(bad.error, Problem):
        return bad.error
    file, line = dataset.source.place(bad.row)
    return Problem(what=bad.error.what, hint=bad.error.hint, file=file, line=line)


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row with the columns under the names that the format knows."""
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


def _sliced(dataset: Dataset, start: int) -> Iterator[tuple[int, Row | Problem]]:
    if dataset.rows is None:
        return dataset.source.rows(start)
    bounds = _bounds(dataset.rows)
    relative = any(bound and (bound.startswith("-") or bound.endswith("%")) for bound in bounds)
    total = sum(1 for _ in dataset.source.rows()) if relative else 0
    first, stop = (_position(bound, total) for bound in bounds)
    rows = itertools.islice(dataset.source.rows(), first or 0, stop)
    # A slice counts rows, and only reading tells how many there are before a number.
    return itertools.dropwhile(lambda numbered: numbered[0] < start, rows)


def _bounds(rows: str) -> tuple[str | None, ...]:
    """What stands before and after the colon.

    Raises:
        UserError: it is not a slice.
    """
    match = _SLICE.fullmatch(rows.strip())
    if match is None:
        raise UserError(
            f"rows: {rows!r} is not a slice", "write it like `:1000`, `100:200` or `:10%`"
        )
    return match.groups()


def _position(bound: str | None, total: int) -> int | None:
    if bound is None:
        return None
    if bound.endswith("%"):
        share = int(bound[:-1]) * total // 100
        return max(0, total + share) if share < 0 else share
    number = int(bound)
    return max(0, total + number) if number < 0 else number
