"""What a run does besides when it repeats another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from framework.planning.plan import Plan
    from framework.runs.run_directory import RunDirectory


def _nothing(plan: Plan, directory: RunDirectory) -> None:
    """An ordinary run repeats none."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Where a run stops to look at the one that it repeats."""

    before_training: Callable[[Plan, RunDirectory], None] = _nothing
    """Called on every process when the lock is written and nothing is trained yet."""
    last_step: int | None = None
    """The run ends after it, with nothing saved; None: it goes on."""
    has_differed: Callable[[], bool] | None = None
    """Whether a step was not as it was, after which the run ends, with nothing saved; asked after
    each step, on the main process. None: nobody compares."""


NO_REHEARSAL = Rehearsal()
"""Of an ordinary run."""
