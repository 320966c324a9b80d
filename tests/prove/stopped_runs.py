"""Runs that get a signal at an exact place, each in one process or in a group of them.

    accelerate launch ... tests/prove/stopped_runs.py RUNS.json

`RUNS.json` holds a list of the fields of `StoppedRun`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fault_plugin import Fault, installed

from framework.core.problems import Interrupted
from framework.core.world import World
from framework.train import run

PLACES = ("middle of an epoch", "end of an epoch", "middle of an accumulation window")


@dataclass(frozen=True, kw_only=True)
class StoppedRun:
    """A run, and where it is stopped before it is started again."""

    recipe: str
    overrides: Sequence[str]
    output_dir: str
    stops: Sequence[tuple[int, str]] = ()
    """(optimizer step in which SIGTERM comes, one of `PLACES`), in order."""
    rank: int = 0
    """The process that gets it."""
    copy_of: str = ""
    """Run that it goes on from; empty: it begins anew."""
    copied_step: int = 0
    """Checkpoint of that run from which it goes on."""


def train(stopped: StoppedRun) -> list[int]:
    """Trains until the end; the steps after which it was stopped."""
    world = World.from_env()
    overrides = [*stopped.overrides, f"output.dir={stopped.output_dir}"]
    if stopped.copy_of and world.is_main:
        go_back(Path(stopped.copy_of), Path(stopped.output_dir), stopped.copied_step)
    ends: list[int] = []
    for step, place in stopped.stops:
        fault = Fault(
            rank=stopped.rank,
            step=step - (ends[-1] if ends else stopped.copied_step),
            kind="asked to stop",
            in_window=place == "middle of an accumulation window",
        )
        try:
            with installed(fault, world.rank):
                run(stopped.recipe, overrides)
        except Interrupted as error:
            ends.append(int(re.findall(r"after step (\d+)", str(error))[0]))
    run(stopped.recipe, overrides)
    return ends


def go_back(whole: Path, copy: Path, step: int) -> None:
    """A copy of a run as its checkpoint after so many steps left it."""
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "final")
    for checkpoint in (copy / "checkpoints").glob("step-*"):
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)


def read(path: Path) -> Iterable[StoppedRun]:
    """The runs of a file."""
    for fields in json.loads(path.read_text(encoding="utf-8")):
        stops = [(step, place) for step, place in fields.pop("stops")]
        yield StoppedRun(**fields, stops=stops)


if __name__ == "__main__":
    for one in read(Path(sys.argv[1])):
        train(one)
