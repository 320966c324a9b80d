"""Files that are one JSON list of objects -> rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError, did_you_mean
from framework.core.samples import Row
from framework.core.settings import setting
from framework.reading.files import (
    fingerprint_files,
    last_number,
    missing_files,
    number_rows,
    place_row,
    read_text,
    resolve_files,
    source_of,
)
from framework.reading.first_row import first_row_problems
from framework.reading.strict_json import (
    BrokenJson,
    fault_in,
    kind_of,
    parse_faulty_json,
    parse_json,
)

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Json:
    """Reads a JSON file that is a list of objects, or an object that holds such a list."""

    path: str = setting(path=True, not_empty=True)
    """A file, a folder of them, or a pattern such as `data/*.json`; read in sorted order."""
    field: str = ""
    """Key of the list when the file is an object. Empty: the only list in it."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `.json`."""
        return {"path": locator} if source_of(locator) == "json" else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The files must be there, and their first row fit."""
        yield from missing_files(lambda: resolve_files(self.path, "json"))
        yield from first_row_problems(self, recipe, whole_files="json")

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(place in the list from 1, object).

        Raises:
            UserError: a file is missing, empty, broken, or holds no list of objects.
        """
        return number_rows(resolve_files(self.path, "json"), self._read, self._count, start)

    def place(self, number: int) -> tuple[str, int]:
        """(file, place in its list) of a row number."""
        return place_row(resolve_files(self.path, "json"), self._count, number)

    def files(self) -> Sequence[Path]:
        """The files that `path` names."""
        return resolve_files(self.path, "json")

    def fingerprint(self) -> str:
        """Hash of the files' bytes and of `field`."""
        return fingerprint_files(resolve_files(self.path, "json"), "json", self.field)

    def _read(self, file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
        value, sound = _parse(file)
        items = self._items(file, value)
        around = None if sound else _fault_around(value, items)
        if around:
            raise UserError(Problem(what=f"the file {around.what}", file=str(file)))
        for number, item in enumerate(items[start - 1 :], start=start):
            fault = None if sound else fault_in(item)
            if fault is None and isinstance(item, dict):
                yield number, item
                continue
            what = fault.what if fault else f"is {kind_of(item)}, not an object"
            what = f"item {number} of the list {what}"
            yield number, Problem(what=what, file=str(file), line=number)

    def _count(self, file: Path) -> int:
        return last_number(self._read(file, 1))

    def _items(self, file: Path, value: object) -> list[object]:
        if isinstance(value, dict):
            lists = {key: item for key, item in value.items() if isinstance(item, list)}
            if self.field in lists:
                return lists[self.field]
            if not self.field and len(lists) == 1:
                return next(iter(lists.values()))
            raise UserError(_which_list(file, self.field, sorted(lists)))
        if isinstance(value, BrokenJson):
            raise UserError(Problem(what=f"the file {value.what}", file=str(file)))
        if not isinstance(value, list):
            what = f"the file holds {kind_of(value)}, not a list of objects"
            raise UserError(Problem(what=what, file=str(file)))
        if self.field:
            what = f"the file is a list, so it has no {self.field!r}"
            raise UserError(Problem(what=what, hint="leave out `field`", file=str(file)))
        return value


def _parse(file: Path) -> tuple[object, bool]:
    """(value, whether no item of it has a fault)."""
    text = read_text(file)
    if not text.strip():
        raise UserError(Problem(what="the file is empty", file=str(file)))
    try:
        return _parse_text(text)
    except BrokenJson as error:
        several = error.what.startswith("Extra data") and text.lstrip().startswith("{")
        problem = Problem(
            what=f"broken JSON: {error.what}",
            hint="a file with one object per line is read with `type: jsonl`" if several else "",
            file=str(file),
            line=error.line,
            column=error.column,
        )
        raise UserError(problem) from error


def _parse_text(text: str) -> tuple[object, bool]:
    try:
        return parse_json(text), True
    except BrokenJson as error:
        if error.line:
            raise
    # What is wrong has no place in the text, but it has one in the list.
    return parse_faulty_json(text), False


def _fault_around(value: object, items: list[object]) -> BrokenJson | None:
    """The fault of a file outside of its list."""
    if isinstance(value, dict):
        return fault_in({key: part for key, part in value.items() if part is not items})
    return None


def _which_list(file: Path, field: str, names: list[str]) -> Problem:
    if not names:
        return Problem(what="the file is an object without a list in it", file=str(file))
    if field:
        what = f"the file has no list {field!r}"
        return Problem(what=what, hint=did_you_mean(field, names), file=str(file))
    what = f"the file is an object with {len(names)} lists: {', '.join(names)}"
    return Problem(what=what, hint=f"choose one: `field: {names[0]}`", file=str(file))
