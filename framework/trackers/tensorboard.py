"""Metrics for TensorBoard, as event files in the run directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.core.extras import missing_extra
from framework.core.problems import Problem

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """TensorBoard event files under `output.dir/tensorboard`."""

    _writers: list[SummaryWriter] = field(default_factory=list, init=False, repr=False)

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """tensorboard must be installed."""
        return missing_extra("tensorboard", "tensorboard", key="tracking.trackers")

    def start(
        self, run_name: str, output_dir: Path, settings: Mapping[str, Any], num_steps_done: int
    ) -> None:
        """See `protocols.Tracker`; steps that are done again are shown once."""
        import json

        from torch.utils.tensorboard.writer import SummaryWriter

        writer = SummaryWriter(str(output_dir / "tensorboard"), purge_step=num_steps_done + 1)
        writer.add_text("recipe", f"```json\n{json.dumps(settings, indent=2, default=str)}\n```")
        self._writers.append(writer)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `protocols.Tracker`."""
        for writer in self._writers:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

    def finish(self, *, is_complete: bool) -> None:
        """See `protocols.Tracker`."""
        while self._writers:
            self._writers.pop().close()
