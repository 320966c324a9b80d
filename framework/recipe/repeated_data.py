"""Datasets of a recipe -> notes of those that read rows another one reads too."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.protocols.data import DataSource, Filed
from framework.recipe.row_slice import slice_bounds

if TYPE_CHECKING:
    from framework.recipe.schema import Data, Dataset

_READ_BY = ("format", "columns", "system_prompt", "task_prefix")
"""What makes samples of their own of the same rows."""


def repeated_data(data: Data) -> Iterator[Problem]:
    """Held-out rows that are trained, and rows that are trained twice, as far as sources tell.

    Slices that count from the end may or may not meet, and are passed over.
    """
    trained = [(f"data.train[{index}]", one) for index, one in enumerate(data.train)]
    held_out = [
        (part, f"data.{part}[{index}]", one)
        for part, datasets in (("eval", data.eval), ("test", data.test))
        for index, one in enumerate(datasets)
    ]
    for (part, key, dataset), (other, train) in itertools.product(held_out, trained):
        if (shared := _shared(dataset, train)) is not None:
            yield Problem(
                key=f"{key}.source",
                what=f"rows of it are trained too, by {other}{shared}: how well the model does "
                "on them says nothing of rows that it hasn't seen",
                hint=f"name other rows, or leave it out and write `split: {{{part}: 0.05}}`",
            )
    for (other, first), (key, dataset) in itertools.combinations(trained, 2):
        if first.weight is not None or dataset.weight is not None:
            continue
        if any(vars(first)[name] != vars(dataset)[name] for name in _READ_BY):
            continue
        if (shared := _shared(dataset, first)) is not None:
            yield Problem(
                key=f"{key}.source",
                what=f"rows of it stand in {other} too{shared}: an epoch trains them twice",
                hint="leave one out; to train rows more often, write `epochs: 2` at one dataset",
            )


def _shared(first: Dataset, second: Dataset) -> str | None:
    """Which file both read rows of, ` (train.jsonl)`; empty for another source; None for none."""
    if not _meet(first.rows, second.rows):
        return None
    if first.source == second.source:
        files = _files(first.source)
    else:
        files = [one for one in _files(first.source) if one in set(_files(second.source))]
        # Slices count over all of a source's files: they say nothing of a file in two others.
        if not files or first.rows is not None or second.rows is not None:
            return None
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return f" ({files[0].name}{more})" if files else ""


def _files(source: DataSource) -> list[Path]:
    """Its files; none where it has none, of which it says more itself."""
    if not isinstance(source, Filed):
        return []
    try:
        return [one.resolve() for one in source.files()]
    except UserError:
        return []


def _meet(first: str | None, second: str | None) -> bool:
    """Whether two slices of the same rows have rows in common for certain."""
    if first is None or second is None or first == second:
        return True
    try:
        bounds = [*slice_bounds(first), *slice_bounds(second)]
    except UserError:
        return False  # the slice itself is refused
    written = [one for one in bounds if one is not None]
    percents = {one.endswith("%") for one in written if one.strip("0%")}
    if len(percents) > 1 or any(one.startswith("-") for one in written):
        return False
    first_start, first_stop, second_start, second_stop = (
        (math.inf if at % 2 else 0) if one is None else int(one.rstrip("%"))
        for at, one in enumerate(bounds)
    )
    return max(first_start, second_start) < min(first_stop, second_stop)
