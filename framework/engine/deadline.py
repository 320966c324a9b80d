"""Time limits of a run -> whether it has to save its state now."""

from __future__ import annotations

import time
from collections import deque

from framework.core.world import World
from framework.recipe.schema import Trainer

SAFETY = 2.0
"""Steps and saves may take so much longer than the longest of the last ones."""
LEAVING_SECONDS = 10.0
"""What processes need to part and end after the save."""
_BYTES_PER_PARAMETER = 12
_BYTES_PER_SECOND = 50e6
_NUM_MEASURED = 20


class Deadline:
    """The earliest end that is set to a run, and what has to be done before it.

    Ends are held against the monotonic clock: one that is set later changes nothing.
    """

    def __init__(
        self, trainer: Trainer, world: World, started: float, num_trained_parameters: int
    ) -> None:
        """
        Args:
            started: when the command was, on the monotonic clock.
            num_trained_parameters: on a slow disk they are saved as slowly as is assumed before a
                save was measured.
        """
        minutes, ends = trainer.time_limit_minutes, list[tuple[float, str]]()
        if minutes is not None:
            ends.append((started + 60 * minutes, f"trainer.time_limit_minutes: {minutes:g}"))
        if world.end_time is not None:
            left = world.end_time - time.time()
            ends.append((time.monotonic() + left, "the job's time limit (SLURM_JOB_END_TIME)"))
        self._at, self.name = min(ends, default=(float("inf"), ""))
        self._steps, self._saves, self._evaluations = (
            deque[float](maxlen=_NUM_MEASURED) for _ in range(3)
        )
        self._unmeasured_save = num_trained_parameters * _BYTES_PER_PARAMETER / _BYTES_PER_SECOND

    def note_step(self, seconds: float) -> None:
        """An optimizer step took so long."""
        self._steps.append(seconds)

    def note_evaluation(self, seconds: float) -> None:
        """An evaluation took so long."""
        self._evaluations.append(seconds)

    def note_save(self, seconds: float) -> None:
        """A checkpoint took so long."""
        self._saves.append(seconds)

    def margin_seconds(self, *, evaluates: bool) -> float:
        """What one more step, with an evaluation or without, and a save may take."""
        step = max(self._steps, default=0.0)
        save = max(self._saves, default=self._unmeasured_save)
        evaluation = max(self._evaluations, default=0.0) if evaluates else 0.0
        return SAFETY * (step + evaluation + save) + LEAVING_SECONDS

    def is_near(self, *, evaluates: bool) -> bool:
        """Whether the end may come before one more step is saved."""
        return self._at - time.monotonic() < self.margin_seconds(evaluates=evaluates)
