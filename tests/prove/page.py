"""Rows of proofs <-> docs/proofs.md: the table, where it was measured, and when."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prove.rows import Row

PAGE = Path(__file__).parents[2] / "docs" / "proofs.md"
LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "deepspeed",
    "safetensors",
    "tokenizers",
)
HEAD = (
    "| proof | what is tried | tries | failures | time | CPU time | date | notes |",
    "|---|---|---|---|---|---|---|---|",
)
INTRODUCTION = """\
# What is proven

Each row is a promise and how often it was tried; a failure is a try that went otherwise. Real runs
in real processes are killed, stopped and damaged, and what they end with is compared with what a
run that nobody touched ends with.

    make prove                      # all of it
    make prove ONLY="kill9 faults"  # some of it: the other rows stay as they are
    make prove RESUME=1             # only what this page has no row of

A row that stays was measured on the same machine with the same versions, else it is left out. Every
try is drawn from a seed, so that the same tries are made again. `make test` runs short versions of
`kill9`, `resume`, `resume-two-unpacked`, `damaged`, `faults-saving` and `faults-sigterm`; tests/e2e
and tests/distributed have others.

Not proven here: a power cut (`kill -9` leaves the system's write cache whole), a real network disk,
more than four processes, GPUs.
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A row, with what it cost."""

    name: str
    """By which `ONLY` selects it."""
    row: Row
    seconds: float
    cpu_seconds: float
    """Of all processes of the proof."""
    date: str

    def line(self) -> str:
        """Its line of the table."""
        row = self.row
        times = (f"{self.seconds:.0f} s", f"{self.cpu_seconds:.0f} s")
        cells = (self.name, row.case, row.tries, row.failures, *times, self.date, row.notes)
        return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def environment() -> str:
    """The machine and the versions, as they stand above the table."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return (
        f"Measured on {_cpu_model()}, {os.cpu_count()} cores, {platform.system()}; "
        f"Python {platform.python_version()}, {versions}."
    )


def today() -> str:
    """The date of a row."""
    return dt.datetime.now(dt.UTC).date().isoformat()


def written_lines(page: Path = PAGE) -> dict[str, str]:
    """Name -> line of what the page says was measured here."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if environment() not in text:
        return {}
    lines = [line for line in text.splitlines() if line.startswith("| ") and line not in HEAD]
    return {line.split(" | ", 1)[0].removeprefix("| "): line for line in lines}


def write_page(lines: Iterable[str], page: Path = PAGE) -> None:
    """The page with these lines of its table."""
    parts = [INTRODUCTION, f"{environment()}\n", "\n".join([*HEAD, *lines]) + "\n"]
    page.write_text("\n".join(parts), encoding="utf-8")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
