"""Shipped recipes -> which trainer works with which adapter, quantizer, optimizer and strategy.

Run as a program it tries every combination and writes docs/support-matrix.md, table by table. With
`--resume` it doesn't run again what the page says ran, as long as `framework check` has nothing
against it: to go on after an interruption, and to add what is new.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import importlib.metadata
import io
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from matrix_cells import DEFAULT_STRATEGY, NONE, RUNS, Cell, Found, Matrix, is_bug, make_models

from framework.core import atomic
from framework.core.protocols.strategies import Choosing
from framework.core.registries import registry
from framework.core.world import World

PAGE = Path(__file__).parents[1] / "docs" / "support-matrix.md"
TRIED = "Tried "
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "torchao",
    "accelerate",
    "deepspeed",
)
INTRODUCTION = """\
# What works with what

Every cell was tried: the trainer's shipped recipe, with that adapter, quantizer, optimizer and
strategy put in.

- `runs`: it trained a step of a tiny model on the machine that stands below the table, and was
  saved.
- A number: `framework check` refuses it, before anything is loaded or downloaded, for the reason
  with that number below the table; its hint says what to write instead.
- `needs GPU`: it is refused on a machine without one.

Models of the quantizers `awq`, `fp8` and `gptq` are quantised already. Every adapter stands over
every quantizer with each trainer; optimizers with one trainer; strategies other than
`{strategy}`, in {processes} processes, with one trainer and every adapter and quantizer, and with
two adapters and every trainer and optimizer.

Written by `make matrix`; the tests try a sample of the cells again.
"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Two kinds of component against each other, by the fields of `Cell` that name them."""

    rows: str
    columns: str
    fixed: Cell = field(default_factory=Cell)
    """What all its cells have besides."""
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Field -> its only names here, where not all are."""

    @property
    def heading(self) -> str:
        """As it stands in the page."""
        others = [name for name in ("trainer", "optimizer", "strategy") if name not in self._axes]
        fixed = ", ".join(f"{name} {vars(self.fixed)[name]}" for name in others)
        return f"## {self.rows} x {self.columns}: {fixed}"

    @property
    def is_launched(self) -> bool:
        """Whether its cells run in processes of a launcher's."""
        return self.fixed.strategy != DEFAULT_STRATEGY

    def names(self, axis: str) -> Sequence[str]:
        """What stands at the rows or columns."""
        return self.chosen.get(axis) or names_of(axis)

    def cell(self, row: str, column: str) -> Cell:
        """One of its cells."""
        return dataclasses.replace(self.fixed, **{self.rows: row, self.columns: column})

    def cells(self) -> Iterator[Cell]:
        """All of them."""
        for row in self.names(self.rows):
            for column in self.names(self.columns):
                yield self.cell(row, column)

    @property
    def _axes(self) -> tuple[str, str]:
        return self.rows, self.columns


def names_of(axis: str) -> Sequence[str]:
    """Every name that a field of `Cell` can have; a strategy that stands for others is one of them
    when it runs."""
    kinds = {"strategy": "strategies"}
    kind = registry(kinds.get(axis, f"{axis}s"))
    names = [name for name in kind.names() if not isinstance(kind.get(name), Choosing)]
    return (NONE, *names) if axis == "quantizer" else names


def tables() -> list[Table]:
    """All of the page; a component that is added is in them by itself."""
    found = [
        Table(rows="adapter", columns="quantizer", fixed=Cell(trainer=trainer))
        for trainer in names_of("trainer")
    ]
    found.append(Table(rows="adapter", columns="optimizer"))
    two = {"adapter": ("full", "lora")}
    for strategy in names_of("strategy"):
        fixed = Cell(strategy=strategy)
        if strategy != DEFAULT_STRATEGY:
            found.append(Table(rows="adapter", columns="quantizer", fixed=fixed))
            found.append(Table(rows="trainer", columns="adapter", fixed=fixed, chosen=two))
            found.append(Table(rows="optimizer", columns="adapter", fixed=fixed, chosen=two))
    return found


def introduction() -> str:
    """What stands before the tables."""
    return INTRODUCTION.format(strategy=DEFAULT_STRATEGY, processes=NUM_LAUNCHED)


def written(table: Table, found: Mapping[Cell, Found], tried: Sequence[str]) -> str:
    """The table's part of the page.

    Args:
        tried: lines that say when and where its cells were.
    """
    columns = table.names(table.columns)
    numbers: dict[str, int] = {}
    lines = [
        table.heading,
        "",
        f"| {table.rows} | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for row in table.names(table.rows):
        cells = [_short(found[table.cell(row, column)], numbers) for column in columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}" for reason, number in numbers.items())]
    return "\n".join([*lines, *([""] if numbers else []), *tried]) + "\n"


def read(page: str) -> dict[str, str]:
    """Heading -> the table's part of a page."""
    parts = page.split("\n## ")[1:]
    return {f"## {part.splitlines()[0]}": f"## {part.rstrip()}\n" for part in parts}


def cells_in(table: Table, part: str) -> dict[Cell, Found]:
    """What `written` wrote of it."""
    lines = part.splitlines()
    grid = [
        [text.strip() for text in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ]
    reasons = dict(line.split(". ", 1) for line in lines if line[:1].isdigit())
    found: dict[Cell, Found] = {}
    for row, *texts in grid[1:]:
        for column, text in zip(grid[0][1:], texts, strict=True):
            numbers = text.split(", ")
            known = all(number in reasons for number in numbers)
            reason = tuple(reasons[number] for number in numbers) if known else (text,)
            found[table.cell(row, column)] = reason
    return found


def _short(found: Found, numbers: dict[str, int]) -> str:
    if len(found) == 1 and "`" not in found[0] and not is_bug(found):
        return found[0]
    return ", ".join(str(numbers.setdefault(reason, len(numbers) + 1)) for reason in found)


def _machine() -> str:
    """When and where, for the page."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return (
        f"{TRIED}{dt.datetime.now(dt.UTC):%Y-%m-%d} on {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} CPUs: Python {platform.python_version()}, "
        f"{versions}."
    )


# ---- one table


def _tried(number: int, before: str) -> tuple[str, str]:
    """A table's part of the page and what was said, as the strategy of its cells demands.

    Args:
        number: of `tables()`.
        before: what the page has of it; what ran there is not run again.
    """
    table = tables()[number]
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        tempfile.TemporaryDirectory() as name,
    ):
        _make_models(Path(name))
        if table.is_launched:
            return _launched(number, before, Path(name))
        return _try(table, before, Path(name)), said.getvalue()


def _make_models(folder: Path) -> None:
    from conftest import make_tiny_model

    (tiny := folder / "tiny").mkdir()
    make_models(make_tiny_model(tiny), folder)


def _try(table: Table, before: str, folder: Path) -> str:
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    ran = {cell for cell, found in cells_in(table, before).items() if found == RUNS}
    matrix = Matrix(folder)
    found = {cell: matrix.outcome(cell, is_known_to_run=cell in ran) for cell in table.cells()}
    tried = [line for line in before.splitlines() if line.startswith(TRIED)]
    has_new = any(one == RUNS and cell not in ran for cell, one in found.items())
    now = [_machine()] if has_new or not tried else []
    return written(table, found, list(dict.fromkeys([*tried, *now])))


NUM_LAUNCHED = 2
"""Processes in which a strategy has something to share out."""
LAUNCHER = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(NUM_LAUNCHED)]


def _launched(number: int, before: str, folder: Path) -> tuple[str, str]:
    """`_try` in a launcher's processes; no part if one died."""
    part = folder / "part.md"
    part.write_text(before, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, "-m", *LAUNCHER, __file__, "--table", str(number), "--part", str(part)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return "" if process.returncode else part.read_text(encoding="utf-8"), process.stdout


# ---- the page


def _results(parts: Mapping[str, str], num_processes: int) -> Iterator[tuple[Table, str, str]]:
    """Every table with its part of the page, empty if it died, and what was said, as they come.

    Args:
        parts: those that the page has.
    """
    everything = list(enumerate(tables()))
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=spawned) as pool:
        started = {
            pool.submit(_tried, number, parts.get(table.heading, "")): table
            for number, table in everything
            if not table.is_launched
        }
        for done in as_completed(started):
            yield started[done], *done.result()
    # A launcher's processes are as many as may work at the same time.
    for number, table in everything:
        if table.is_launched:
            yield table, *_tried(number, parts.get(table.heading, ""))


def _write_page(num_processes: int, *, resume: bool) -> bool:
    """Tries every table and writes each as soon as it is whole; False if there are bugs."""
    parts = read(PAGE.read_text(encoding="utf-8")) if resume else {}
    good = True
    for table, text, said in _results(dict(parts), num_processes):
        bugs = [cell for cell, found in cells_in(table, text).items() if is_bug(found)]
        if bugs or not text:
            good = False
            print(said, *bugs, sep="\n")
        print(f"{table.heading}: {len(bugs)} bugs" if text else f"{table.heading}: died")
        parts[table.heading] = text or parts.get(table.heading, "")
        ordered = [parts[one.heading] for one in tables() if parts.get(one.heading)]
        atomic.write_file(PAGE, "\n".join([introduction(), *ordered]))
    return good


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resume", action="store_true", help="keep what the page says ran")
    parser.add_argument("--processes", type=int, default=2, help="tables at the same time")
    parser.add_argument("--table", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.table is None:
        return 0 if _write_page(asked.processes, resume=asked.resume) else 1
    before = asked.part.read_text(encoding="utf-8")
    text = _try(tables()[asked.table], before, asked.part.parent)
    if World.from_env().is_main:
        asked.part.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
