"""Parquet files -> rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.samples import Row
from framework.core.settings import setting
from framework.data.files import (
    fingerprint_files,
    missing_files,
    number_rows,
    place_row,
    resolve_files,
    source_of,
)

_BATCH_ROWS = 256
"""Rows held as Python objects at a time."""

if TYPE_CHECKING:
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
        """The files must be there."""
        return missing_files(lambda: resolve_files(self.path, "parquet"))

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(row number from 1, values by column).

        Raises:
            UserError: a file is missing, empty or corrupt.
        """
        return number_rows(resolve_files(self.path, "parquet"), _read)

    def place(self, number: int) -> tuple[str, int]:
        """(file, row in it) of a row number."""
        return place_row(resolve_files(self.path, "parquet"), _read, number)

    def count_rows(self) -> int | None:
        """As the files say at their end."""
        import pyarrow as pa
        from pyarrow.parquet import read_metadata

        try:
            return sum(read_metadata(file).num_rows for file in resolve_files(self.path, "parquet"))
        except (pa.ArrowException, OSError, UserError):
            return None

    def fingerprint(self) -> str:
        """Hash of the files' bytes."""
        return fingerprint_files(resolve_files(self.path, "parquet"), "parquet")


def _read(file: Path) -> Iterator[tuple[int, Row] | Problem]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file, memory_map=True) as table:
            for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        what = f"is no readable Parquet file after row {number}: {error}"
        hint = "it may be cut short; fetch or write it again"
        raise UserError(Problem(what=what, hint=hint, file=str(file))) from error
