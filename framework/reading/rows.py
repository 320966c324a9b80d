"""A dataset of the recipe -> its samples, and a problem for every row that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from framework.chat.reasoning import refuse_thinking, without_thinking
from framework.core.problems import Problem, UserError
from framework.core.protocols.data import Counted, Deciding
from framework.core.recognition import Recognition
from framework.core.registries import component_name
from framework.core.samples import Completion, NumberedSample, Row, RowError, Sample
from framework.reading.additions import with_system_prompt, with_task_prefix, with_weight
from framework.reading.chosen_rows import chosen_rows, num_chosen_rows, renamed
from framework.reading.media import refuse_media
from framework.reading.split import SplitSource
from framework.reading.unread_columns import ColumnWatch

if TYPE_CHECKING:
    from framework.recipe.schema import Data, Dataset


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that can't be read (a `Problem`), or does not fit its format (a `RowError`)."""

    row: int
    error: RowError | Problem


def read_samples(
    dataset: Dataset,
    name: str,
    data: Data,
    start: int = 1,
    watch: ColumnWatch | None = None,
) -> Iterator[NumberedSample | BadRow]:
    """The samples of a dataset that is called `name`, in file order, and the rows that are none.

    Args:
        data: the section around the dataset, which says what becomes of thinking.
        start: number of the first row that is read.
        watch: learns which columns are read.

    Raises:
        UserError: the source can't be read from some place on, not one row of the dataset can be
            used, `rows` is not a slice, or the first row decides on no format.
    """
    num_rows, first_bad, usable = 0, None, False
    format_ = decided_format(dataset).format
    read = format_ if watch is None else partial(watch.read, format_=format_)
    for number, row in chosen_rows(dataset, start):
        result = _sample(dataset, name, data, read, number, row)
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
    dataset: Dataset,
    name: str,
    data: Data,
    read: Callable[[Row], Sample],
    number: int,
    row: Row | Problem,
) -> NumberedSample | BadRow:
    if isinstance(row, Problem):
        return BadRow(row=number, error=row)
    try:
        named = renamed(row, dataset.columns)
        sample = read(named)
        refuse_media(sample, named)
        sample = _adjusted(sample, dataset, data)
        if dataset.loss_weight_column is not None:
            sample = with_weight(sample, row, dataset.loss_weight_column)
    except RowError as error:
        return BadRow(row=number, error=error)
    return NumberedSample(dataset=name, row=number, sample=sample)


def expected_rows(dataset: Dataset) -> int | None:
    """Rows that `read_samples` will read at most; None where the source can't tell at once."""
    total = dataset.source.count_rows() if isinstance(dataset.source, Counted) else None
    return None if total is None else num_chosen_rows(dataset, total)


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
        return dataset.format.decide(renamed(row, dataset.columns))
    except RowError as error:
        raise UserError(row_problem(dataset, BadRow(row=number, error=error))) from None


def first_row(dataset: Dataset) -> tuple[int, Row] | None:
    """(number, row) of the first readable row that `rows` chooses; None when there is none.

    All parts of a split dataset have the first row of the whole, and so one format.

    Raises:
        UserError: the source can't be read, or `rows` is not a slice.
    """
    source = dataset.source
    whole = source.dataset if isinstance(source, SplitSource) else dataset
    for number, row in chosen_rows(whole, 1):
        if not isinstance(row, Problem):
            return number, row
    return None


def _adjusted(sample: Sample, dataset: Dataset, data: Data) -> Sample:
    if data.reasoning != "keep" and isinstance(sample, Completion):
        refuse_thinking(sample)
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
