"""A local source's first rows -> what preparing the data would refuse of all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.protocols.data import DataSource, Deciding, Local
from framework.core.samples import Row, RowError
from framework.reading.additions import with_system_prompt, with_task_prefix, with_weight
from framework.reading.chosen_rows import renamed
from framework.reading.files import resolve_files
from framework.reading.media import refuse_media
from framework.recipe.constraints import unfit_additions, unfit_format
from framework.recipe.row_slice import slice_bounds

if TYPE_CHECKING:
    from framework.recipe.schema import Dataset, Recipe

_MOST_BYTES = 50_000_000
_FARTHEST_ROW = 1_000
_NUM_ROWS = 3


def first_row_problems(
    source: DataSource, recipe: Recipe, *, whole_files: str = ""
) -> Iterator[Problem]:
    """Why not one of the first rows of the datasets that read `source` can become a sample.

    Says nothing of rows that can't be read, nor of single ones that don't fit: preparing the data
    lists them all. Nor where the recipe leaves out bad rows.

    Args:
        whole_files: the source's name if its first row costs reading a whole file; a large one is
            passed over.
    """
    data = recipe.data
    if data.on_bad_row == "skip":
        return
    for part, datasets in (("train", data.train), ("eval", data.eval), ("test", data.test)):
        for index, dataset in enumerate(datasets):
            if dataset.source is not source:
                continue
            rows = _first_rows(dataset, whole_files)
            key = f"data.{part}[{index}]"
            found = [_misfit(key, part, dataset, recipe, row) for _, row in rows]
            if not found or None in found:
                continue
            if isinstance(found[0], Problem):
                yield found[0]
            elif found[0] is not None:
                name, error = found[0]
                file, line = source.place(rows[0][0])
                what, hint = error.what, error.hint
                yield Problem(key=f"{key}.{name}", what=what, hint=hint, file=file, line=line)


def _first_rows(dataset: Dataset, whole_files: str) -> list[tuple[int, Row]]:
    """(number, row) of the first rows; none where one is damaged, or costs much to find."""
    try:
        start = slice_bounds(dataset.rows or ":")[0] or "0"
        if not start.isdecimal() or int(start) > _FARTHEST_ROW:
            return []
        if whole_files and _first_file_bytes(dataset.source, whole_files) > _MOST_BYTES:
            return []
        first = int(start)
        numbered = list(itertools.islice(dataset.source.rows(), first, first + _NUM_ROWS))
    except UserError:
        return []
    rows = [(number, row) for number, row in numbered if not isinstance(row, Problem)]
    return rows if len(rows) == len(numbered) else []


def _first_file_bytes(source: DataSource, kind: str) -> int:
    assert isinstance(source, Local)
    return resolve_files(source.path, kind)[0].stat().st_size


def _misfit(
    key: str, part: str, dataset: Dataset, recipe: Recipe, row: Row
) -> Problem | tuple[str, RowError] | None:
    """What is wrong with the row, and under which key of the dataset, or a whole problem."""
    name = "columns"
    try:
        written, row = row, renamed(row, dataset.columns)
        name = "format"
        format_ = dataset.format
        if isinstance(format_, Deciding):
            try:
                format_ = format_.decide(row).format
            except RowError:
                return None  # such a format says so itself
        if part != "test" and any(unfit_format(f"{key}.format", format_, recipe)):
            return None
        unfit = next(unfit_additions(key, dataset, format_), None)
        if unfit is not None:
            # Of a written format, the recipe alone says it.
            return unfit if format_ is not dataset.format else None
        sample = format_(row)
        refuse_media(sample, row)
        if dataset.system_prompt is not None:
            name = "system_prompt"
            sample = with_system_prompt(sample, dataset.system_prompt)
        if dataset.task_prefix is not None:
            name = "task_prefix"
            with_task_prefix(sample, dataset.task_prefix)
        if dataset.loss_weight_column is not None:
            name = "loss_weight_column"
            with_weight(sample, written, dataset.loss_weight_column)
    except RowError as error:
        return name, error
    return None
