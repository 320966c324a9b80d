"""Tables of separated values -> rows of strings."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from framework.core.problems import Problem, UserError
from framework.core.samples import Row
from framework.core.settings import setting
from framework.data.files import (
    fingerprint_files,
    missing_files,
    number_rows,
    place_row,
    read_lines,
    resolve_files,
    source_of,
)

_LONGEST_FIELD = 2**31 - 1
"""Python's default of 131,072 characters is shorter than a long document."""

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Csv:
    """Reads `.csv` and `.tsv` tables with a header line; every value is a string."""

    path: str = setting(path=True, not_empty=True)
    """A file, a folder of them, or a pattern such as `data/*.csv`; read in sorted order."""
    delimiter: Literal["auto", ",", ";", "\t", "|"] = "auto"
    """What stands between two values. `auto`: a tab in `.tsv` files, else a comma."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `.csv` and `.tsv`."""
        return {"path": locator} if source_of(locator) == "csv" else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The files must be there."""
        return missing_files(lambda: resolve_files(self.path, "csv"))

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(line on which the row starts, values by column); the header is line 1.

        Raises:
            UserError: a file is missing or empty, its header repeats a name, or rows have another
                number of values than the header.
        """
        return number_rows(resolve_files(self.path, "csv"), self._read)

    def place(self, number: int) -> tuple[str, int]:
        """(file, line) of a row number."""
        return place_row(resolve_files(self.path, "csv"), self._read, number)

    def fingerprint(self) -> str:
        """Hash of the files' bytes and of `delimiter`."""
        return fingerprint_files(resolve_files(self.path, "csv"), "csv", self.delimiter)

    def _read(self, file: Path) -> Iterator[tuple[int, Row] | Problem]:
        records = _records(file, self._delimiter(file))
        line, header = next(records, (0, []))
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            what = f"the header names {', '.join(map(repr, repeated))} more than once"
            raise UserError(Problem(what=what, file=str(file), line=line))
        for line, values in records:
            if len(values) == len(header):
                yield line, dict(zip(header, values, strict=True))
            else:
                what = f"the row has {len(values)} values, the header has {len(header)}"
                hint = 'a value that holds the delimiter or a line end is written in "quotes"'
                yield Problem(what=what, hint=hint, file=str(file), line=line)

    def _delimiter(self, file: Path) -> str:
        if self.delimiter != "auto":
            return self.delimiter
        return "\t" if file.suffix.lower() == ".tsv" else ","


def _records(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which it starts, values) of every record that is not blank."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
    start = 1
    try:
        for values in reader:
            if values:
                yield start, values
            start = reader.line_num + 1
    except csv.Error as error:
        what = f"broken CSV: {error}"
        hint = 'a quote inside "quotes" is written twice'
        raise UserError(Problem(what=what, hint=hint, file=str(file), line=start)) from error


def _lines(file: Path) -> Iterator[str]:
    for line in read_lines(file):
        if isinstance(line, Problem):
            raise UserError(line)
        yield line[1]
