"""Plain text files -> rows with one column, `text`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from framework.core.problems import Problem
from framework.core.samples import Row
from framework.core.settings import setting
from framework.data.files import (
    fingerprint_files,
    missing_files,
    number_rows,
    place_row,
    read_lines,
    read_text,
    resolve_files,
    source_of,
)

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
        """The files must be there."""
        return missing_files(lambda: resolve_files(self.path, "text"))

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(line on which the document starts, `{"text": document}`); blank ones are passed over.

        Raises:
            UserError: a file is missing, empty or not UTF-8.
        """
        return number_rows(resolve_files(self.path, "text"), self._read)

    def place(self, number: int) -> tuple[str, int]:
        """(file, line) of a row number."""
        return place_row(resolve_files(self.path, "text"), self._read, number)

    def fingerprint(self) -> str:
        """Hash of the files' bytes and of `unit`."""
        return fingerprint_files(resolve_files(self.path, "text"), "text", self.unit)

    def _read(self, file: Path) -> Iterator[tuple[int, Row] | Problem]:
        if self.unit == "file":
            text = read_text(file)
            if text.strip():
                yield 1, {"text": text.replace("\r\n", "\n")}
        elif self.unit == "paragraph":
            yield from _paragraphs(file)
        else:
            for line in read_lines(file):
                if isinstance(line, Problem):
                    yield line
                elif line[1].strip():
                    yield line[0], {"text": line[1].rstrip("\r\n")}


def _paragraphs(file: Path) -> Iterator[tuple[int, Row] | Problem]:
    start, lines = 0, []
    for line in read_lines(file):
        if isinstance(line, Problem):
            yield line
        elif line[1].strip():
            start = start if lines else line[0]
            lines.append(line[1].rstrip("\r\n"))
        elif lines:
            yield start, {"text": "\n".join(lines)}
            lines = []
    if lines:
        yield start, {"text": "\n".join(lines)}
