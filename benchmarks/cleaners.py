"""Cleaners -> how well they find planted items, and how fast and in how much memory they look.

    python benchmarks/cleaners.py [ROWS.json] [--seed N]

ROWS.json is a file in the alpaca format for the speed; without it, made-up rows are read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "unit" / "cleaners"))

import measures  # noqa: E402
import planted  # noqa: E402

from framework.cleaners.contamination import Contamination  # noqa: E402
from framework.cleaners.control_characters import ControlCharacters  # noqa: E402
from framework.cleaners.encoding import Encoding  # noqa: E402
from framework.cleaners.exact_duplicates import ExactDuplicates  # noqa: E402
from framework.cleaners.filter import Filter  # noqa: E402
from framework.cleaners.language import Language  # noqa: E402
from framework.cleaners.length import Length  # noqa: E402
from framework.cleaners.near_duplicates import NearDuplicates  # noqa: E402
from framework.cleaners.personal_data import PersonalData  # noqa: E402
from framework.cleaners.refusals import Refusals  # noqa: E402
from framework.cleaners.repetition import Repetition  # noqa: E402
from framework.core.problems import Problem  # noqa: E402
from framework.core.protocols.data import Cleaner  # noqa: E402
from framework.core.samples import NumberedSample  # noqa: E402
from framework.data_sources.json import Json  # noqa: E402
from framework.formatters.alpaca import Alpaca  # noqa: E402

CLEANERS: tuple[Cleaner, ...] = (
    ExactDuplicates(),
    NearDuplicates(),
    Contamination(action="report"),
    PersonalData(),
    Refusals(),
    Language(keep=("en",)),
    Length(min_words=3, max_words=400),
    Repetition(),
    Encoding(),
    ControlCharacters(),
    Filter(keep="num_words > 3 and not matches(lower(text), 'https?://')"),
)
NUM_MEMORY_ROWS = (20_000, 100_000)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", help="a file of alpaca rows")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        name, num_rows = arguments.memory_of
        print(_bytes_after(name, int(num_rows)))
        return
    _print_quality(arguments.seed)
    _print_speed(_rows(arguments.rows))
    _print_memory()


def _print_quality(seed: int) -> None:
    print(f"{'planted':20} {'items':>6} {'found':>6} {'precision':>10} {'recall':>7}")
    found = {name: suite(seed, 5000) for name, suite in measures.SUITES.items()}
    for name, quality in {**found, **measures.personal_data(seed, 200)}.items():
        print(
            f"{name:20} {quality.num_planted:6} {quality.num_found:6} "
            f"{quality.precision:10.4f} {quality.recall:7.4f}"
        )


def _rows(file: str | None) -> list[NumberedSample]:
    if file is None:
        return planted.duplicates(1, 2000, "near").rows
    source, read = Json(path=str(Path(file).absolute())), Alpaca()
    return [
        NumberedSample(dataset="train0", row=number, sample=read(row))
        for number, row in source.rows()
        if not isinstance(row, Problem)
    ]


def _print_speed(rows: list[NumberedSample]) -> None:
    held_out = rows[: len(rows) // 10]
    print(f"\n{len(rows):,} rows, one process")
    print(f"{'cleaner':20} {'start, s':>8} {'rows/s':>10} {'findings':>9}")
    for cleaner in CLEANERS:
        started = time.perf_counter()
        find = cleaner.start(lambda: iter(held_out))
        find(rows[-1])
        find = cleaner.start(lambda: iter(held_out))
        ready = time.perf_counter()
        num_found = sum(find(one) is not None for one in rows)
        seconds = time.perf_counter() - ready
        name = type(cleaner).__name__
        print(f"{name:20} {ready - started:8.2f} {len(rows) / seconds:10,.0f} {num_found:9}")


def _print_memory() -> None:
    """Of what remembers rows: measured in processes of their own, as the difference of two."""
    print(f"\n{'remembers':20} {'bytes for each further row':>26}")
    few, many = NUM_MEMORY_ROWS
    for name in ("ExactDuplicates", "NearDuplicates"):
        peaks = [
            int(
                subprocess.run(
                    [sys.executable, __file__, "--memory-of", name, str(num_rows)],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for num_rows in NUM_MEMORY_ROWS
        ]
        print(f"{name:20} {(peaks[1] - peaks[0]) / (many - few):26,.0f}")


def _bytes_after(name: str, num_rows: int) -> int:
    find = next(one for one in CLEANERS if type(one).__name__ == name).start(measures.nothing)
    for one in _fresh_rows(num_rows):
        find(one)
    # A process's `ru_maxrss` begins with its parent's; the resident pages are its own.
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _fresh_rows(num_rows: int) -> Iterator[NumberedSample]:
    writer = planted.Writer(1)
    for row in range(1, num_rows + 1):
        yield NumberedSample(dataset="train0", row=row, sample=writer.row())


if __name__ == "__main__":
    main()
