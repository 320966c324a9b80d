"""Tables of separated values -> rows of strings."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from framework.core.problems import Problem, UserError
from framework.core.samples import Row
from framework.core.settings import setting
from framework.reading.files import (
    byte_lines,
    decode_line,
    fingerprint_files,
    last_number,
    missing_files,
    number_rows,
    place_row,
    resolve_files,
    source_of,
)
from framework.reading.first_row import first_row_problems

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
        """The files must be there, and their first row fit."""
        yield from missing_files(lambda: resolve_files(self.path, "csv"))
        yield from self._header_problems()
        yield from first_row_problems(self, recipe)

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(line on which the row starts, values by column); the header is line 1.

        A row of another number of values than the header is broken, and so is one that is not
        UTF-8 or has a stray quote.

        Raises:
            UserError: a file is missing or empty, its header is broken or repeats a name, or a
                quote leaves open where its row ends.
        """
        return number_rows(resolve_files(self.path, "csv"), self._read, self._count, start)

    def place(self, number: int) -> tuple[str, int]:
        """(file, line) of a row number."""
        return place_row(resolve_files(self.path, "csv"), self._count, number)

    def files(self) -> Sequence[Path]:
        """The files that `path` names."""
        return resolve_files(self.path, "csv")

    def fingerprint(self) -> str:
        """Hash of the files' bytes and of `delimiter`."""
        return fingerprint_files(resolve_files(self.path, "csv"), "csv", self.delimiter)

    def _read(self, file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
        records = _records(file, self._delimiter(file))
        line, header = next(records, (1, []))
        if isinstance(header, Problem):
            raise UserError(header)
        repeated = sorted({name for name in header if header.count(name) > 1})
        problem = self._other_delimiter(file, line, header)
        if problem is not None:
            raise UserError(problem)
        if repeated:
            what = f"the header names {', '.join(map(repr, repeated))} more than once"
            raise UserError(Problem(what=what, file=str(file), line=line))
        for line, values in records:
            # Only the rows before it tell whether a line begins a row or lies inside of quotes.
            if line < start:
                continue
            if isinstance(values, Problem):
                yield line, values
            elif len(values) == len(header):
                yield line, dict(zip(header, values, strict=True))
            else:
                what = f"the row has {len(values)} values, the header has {len(header)}"
                hint = 'a value that holds the delimiter or a line end is written in "quotes"'
                yield line, Problem(what=what, hint=hint, file=str(file), line=line)

    def _header_problems(self) -> Iterator[Problem]:
        """Of the first file, and nothing where it can't be read: preparing the data says so."""
        try:
            file = resolve_files(self.path, "csv")[0]
            line, header = next(_records(file, self._delimiter(file)), (1, []))
        except UserError:
            return
        problem = None if isinstance(header, Problem) else self._other_delimiter(file, line, header)
        if problem is not None:
            yield problem

    def _other_delimiter(self, file: Path, line: int, header: Sequence[str]) -> Problem | None:
        """What is wrong where nothing was written, and the header is one name that holds another
        delimiter."""
        if self.delimiter != "auto" or len(header) != 1:
            return None
        chosen = self._delimiter(file)
        found = [one for one in (";", "\t", "|", ",") if one in header[0]]
        if not found:
            return None
        return Problem(
            key=".delimiter",
            what=f"the header is the one name {header[0]!r} when values stand between "
            f"{_written(chosen)}",
            hint=f"write `source: {{type: csv, path: {self.path}, "
            f"delimiter: {_written(found[0])}}}`, or delimiter: {_written(chosen)} if that is "
            "its name",
            file=str(file),
            line=line,
        )

    def _count(self, file: Path) -> int:
        return last_number(self._read(file, 1))

    def _delimiter(self, file: Path) -> str:
        if self.delimiter != "auto":
            return self.delimiter
        return "\t" if file.suffix.lower() == ".tsv" else ","


def _records(file: Path, delimiter: str) -> Iterator[tuple[int, list[str] | Problem]]:
    """(line on which it starts, values) of every record that is not blank.

    Raises:
        UserError: the file can't be read, or a quote is open from some line on.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    broken: list[Problem] = []
    reader = csv.reader(_lines(file, broken), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = _broken_csv(file, start, error)
            # Once quotes have taken in a line end, nobody knows where the next row begins.
            if reader.line_num > start:
                raise UserError(problem) from error
            broken.append(problem)
            values = []
        if broken:
            yield start, broken[0]
            broken.clear()
        elif values:
            yield start, values
        start = reader.line_num + 1


def _lines(file: Path, broken: list[Problem]) -> Iterator[str]:
    """The lines as text; what is wrong with them goes to `broken`."""
    for number, line in byte_lines(file):
        text = decode_line(file, number, line)
        if isinstance(text, Problem):
            broken.append(text)
            text = line.decode(errors="replace")
        yield text


def _written(delimiter: str) -> str:
    """As YAML."""
    return '"\\t"' if delimiter == "\t" else f'"{delimiter}"'


def _broken_csv(file: Path, line: int, error: csv.Error) -> Problem:
    what, hint = f"broken CSV: {error}", 'a quote inside "quotes" is written twice'
    return Problem(what=what, hint=hint, file=str(file), line=line)
