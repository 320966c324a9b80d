"""JSON Lines file <-> its rows; those of the last steps are found from its end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK_BYTES = 1 << 16
"""Read at once from the end."""


def read_rows(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """(The objects of a file, the numbers from 1 of its other lines); empty without the file."""
    rows: list[dict[str, Any]] = []
    broken: list[int] = []
    if not path.is_file():
        return rows, broken
    # Bytes, so that a line separator inside of a text ends no line.
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            row = _row(line)
            if row is not None:
                rows.append(row)
            elif line.strip():
                broken.append(number)
    return rows, broken


def left_out_lines(path: Path, broken: Sequence[int]) -> list[str]:
    """What a user has to know of lines that `read_rows` could not read."""
    if not broken:
        return []
    if len(broken) == 1:
        return [f"{path.name}: line {broken[0]} can't be read and is left out"]
    return [f"{path.name}: {len(broken):,} lines can't be read and are left out"]


def rows_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Rows of later steps than `step`, of a file whose steps never go down; no more of it is read
    than these. Lines that can't be read are left out; empty without the file."""
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        return [row for _, row in _after(stream, step)][::-1]


def cut_after(path: Path, step: int) -> None:
    """Takes rows of later steps than `step`, and a last line that was cut short, out of a file
    whose steps never go down; no more of it is read than these."""
    with path.open("r+b") as stream:
        end = next((start + len(line) for start, line in _from_the_end(stream)), 0)
        for start, _ in _after(stream, step):
            end = start
        stream.truncate(end)


def _after(stream: BinaryIO, step: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(Where it starts, a row), the last first, of steps after `step`."""
    for start, line in _from_the_end(stream):
        row = _row(line)
        if row is None or not isinstance(row.get("step"), int):
            continue
        if row["step"] <= step:
            return
        yield start, row


def _from_the_end(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(Where it starts, a whole line), the last first."""
    position = stream.seek(0, os.SEEK_END)
    # What follows the last line feed was cut short, and ends no line.
    rest, is_whole = b"", False
    while position:
        size = min(_BLOCK_BYTES, position)
        position = stream.seek(position - size)
        first, *lines = (stream.read(size) + rest).split(b"\n")
        start = position + len(first) + 1 + sum(len(line) + 1 for line in lines)
        for line in reversed(lines):
            start -= len(line) + 1
            if is_whole:
                yield start, line + b"\n"
            is_whole = True
        rest = first
    if is_whole:
        yield 0, rest + b"\n"


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
