"""sweep.yaml -> runs of one recipe that differ in a few keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from framework.core.problems import Problem
from framework.core.settings import setting
from framework.recipe.typed_file import read_typed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs of one recipe."""

    runs: tuple[tuple[str, ...], ...] = setting(not_empty=True)
    """The `key=value` overrides of each run, `output.dir` among them."""


def read_sweep(path: Path) -> Sweep:
    """The sweep that a YAML file describes.

    Raises:
        UserError: everything that is wrong with it, each with file, line and key.
    """
    return read_typed(path, Sweep, _conflicts, "runs: [[trainer.seed=1, output.dir=runs/1]]")


def _conflicts(sweep: Sweep) -> Iterator[Problem]:
    seen: dict[tuple[str, ...], int] = {}
    for number, run in enumerate(sweep.runs):
        if run in seen:
            what = f"is the same run as runs[{seen[run]}]"
            yield Problem(key=f"runs[{number}]", what=what, hint="keep one")
        seen.setdefault(run, number)
