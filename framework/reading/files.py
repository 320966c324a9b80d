"""Paths as recipes write them -> files, their lines and rows with positions, and their hash."""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from framework.core.atomic import known_sha256
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

Read = Callable[[Path, int], Iterator["tuple[int, Row | Problem]"]]
"""(file, start) -> its rows from number `start` on, numbered from 1 in rising order; a problem
stands in the place of a broken row."""

Count = Callable[[Path], int]
"""A file -> the number of its last row, 0 when it has none."""

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


def number_rows(
    files: Sequence[Path], read: Read, count: Count, start: int = 1
) -> Iterator[tuple[int, Row | Problem]]:
    """The rows of all files from number `start` on, a problem in the place of a broken one.

    In the second file, numbers go on where the first one's ended. Files before `start` are
    counted, not read.

    Raises:
        UserError: a file can't be read any further, or holds no row that can be read.
    """
    before = 0
    for file in files:
        if start > before + 1 and file != files[-1]:
            last = _last_number(file, count)
            if before + last < start:
                before += last
                continue
        before += yield from _rows_of_file(file, read, before, max(1, start - before))


def _rows_of_file(
    file: Path, read: Read, before: int, start: int
) -> Generator[tuple[int, Row | Problem], None, int]:
    """Yields the rows with `before` added to their numbers; returns the last one's own number."""
    number = num_broken = num_rows = 0
    first: Problem | None = None
    for number, row in read(file, start):
        num_rows += 1
        if isinstance(row, Problem):
            num_broken += 1
            first = first or row
        yield before + number, row
    if start == 1 and num_rows == 0:
        raise UserError(_no_rows(file))
    if start == 1 and first and num_broken == num_rows:
        what = f"not one of its {num_rows:,} rows can be read; the first: {first.what}"
        hint, line, column = first.hint, first.line, first.column
        raise UserError(Problem(what=what, hint=hint, file=str(file), line=line, column=column))
    return number


def place_row(files: Sequence[Path], count: Count, number: int) -> tuple[str, int]:
    """(file, row number in that file) of a number that `number_rows` gave.

    Counts the rows of the files before it, once per file.
    """
    before = 0
    for file in files[:-1]:
        last = _last_number(file, count)
        if before + last >= number:
            return str(file), number - before
        before += last
    return str(files[-1]), number - before


def last_number(rows: Iterator[tuple[int, object]]) -> int:
    """Counts by reading, for files whose rows can't be told apart without it."""
    return max((number for number, _ in rows), default=0)


def _last_number(file: Path, count: Count) -> int:
    try:
        state = file.stat()
    except OSError as error:
        raise UserError(_unreadable(file, error)) from error
    last = _counted(count, file, state.st_size, state.st_mtime_ns)
    if last == 0:
        raise UserError(_no_rows(file))
    return last


@functools.lru_cache(maxsize=4096)
def _counted(count: Count, file: Path, size: int, modified: int) -> int:
    """`size` and `modified` are there to forget what was counted when the file changes."""
    return count(file)


def _no_rows(file: Path) -> Problem:
    hint = "leave it out, or write its rows again"
    return Problem(what="holds no rows", hint=hint, file=str(file))


def fingerprint_files(files: Sequence[Path], *options: str) -> str:
    """SHA-256 over the options and the bytes of every file in order; names do not count.

    Raises:
        UserError: a file can't be read.
    """
    digest = hashlib.sha256(repr(options).encode())
    for file in files:
        try:
            content = known_sha256(file)
        except OSError as error:
            raise UserError(_unreadable(file, error)) from error
        digest.update(bytes.fromhex(content))
    return digest.hexdigest()


def byte_lines(file: Path, start: int = 1) -> Iterator[tuple[int, bytes]]:
    r"""(line number from 1, line with its line end) from line `start` on.

    Lines end at `\n` alone; a byte order mark is dropped; `.gz` is unpacked.

    Raises:
        UserError: the file can't be read or unpacked, with the line after which.
    """
    number = start - 1
    try:
        with _opened(file) as stream:
            next(itertools.islice(stream, number, number), None)
            for line in stream:
                number += 1
                yield number, line.removeprefix(_UTF8_MARK) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(_unreadable(file, error, number)) from error


def decode_line(file: Path, number: int, line: bytes) -> str | Problem:
    """The line as text; a problem if it is not UTF-8 or holds a NUL."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return _not_utf8(file, number, error.start, line)
    return _with_nul(file, number, text) if "\0" in text else text


def read_lines(file: Path, start: int = 1) -> Iterator[tuple[int, str | Problem]]:
    """(line number from 1, line with its line end, or what is wrong with it) from `start` on.

    Raises:
        UserError: see `byte_lines`.
    """
    for number, line in byte_lines(file, start):
        yield number, decode_line(file, number, line)


def last_line(file: Path) -> int:
    """Number of the last line that is not blank, as `is_blank` has it; 0 when there is none.

    Raises:
        UserError: see `byte_lines`.
    """
    last = 0
    for number, line in byte_lines(file):
        # The first byte tells for nearly every line; only what may be white space is decoded.
        if b"!" <= line[:1] <= b"~" or not is_blank(line.decode(errors="replace")):
            last = number
    return last


def is_blank(text: str) -> bool:
    """Whether the line holds nothing but white space."""
    return not text or text.isspace()


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
    lines: list[str] = []
    for _, line in read_lines(file):
        if isinstance(line, Problem):
            raise UserError(line)
        lines.append(line)
    return "".join(lines)


def _opened(file: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb")


def _unreadable(file: Path, error: Exception, number: int = 0) -> Problem:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    after = f" after line {number:,}" if number else ""
    return Problem(what=f"can't be read{after}: {reason}", file=str(file))


def _not_utf8(file: Path, number: int, offset: int, line: bytes) -> Problem:
    utf16 = number == 1 and line.startswith(_UTF16_MARKS)
    return Problem(
        what=f"is not UTF-8: byte 0x{line[offset]:02x} at offset {offset} of the line",
        hint=f"convert it: iconv -f {'UTF-16' if utf16 else 'ISO-8859-1'} -t UTF-8",
        file=str(file),
        line=number,
    )


def _with_nul(file: Path, number: int, text: str) -> Problem:
    what = f"holds a NUL character, at offset {text.index(chr(0))} of the line"
    hint = "is it binary, or UTF-16? convert that: iconv -f UTF-16 -t UTF-8"
    return Problem(what=what, hint=hint, file=str(file), line=number)
