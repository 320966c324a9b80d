"""Arrow record batches -> rows, and a problem for every row that can't be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.samples import Row

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch


def read_faults() -> tuple[type[Exception], ...]:
    """What pyarrow raises where a file is damaged."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, KeyError, ArithmeticError)


def check_names(file: Path, names: Sequence[str]) -> None:
    """
    Raises:
        UserError: two columns have one name, so that a row could hold only one of them.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        what = f"names the column {repeated[0]!r} more than once"
        raise UserError(Problem(what=what, hint="rename or leave out one", file=str(file)))


def rows_of_batches(
    file: Path, batches: Iterable[RecordBatch], before: int, start: int
) -> Iterator[tuple[int, Row | Problem]]:
    """(row number, row or what is wrong with it) from number `start` on.

    Args:
        before: number of the last row before the batches.
    """
    for batch in batches:
        skipped = min(max(0, start - 1 - before), batch.num_rows)
        before += skipped
        if skipped < batch.num_rows:
            yield from _rows(file, batch.slice(skipped), before + 1)
        before += batch.num_rows - skipped


def _rows(file: Path, batch: RecordBatch, first: int) -> Iterator[tuple[int, Row | Problem]]:
    try:
        # Offsets of a corrupt file would otherwise be followed outside of its memory.
        batch.validate(full=True)
        rows = batch.to_pylist()
    except read_faults():
        yield from _rows_one_by_one(file, batch, first)
    else:
        yield from enumerate(rows, start=first)


def _rows_one_by_one(
    file: Path, batch: RecordBatch, first: int
) -> Iterator[tuple[int, Row | Problem]]:
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        try:
            for column in row.columns:
                _validate(column)
            yield first + index, row.to_pylist()[0]
        except read_faults() as error:
            what = f"row {first + index} can't be read: {' '.join(str(error).split())}"
            yield first + index, Problem(what=what, file=str(file), line=first + index)


def _validate(column: Array) -> None:
    """Validates what belongs to these rows; Arrow validates the lists of all rows at once.

    Raises:
        Exception: one of `read_faults`.
    """
    import pyarrow as pa

    if isinstance(column, pa.ListArray | pa.LargeListArray):
        for index in range(len(column)):
            one = column.slice(index, 1)
            one.validate()
            _validate(one.flatten())
    elif isinstance(column, pa.StructArray):
        for child in column.flatten():
            _validate(child)
    else:
        column.validate(full=True)
