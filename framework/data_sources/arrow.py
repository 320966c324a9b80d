"""Datasets saved by `save_to_disk`, and Arrow files -> rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from framework.core.problems import Problem, UserError, did_you_mean
from framework.core.samples import Row
from framework.core.settings import setting
from framework.reading.batches import check_names, read_faults, rows_of_batches
from framework.reading.files import (
    fingerprint_files,
    missing_files,
    number_rows,
    place_row,
    read_text,
    resolve_files,
    source_of,
)
from framework.reading.first_row import first_row_problems
from framework.reading.strict_json import BrokenJson, parse_json

if TYPE_CHECKING:
    from pyarrow import NativeFile, RecordBatch

    from framework.recipe.schema import Recipe

_IPC_FILE_MARK = b"ARROW1"


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """Reads a folder written by `save_to_disk` of Hugging Face datasets, or `.arrow` files."""

    path: str = setting(path=True, not_empty=True)
    """The folder, an `.arrow` file, or a pattern such as `data/*.arrow`."""
    split: str = ""
    """Which split, when the folder holds several."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `.arrow`, and a folder written as such: `./folder`, `folder/`, `~/folder`."""
        source = source_of(locator)
        folder = locator.startswith((".", "/", "~")) or locator.endswith("/")
        takes = source == "arrow" or (source is None and folder and "://" not in locator)
        return {"path": locator} if takes else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """The files must be there, and their first row fit."""
        yield from missing_files(self.files)
        yield from first_row_problems(self, recipe)

    def rows(self, start: int = 1) -> Iterator[tuple[int, Row | Problem]]:
        """(row number from 1, values by column).

        Raises:
            UserError: a file is missing, empty or corrupt, or there is no such split.
        """
        return number_rows(self.files(), _read, _count, start)

    def place(self, number: int) -> tuple[str, int]:
        """(file, row in it) of a row number."""
        return place_row(self.files(), _count, number)

    def fingerprint(self) -> str:
        """Hash of the files' bytes."""
        return fingerprint_files(self.files(), "arrow")

    def files(self) -> tuple[Path, ...]:
        """Those of the folder, or of its split."""
        folder = Path(self.path).expanduser()
        listing = folder / "dataset_dict.json"
        if listing.is_file():
            folder = folder / self._split_of(listing)
        elif self.split:
            what = f"holds no splits, so there is no {self.split!r}"
            raise UserError(Problem(what=what, hint="leave out `split`", file=self.path))
        state = folder / "state.json"
        if not state.is_file():
            return resolve_files(str(folder), "arrow")
        # Folders written by save_to_disk may hold caches besides the files that state.json lists.
        entries = _listed(state, "_data_files")
        names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
        missing = [name for name in names if not _is_file_in(folder, name)]
        if missing:
            what = f"lists {missing[0]!r}, which is not in the folder"
            raise UserError(Problem(what=what, file=str(state)))
        return tuple(folder / str(name) for name in names)

    def _split_of(self, listing: Path) -> str:
        splits = [name for name in _listed(listing, "splits") if isinstance(name, str)]
        if self.split in splits:
            return self.split
        if self.split:
            what, hint = f"there is no split {self.split!r}", did_you_mean(self.split, splits)
        else:
            what = f"the dataset has the splits {', '.join(splits)}"
            hint = f"choose one: {{type: arrow, path: {self.path}, split: {splits[0]}}}"
        raise UserError(Problem(what=what, hint=hint, file=self.path))


def _listed(file: Path, key: str) -> list[object]:
    """The list that a file of save_to_disk holds under `key`."""
    try:
        value = parse_json(read_text(file))
    except BrokenJson as error:
        raise UserError(Problem(what=f"broken JSON: {error.what}", file=str(file))) from error
    entries = value.get(key) if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(Problem(what=f"has no list {key!r}", file=str(file)))
    return entries


def _is_file_in(folder: Path, name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and (folder / name).is_file()


def _read(file: Path, start: int) -> Iterator[tuple[int, Row | Problem]]:
    return rows_of_batches(file, _batches(file), 0, start)


def _count(file: Path) -> int:
    return sum(batch.num_rows for batch in _batches(file))


def _batches(file: Path) -> Iterator[RecordBatch]:
    """The file's batches; they are mapped, so that passing one over costs next to nothing."""
    import pyarrow as pa

    number = 0
    try:
        with pa.memory_map(str(file)) as stream:
            for batch in _batches_of_format(stream):
                check_names(file, batch.schema.names)
                yield batch
                number += batch.num_rows
    except read_faults() as error:
        what = f"is no readable Arrow file after row {number}: {error}"
        hint = "it may be cut short; fetch or write it again"
        raise UserError(Problem(what=what, hint=hint, file=str(file))) from error


def _batches_of_format(stream: NativeFile) -> Iterator[RecordBatch]:
    """Of either Arrow format: the stream that datasets writes, or the file format."""
    from pyarrow import ipc

    is_file_format = stream.read(len(_IPC_FILE_MARK)) == _IPC_FILE_MARK
    stream.seek(0)
    if is_file_format:
        reader = ipc.open_file(stream)
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from ipc.open_stream(stream)
