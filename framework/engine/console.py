"""Metrics of each logged step -> a progress bar, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from framework.core.metrics import trainer_metrics

_SECONDS_BETWEEN_LINES = 5.0
_MOST_METRICS = 3
"""Of a trainer's own, in the line of a step; the others are in `metrics.jsonl`."""


def metrics_text(metrics: Mapping[str, float], prefix: str = "") -> str:
    """`loss 0.6931  reward_accuracy 0.75`: the loss and the first of the trainer's own metrics.

    Args:
        prefix: of the names, such as `eval_`; it is left out.
    """
    own = list(trainer_metrics(metrics).items())[:_MOST_METRICS]
    texts = [f"{name.removeprefix(prefix)} {value:.3g}" for name, value in own]
    return "  ".join([f"loss {metrics[prefix + 'loss']:.4f}", *texts])


class TrainingDisplay:
    """Shows how a run goes, and keeps what it says in a file.

    Args:
        num_steps: optimizer steps of the whole run.
        log_path: the file; None on processes other than the main one, which say nothing.
    """

    def __init__(self, num_steps: int, log_path: Path | None) -> None:
        self.num_steps = num_steps
        self.first_step = 0
        self.log_path = log_path
        self.started = time.monotonic()
        self.last_line = -float("inf")
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[losses]}  {task.fields[speed]:,.0f} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=log_path is None or not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task("", start=False, total=num_steps, losses="", speed=0.0)

    def resume_at(self, step: int, finished: Path | None) -> None:
        """An earlier run did the first `step` steps.

        Args:
            finished: the model that all steps ended in; None: something is left to do.
        """
        self.first_step = step
        self.bar.update(self.task, completed=step)
        if finished is None:
            self.say(f"going on after step {step}")
        else:
            self.say(
                f"the run is finished, after step {step}: its model is in {str(finished)!r}; to "
                "train again, write another output.dir"
            )

    def __enter__(self) -> TrainingDisplay:
        self.started = time.monotonic()
        self.bar.start()
        self.bar.start_task(self.task)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, metrics: Mapping[str, float]) -> None:
        """One optimizer step is done."""
        step, speed = int(metrics["step"]), metrics["tokens_per_second"]
        losses = metrics_text(metrics)
        self.bar.update(self.task, completed=step, losses=losses, speed=speed)
        now = time.monotonic()
        if now - self.last_line < _SECONDS_BETWEEN_LINES and step != self.num_steps:
            return
        self.last_line = now
        left = (now - self.started) / max(step - self.first_step, 1) * (self.num_steps - step)
        self._line(
            f"step {step}/{self.num_steps}  {losses}  {speed:,.0f} tokens/s  "
            f"ETA {timedelta(seconds=round(left))}",
            shown=self.bar.disable,
        )

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._line(text, shown=True)

    def _line(self, text: str, *, shown: bool) -> None:
        if self.log_path is None:
            return
        if shown:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        with self.log_path.open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n")
