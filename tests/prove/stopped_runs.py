"""Runs that get a signal at an exact place, each in one process or in a group of them.

    accelerate launch ... tests/prove/stopped_runs.py RUNS.json

`RUNS.json` holds a list of the fields of `StoppedRun`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class SignalInStep:
    """Sends this process SIGTERM as a model is about to run in a step's first pass, or in a later
    one of the same step, when gradients of the first are there.

    Raises:
        AssertionError: the run ended without that.
    """

    def __init__(self, samples: Path, step: int, place: str) -> None:
        self.samples, self.step = samples, step
        self.is_in_window = place == "middle of an accumulation window"
        self.is_sent = False

    def __call__(self, module: Any, inputs: Any) -> None:
        """Before any module runs."""
        if self.is_sent or self._num_done() != self.step - 1:
            return
        if self.is_in_window and all(one.grad is None for one in module.parameters()):
            return
        self.is_sent = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _num_done(self) -> int:
        return self.samples.read_bytes().count(b"\n") if self.samples.exists() else 0


def train(stopped: StoppedRun) -> list[int]:
    """Trains until the end; the steps after which it was stopped."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    world = World.from_env()
    overrides = [*stopped.overrides, f"output.dir={stopped.output_dir}"]
    if stopped.copy_of and world.is_main:
        go_back(Path(stopped.copy_of), Path(stopped.output_dir), stopped.copied_step)
    ends: list[int] = []
    for step, place in stopped.stops:
        sent = SignalInStep(Path(stopped.output_dir) / "samples.jsonl", step, place)
        handle = None
        if world.rank == stopped.rank:
            handle = register_module_forward_pre_hook(sent)
        try:
            run(stopped.recipe, overrides)
        except Interrupted as error:
            ends.append(int(re.findall(r"after step (\d+)", str(error))[0]))
        finally:
            if handle is not None:
                handle.remove()
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
