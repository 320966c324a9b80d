"""Files with one JSON object per line -> rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError
from framework.core.samples import Row
from framework.core.settings import setting
from framework.reading.files import (
    count_lines,
    fingerprint_files,
    is_blank,
    last_line,
    missing_files,
    number_rows,
    place_row,
    read_lines,
    resolve_files,
    source_of,
)
from framework.reading.first_row import first_row_problems
from framework.reading.strict_json import BrokenJson, kind_of, parse_json

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

_READ_AS_LIST = "a file that is one JSON list is read with `type: json`"
_GOES_ON = ("{", "[", ",", ":")
"""Ends of a line after which JSON goes on in the next."""


@dataclass(frozen=True, kw_only=True)
class Jsonl:
    """Reads one JSON object per line (`.jsonl`, `.ndjson`, also gzipped)."""

    path: str = setting(path=True, not_empty=True)
    """A file, a folder of them, or a pattern such as `data/*.jsonl`; read in sorted order."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `.jsonl` and `.ndjson`, also with `.gz`."""
        return {"path": locator} if source_of(locator) == "jsonl" else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The files must be there, and their first row fit."""
        yield from missing_files(lambda: resolve_files(self.path, "jsonl"))
        yield from first_row_problems(self, recipe)

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(line number, object or what is wrong with the line); blank lines are passed over.

        Raises:
            UserError: a file is missing, empty or cut short, or all its lines are broken.
        """
        return number_rows(resolve_files(self.path, "jsonl"), _read, last_line, start)

    def place(self, number: int) -> tuple[str, int]:
        """(file, line) of a row number."""
        return place_row(resolve_files(self.path, "jsonl"), last_line, number)

    def count_rows(self) -> int | None:
        """Lines of the files, blank ones included."""
        try:
            return count_lines(resolve_files(self.path, "jsonl"))
        except UserError:
            return None

    def files(self) -> Sequence[Path]:
        """The files that `path` names."""
        return resolve_files(self.path, "jsonl")

    def fingerprint(self) -> str:
        """Hash of the files' bytes."""
        return fingerprint_files(resolve_files(self.path, "jsonl"), "jsonl")


def _read(file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
    for number, line in read_lines(file, start):
        if isinstance(line, Problem):
            yield number, line
        elif not is_blank(line):
            yield number, _row(file, number, line)


def _row(file: Path, number: int, text: str) -> Row | Problem:
    try:
        value = parse_json(text)
    except BrokenJson as error:
        what = f"broken JSON: {error.what}"
        hint = ""
        if number == 1 and text.lstrip().startswith("["):
            hint = _READ_AS_LIST
        elif number == 1 and text.lstrip().startswith("{") and text.rstrip().endswith(_GOES_ON):
            hint = (
                "each object has to stand on one line: `jq --compact-output . FILE` writes them "
                f"so; {_READ_AS_LIST}, also where an object holds the list"
            )
        return Problem(what=what, hint=hint, file=str(file), line=number, column=error.column)
    if not isinstance(value, dict):
        what = f"the line holds {kind_of(value)}, not an object"
        hint = "each line is one object: {...}"
        if isinstance(value, list) and number == 1:
            hint = _READ_AS_LIST
        return Problem(what=what, hint=hint, file=str(file), line=number)
    return value
