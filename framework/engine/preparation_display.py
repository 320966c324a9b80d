"""Rows read so far -> a progress bar, or a plain line now and then where there is no terminal."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_UPDATES = 0.1


class PreparationDisplay:
    """Shows on stderr how far a preparation is; says nothing about data that is in the cache.

    It is the `progress` of `prepare_data`, inside of `with`.

    Args:
        seconds_between_lines: without a terminal; what takes less time says nothing.
    """

    def __init__(self, *, seconds_between_lines: float = SECONDS_BETWEEN_LINES) -> None:
        self.seconds_between_lines = seconds_between_lines
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("preparing {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not sys.stderr.isatty(),
        )
        self.task: TaskID | None = None
        self.dataset = ""
        self.num_rows = 0
        self.total: int | None = None
        self.started = self.shown = 0.0

    def __enter__(self) -> PreparationDisplay:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self.task is not None:
            self._update(finished=failure is None)
            self.bar.stop()

    def __call__(self, dataset: str, num_rows: int, total: int | None) -> None:
        """`num_rows` rows of the dataset are read, of `total` where that is known."""
        if dataset != self.dataset or num_rows < self.num_rows:
            self._begin(dataset, total)
        self.num_rows = num_rows
        now = time.monotonic()
        if self.bar.disable:
            if now - self.shown >= self.seconds_between_lines:
                self.shown = now
                self._say(now - self.started)
        elif now - self.shown >= _SECONDS_BETWEEN_UPDATES:
            self.shown = now
            self._update()

    def _begin(self, dataset: str, total: int | None) -> None:
        if self.task is None:
            self.bar.start()
        else:
            self._update(finished=True)
        self.dataset, self.num_rows, self.total = dataset, 0, total
        self.started = self.shown = time.monotonic()
        self.task = self.bar.add_task(dataset, total=total)

    def _update(self, *, finished: bool = False) -> None:
        assert self.task is not None
        # A source may have announced more rows than it had: blank lines are none.
        total = self.num_rows if finished else self.total
        self.bar.update(self.task, completed=self.num_rows, total=total)

    def _say(self, seconds: float) -> None:
        speed = self.num_rows / max(seconds, 1e-9)
        text = f"preparing {self.dataset}: {self.num_rows:,}"
        if self.total is None:
            text += f" rows, {speed:,.0f} rows/s"
        else:
            left = timedelta(seconds=round((self.total - self.num_rows) / speed))
            text += f" of {self.total:,} rows, {speed:,.0f} rows/s, ETA {left}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Speed(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or task.completed / max(task.elapsed or 0, 1e-9)
        return Text(f"{speed:,.0f} rows/s")
