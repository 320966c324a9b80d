"""Paths as recipes write them -> files, their lines and rows with positions, and their hash."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from framework.core.problems import Problem, UserError, nearest
from framework.core.samples import Row

SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"),
    "json": (".json",),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "text": (".txt", ".md"),
    "arrow": (".arrow",),
}
"""Data source -> the file names it takes as its own."""

MOST_PROBLEMS = 20
"""A broken file is reported up to here; beyond it, more of the same helps nobody."""

Read = Callable[[Path], Iterator["tuple[int, Row] | Problem"]]
"""One file -> its rows, numbered from 1 in rising order, and problems in place of broken rows."""

_BLOCK_BYTES = 1 << 20
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def source_of(locator: str) -> str | None:
    """The data source whose suffix `locator` has; None for an address or an unknown suffix."""
    if "://" in locator:
        return None
    name = locator.lower()
    return next((source for source, ends in SUFFIXES.items() if name.endswith(ends)), None)


def resolve_files(path: str, source: str) -> tuple[Path, ...]:
    """The files that `path` names, in sorted order, for one of the sources in `SUFFIXES`.

    A folder stands for the files in it that have the source's suffixes; a pattern (`*`, `?`, `[]`,
    `**`) for every file it matches.

    Raises:
        UserError: nothing is there; names the nearest thing that is.
    """
    found = Path(path).expanduser()
    if found.is_dir():
        return _files_of_folder(found, source)
    if found.is_file():
        return (found,)
    if found.exists():
        raise UserError(Problem(what="is neither a file nor a folder", file=path))
    if any(letter in path for letter in "*?["):
        return _files_of_pattern(found)
    raise UserError(Problem(what="there is no such file", hint=_hint_for_missing(found), file=path))


def missing_files(find: Callable[[], object]) -> list[Problem]:
    """What `find` fails to find, as a fault of the recipe's key `path`."""
    try:
        find()
    except UserError as error:
        return [
            Problem(key=".path", what=f"{problem.file!r}: {problem.what}", hint=problem.hint)
            for problem in error.problems
        ]
    return []


def _files_of_folder(folder: Path, source: str) -> tuple[Path, ...]:
    endings = SUFFIXES[source]
    present = sorted(file for file in folder.iterdir() if file.is_file())
    files = tuple(file for file in present if file.name.lower().endswith(endings))
    if files:
        return files
    other = next((file for file in present if source_of(file.name)), None)
    hint = f"give a file, or a pattern such as {folder / ('**/*' + endings[0])}"
    if other:
        hint = f"it holds {other.name}: write `type: {source_of(other.name)}`"
    raise UserError(
        Problem(
            what=f"the folder holds no {' or '.join(endings)} file", hint=hint, file=str(folder)
        )
    )


def _files_of_pattern(pattern: Path) -> tuple[Path, ...]:
    start = Path(pattern.anchor)
    try:
        matches = start.glob(str(pattern.relative_to(pattern.anchor)))
        files = tuple(sorted(match for match in matches if match.is_file()))
    except (ValueError, OSError) as error:
        raise UserError(Problem(what=f"can't be searched: {error}", file=str(pattern))) from error
    if not files:
        raise UserError(Problem(what="no file matches this pattern", file=str(pattern)))
    return files


def _hint_for_missing(path: Path) -> str:
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    if not missing.parent.is_dir():
        return ""
    names = [entry.name for entry in missing.parent.iterdir()]
    near = nearest(missing.name, names)
    if near:
        return f"did you mean {missing.parent / near}?"
    if missing != path:
        return f"there is no folder {missing}"
    return f"{missing.parent} holds {', '.join(sorted(names)[:8]) or 'nothing'}"


def number_rows(files: Sequence[Path], read: Read) -> Iterator[tuple[int, Row]]:
    """The rows of all files; in the second file, numbers go on where the first one's ended.

    Stops yielding at the first broken row, but reads on to report the others with it.

    Raises:
        UserError: broken rows, at most `MOST_PROBLEMS` of them, or a file without rows.
    """
    problems: list[Problem] = []
    before = 0
    for file in files:
        number = 0
        for result in _faults_as_problems(read(file)):
            if isinstance(result, Problem):
                problems.append(result)
                if len(problems) == MOST_PROBLEMS:
                    raise UserError(problems)
                continue
            number, row = result
            if not problems:
                yield before + number, row
        if number == 0 and not problems:
            hint = "leave it out, or write its rows again"
            raise UserError(Problem(what="holds no rows", hint=hint, file=str(file)))
        before += number
    if problems:
        raise UserError(problems)


def _faults_as_problems(
    results: Iterator[tuple[int, Row] | Problem],
) -> Iterator[tuple[int, Row] | Problem]:
    try:
        yield from results
    except UserError as error:
        yield from error.problems


def place_row(files: Sequence[Path], read: Read, number: int) -> tuple[str, int]:
    """(file, row number in that file) of a number that `number_rows` gave.

    Reads the files again unless there is only one: meant for messages, not for every row.
    """
    before = 0
    for file in files[:-1]:
        last = 0
        for result in read(file):
            if not isinstance(result, Problem):
                last = result[0]
                if before + last >= number:
                    return str(file), number - before
        before += last
    return str(files[-1]), number - before


def fingerprint_files(files: Sequence[Path], *options: str) -> str:
    """SHA-256 over the options and the bytes of every file in order; names do not count.

    Raises:
        UserError: a file can't be read.
    """
    digest = hashlib.sha256(repr(options).encode())
    for file in files:
        try:
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256")
        except OSError as error:
            raise UserError(_unreadable(file, error)) from error
        digest.update(content.digest())
    return digest.hexdigest()


def read_lines(file: Path) -> Iterator[tuple[int, str] | Problem]:
    r"""(line number from 1, line with its line end); a problem for a line that is not UTF-8.

    Lines end at `\n` alone; a byte order mark is dropped; `.gz` is unpacked.

    Raises:
        UserError: the file can't be read or unpacked.
    """
    offset = 0
    try:
        with _opened(file) as stream:
            for number, line in enumerate(stream, start=1):
                data = line.removeprefix(_UTF8_MARK) if number == 1 else line
                try:
                    yield number, data.decode()
                except UnicodeDecodeError as error:
                    start = offset + len(line) - len(data) + error.start
                    yield _not_utf8(file, number, start, data[error.start], line)
                offset += len(line)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(_unreadable(file, error)) from error


def count_lines(files: Sequence[Path]) -> int | None:
    """Lines of all files; None where one is packed or can't be read."""
    total = 0
    for file in files:
        if file.name.lower().endswith(".gz"):
            return None
        try:
            with file.open("rb") as stream:
                last = b""
                while block := stream.read(_BLOCK_BYTES):
                    total += block.count(b"\n")
                    last = block
        except OSError:
            return None
        total += bool(last) and not last.endswith(b"\n")
    return total


def read_text(file: Path) -> str:
    """The whole file.

    Raises:
        UserError: it can't be read or is not UTF-8.
    """
    lines = []
    for line in read_lines(file):
        if isinstance(line, Problem):
            raise UserError(line)
        lines.append(line[1])
    return "".join(lines)


def _opened(file: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")


def _unreadable(file: Path, error: Exception) -> Problem:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Problem(what=f"can't be read: {reason}", file=str(file))


def _not_utf8(file: Path, number: int, offset: int, byte: int, line: bytes) -> Problem:
    utf16 = number == 1 and line.startswith(_UTF16_MARKS)
    return Problem(
        what=f"is not UTF-8: byte 0x{byte:02x} at offset {offset} of the file",
        hint=f"convert it: iconv -f {'UTF-16' if utf16 else 'ISO-8859-1'} -t UTF-8",
        file=str(file),
        line=number,
    )
