"""What a step came to -> `metrics.jsonl`, `samples.jsonl`, the display and the trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from framework.engine.console import TrainingDisplay
from framework.engine.left_out import LeftOutStep
from framework.recipe.schema import Tracking
from framework.runs.run_directory import RunDirectory
from framework.runs.seen_samples import seen_samples


class StepRecords:
    """What a run writes down of its steps; only the main process does."""

    def __init__(
        self,
        directory: RunDirectory,
        tracking: Tracking,
        display: TrainingDisplay,
        num_steps: int,
    ) -> None:
        self._directory, self._display = directory, display
        self._log_steps, self._num_steps = tracking.log_steps, num_steps
        self._trackers = tracking.trackers if directory.is_main else ()

    def start_trackers(self, output_dir: Path, num_steps_done: int) -> None:
        """Has trackers expect rows of later steps."""
        for tracker in self._trackers:
            settings = self._directory.read("settings.json")
            tracker.start(output_dir.name, output_dir, settings, num_steps_done)

    def finish_trackers(self, *, is_complete: bool) -> None:
        """Also after a failure; `is_complete` where the trained model is written."""
        for tracker in self._trackers:
            tracker.finish(is_complete=is_complete)

    def add_step(self, row: Mapping[str, float]) -> None:
        """Numbers of training, shown at each step and written at each `tracking.log_steps`."""
        self._display.step(row)
        if row["step"] % self._log_steps == 0 or row["step"] == self._num_steps:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> None:
        """Numbers that were measured after a step, its own among them."""
        self._directory.append("metrics.jsonl", row)
        shown = {name: value for name, value in row.items() if name != "step"}
        for tracker in self._trackers:
            tracker.log(int(row["step"]), shown)

    def add_samples(self, step: int, ids: Sequence[str], losses: Sequence[float] | None) -> None:
        """What step `step`, from 1, saw."""
        self._directory.append("samples.jsonl", seen_samples(step, ids, losses))

    def add_left_out(self, one: LeftOutStep) -> None:
        """A step that wasn't taken."""
        losses = {} if one.losses is None else {"losses": one.losses}
        row = {"step": one.step, "ids": one.ids, **losses, "left_out": True}
        self._directory.append("samples.jsonl", row)
