"""Metrics for Weights & Biases."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from framework.core.atomic import write_file
from framework.core.extras import missing_extra
from framework.core.problems import Problem, RunFailed

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class WandB:
    """Weights & Biases, online or as offline files under `output.dir/wandb`. All starts of a run
    are one run there, and of a step that is done again it keeps the numbers that it has."""

    project: str = "framework"
    """Project that the run belongs to."""
    name: str | None = None
    """Name of the run; None: the output directory's."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes files that `wandb sync` uploads later, those of each start in order."""

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """wandb must be installed."""
        return missing_extra("wandb", "wandb", key="tracking.trackers")

    def start(
        self, run_name: str, output_dir: Path, settings: Mapping[str, Any], num_steps_done: int
    ) -> None:
        """See `protocols.Tracker`.

        Raises:
            RunFailed: nobody is logged in, or the service refuses the run.
        """
        import wandb
        from wandb.errors import Error

        try:
            wandb.init(
                id=_kept_id(output_dir / "wandb" / "run_id.txt"),
                resume="allow",
                project=self.project,
                name=self.name or run_name,
                mode=self.mode,
                dir=str(output_dir),
                config=dict(settings),
            )
        except Error as error:
            raise RunFailed(
                Problem(
                    key="tracking.trackers",
                    what=f"`wandb` can't begin: {error}",
                    hint="log in with `wandb login`, set WANDB_API_KEY, or write mode: offline",
                )
            ) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `protocols.Tracker`."""
        import wandb

        wandb.log(dict(metrics), step=step)

    def finish(self, *, is_complete: bool) -> None:
        """See `protocols.Tracker`."""
        import wandb

        wandb.finish(exit_code=0 if is_complete else 1)


def _kept_id(path: Path) -> str:
    """The id of the run whose folder this is, the same at each of its starts."""
    if not path.is_file():
        write_file(path, uuid.uuid4().hex)
    return path.read_text(encoding="utf-8")
