"""What a run leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framework.core.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run."""

    output_dir: Path
    num_steps: int
    """Optimizer steps done, over all restarts."""
    training_seconds: float
    """Spent in optimizer steps, over all restarts."""
    eval_loss: float | None
    """Of the last evaluation; nats per trained token."""
    before: Sequence[Evaluation] = ()
    """What the evaluators found before training."""
    after: Sequence[Evaluation] = ()
    final_dir: Path | None = None
    """The trained adapter or model, in Hugging Face layout."""
    report_path: Path | None = None
