"""What a run leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from framework.core.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which of a run's weights are in its final model."""

    step: int
    """Optimizer steps before them."""
    num_steps: int
    """That the run did."""
    metric: str | None = None
    """By which they are the best of the checkpoints; None: they are the last."""
    value: float | None = None
    """Of the metric."""

    def __str__(self) -> str:
        if self.metric is None:
            return f"the model after step {self.step}, the last one"
        best = f"the best checkpoint: {self.metric} {self.value:.4f}"
        return f"the model after step {self.step} of {self.num_steps}, {best}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run, or the beginning of one that a rehearsal ended."""

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
    origin: Origin | None = None
    """Of the final model."""
    is_whole: bool = True
    """False: it was a rehearsal, which has seen enough; there is no final model."""
