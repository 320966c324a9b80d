"""Parquet files -> rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.samples import Row
from framework.core.settings import setting
from framework.reading.batches import check_names, read_faults, rows_of_batches
from framework.reading.files import (
    fingerprint_files,
    missing_files,
    number_rows,
    place_row,
    resolve_files,
    source_of,
)
from framework.reading.first_row import first_row_problems

_BATCH_ROWS = 256
"""Rows held as Python objects at a time."""

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """Reads Parquet files, a few hundred rows at a time."""

    path: str = setting(path=True, not_empty=True)
    """A file, a folder of them, or a pattern such as `data/*.parquet`; read in sorted order."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `.parquet`."""
        return {"path": locator} if source_of(locator) == "parquet" else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The files must be there, and their first row fit."""
        yield from missing_files(lambda: resolve_files(self.path, "parquet"))
        yield from first_row_problems(self, recipe)

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(row number from 1, values by column).

        Raises:
            UserError: a file is missing, empty or corrupt.
        """
        return number_rows(resolve_files(self.path, "parquet"), _read, _count, start)

    def place(self, number: int) -> tuple[str, int]:
        """(file, row in it) of a row number."""
        return place_row(resolve_files(self.path, "parquet"), _count, number)

    def count_rows(self) -> int | None:
        """As the files say at their end."""
        import pyarrow as pa
        from pyarrow.parquet import read_metadata

        try:
            return sum(read_metadata(file).num_rows for file in resolve_files(self.path, "parquet"))
        except (pa.ArrowException, OSError, UserError):
            return None

    def files(self) -> Sequence[Path]:
        """The files that `path` names."""
        return resolve_files(self.path, "parquet")

    def fingerprint(self) -> str:
        """Hash of the files' bytes."""
        return fingerprint_files(resolve_files(self.path, "parquet"), "parquet")


def _read(file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
    with _opened(file) as table:
        check_names(file, table.schema_arrow.names)
        group, before = _seek(table, start)
        yield from rows_of_batches(file, _batches(file, table, group, before), before, start)


def _count(file: Path) -> int:
    with _opened(file) as table:
        return table.metadata.num_rows


def _seek(table: ParquetFile, start: int) -> tuple[int, int]:
    """(the row group that row `start` is in, number of rows in the groups before it)."""
    before = 0
    for group in range(table.num_row_groups):
        num_rows = table.metadata.row_group(group).num_rows
        if before + num_rows >= start:
            return group, before
        before += num_rows
    return table.num_row_groups, before


def _opened(file: Path) -> ParquetFile:
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file, memory_map=True)
    except read_faults() as error:
        raise UserError(_corrupt(file, 0, error)) from error


def _batches(file: Path, table: ParquetFile, group: int, before: int) -> Iterator[RecordBatch]:
    groups = list(range(group, table.num_row_groups))
    try:
        for batch in table.iter_batches(_BATCH_ROWS, row_groups=groups, use_threads=False):
            yield batch
            before += batch.num_rows
    except read_faults() as error:
        raise UserError(_corrupt(file, before, error)) from error


def _corrupt(file: Path, after: int, error: Exception) -> Problem:
    what = f"is no readable Parquet file after row {after}: {error}"
    hint = "it may be cut short; fetch or write it again"
    return Problem(what=what, hint=hint, file=str(file))
