"""Plain text files -> rows with one column, `text`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from framework.core.problems import Problem
from framework.core.samples import Row
from framework.core.settings import setting
from framework.reading.files import (
    fingerprint_files,
    is_blank,
    last_line,
    last_number,
    missing_files,
    number_rows,
    place_row,
    read_lines,
    read_text,
    resolve_files,
    source_of,
)
from framework.reading.first_row import first_row_problems

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Text:
    """Reads plain text (`.txt`, `.md`): each line, paragraph or file is one row's `text`."""

    path: str = setting(path=True, not_empty=True)
    """A file, a folder of them, or a pattern such as `books/**/*.txt`; read in sorted order."""
    unit: Literal["line", "paragraph", "file"] = "line"
    """What becomes one document. Paragraphs are parted by blank lines."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `.txt` by line, and `.md` as one document per file."""
        if source_of(locator) != "text":
            return None
        unit = "file" if locator.lower().endswith(".md") else "line"
        return {"path": locator, "unit": unit}

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The files must be there, and their first row fit."""
        yield from missing_files(lambda: resolve_files(self.path, "text"))
        whole = "" if self.unit == "line" else "text"
        yield from first_row_problems(self, recipe, whole_files=whole)

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(line on which the document starts, `{"text": document}`); blank ones are passed over.

        A document of which one line is not UTF-8 is broken as a whole.

        Raises:
            UserError: a file is missing or empty, or all its documents are broken.
        """
        return number_rows(resolve_files(self.path, "text"), self._read, self._count, start)

    def place(self, number: int) -> tuple[str, int]:
        """(file, line) of a row number."""
        return place_row(resolve_files(self.path, "text"), self._count, number)

    def files(self) -> Sequence[Path]:
        """The files that `path` names."""
        return resolve_files(self.path, "text")

    def fingerprint(self) -> str:
        """Hash of the files' bytes and of `unit`."""
        return fingerprint_files(resolve_files(self.path, "text"), "text", self.unit)

    def _read(self, file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
        if self.unit == "line":
            return _lines(file, start)
        return _paragraphs(file, start) if self.unit == "paragraph" else _whole(file, start)

    def _count(self, file: Path) -> int:
        return last_line(file) if self.unit == "line" else last_number(self._read(file, 1))


def _lines(file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
    for number, line in read_lines(file, start):
        if isinstance(line, Problem):
            yield number, line
        elif not is_blank(line):
            yield number, {"text": line.rstrip("\r\n")}


def _whole(file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
    text = read_text(file) if start == 1 else ""
    if not is_blank(text):
        yield 1, {"text": text.replace("\r\n", "\n")}


def _paragraphs(file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
    """The paragraphs that begin on line `start` or later; `start` may lie inside of one."""
    first, lines, broken = 0, [], None
    for number, line in read_lines(file, max(1, start - 1)):
        blank = isinstance(line, str) and is_blank(line)
        if blank and lines and first >= start:
            yield first, broken or {"text": "\n".join(lines)}
        if blank:
            lines, broken = [], None
            continue
        first = first if lines else number
        if isinstance(line, Problem):
            broken = broken or line
            lines.append("")
        else:
            lines.append(line.rstrip("\r\n"))
    if lines and first >= start:
        yield first, broken or {"text": "\n".join(lines)}
