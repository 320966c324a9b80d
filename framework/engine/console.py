"""Metrics of each logged step -> a progress bar, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0


class TrainingDisplay:
    """Shows how a run goes; only the main process has one that prints."""

    def __init__(self, num_steps: int, first_step: int, *, is_main: bool) -> None:
        self.num_steps = num_steps
        self.first_step = first_step
        self.is_main = is_main
        self.started = time.monotonic()
        self.last_line = -float("inf")
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (is_main and sys.stderr.isatty()),
        )
        self.task = self.bar.add_task(
            "", total=num_steps, completed=first_step, loss=float("nan"), speed=0.0
        )

    def resume_at(self, step: int) -> None:
        """An earlier run did the first `step` steps."""
        self.first_step = step
        self.bar.update(self.task, completed=step)
        self.say(f"going on after step {step}")

    def __enter__(self) -> TrainingDisplay:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, metrics: Mapping[str, float]) -> None:
        """One optimizer step is done."""
        step, loss, speed = int(metrics["step"]), metrics["loss"], metrics["tokens_per_second"]
        self.bar.update(self.task, completed=step, loss=loss, speed=speed)
        now = time.monotonic()
        due = now - self.last_line >= _SECONDS_BETWEEN_LINES or step == self.num_steps
        if self.is_main and self.bar.disable and due:
            self.last_line = now
            done = max(step - self.first_step, 1)
            left = (now - self.started) / done * (self.num_steps - step)
            self.say(
                f"step {step}/{self.num_steps}  loss {loss:.4f}  {speed:,.0f} tokens/s  "
                f"ETA {timedelta(seconds=round(left))}"
            )

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.is_main:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
