"""Spans of a step and modules that run -> the time of each, every moment counted once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from framework.core.spans import Name
from framework.profiling.peaks import PhasePeaks
from framework.profiling.tracing import Tracing

RECOMPUTED = "computed again"
"""Part of the backward pass: forward passes of layers under gradient checkpointing."""
_WHOLE = ("reference", "answers")
"""Phases whose forward passes aren't told apart."""


class Place(NamedTuple):
    """Where in a step time goes."""

    phase: str
    """A span's name, `forward`, or `rest`: what no span holds."""
    part: str = ""
    """Of the model, in `forward` and `backward`."""


REST = Place("rest")
_OF_SPANS: dict[Name, Place] = {"backward": Place("backward", "loss")}
"""A backward pass begins with what comes last in the forward pass."""


class Clock:
    """Tells the time of each place; implements `spans.Listener`.

    On a GPU it waits for the device wherever one place ends and another begins.

    Args:
        peaks: told of the outermost spans; None: nobody is.
        tracing: marks the places in the trace of a profiler that is running; None: there is none.
    """

    def __init__(
        self,
        device: torch.device,
        peaks: PhasePeaks | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._device, self._peaks, self._tracing = device, peaks, tracing
        self._stack: list[Place] = []
        self._last = 0.0
        self.seconds: dict[Place, float] = {}
        """Of all steps so far."""

    @property
    def place(self) -> Place:
        """Where the step is now."""
        return self._stack[-1] if self._stack else REST

    @contextmanager
    def step(self) -> Iterator[None]:
        """All time within counts."""
        self._last = self._now()
        self._push(REST)
        try:
            yield
        finally:
            self._pop()

    def enter(self, name: Name) -> None:
        """See `spans.Listener`."""
        if self._peaks is not None and len(self._stack) == 1:
            self._peaks.begin()
        self._push(_OF_SPANS.get(name, Place(name)))

    def leave(self) -> None:
        """See `spans.Listener`."""
        phase = self.place.phase
        self._pop()
        if self._peaks is not None and len(self._stack) == 1:
            self._peaks.end(phase)

    def enter_part(self, part: str) -> None:
        """A module begins its forward pass."""
        phases = {one.phase for one in self._stack}
        if not phases.isdisjoint(_WHOLE):
            self._push(self.place)
        elif "backward" in phases:
            self._push(Place("backward", RECOMPUTED))
        else:
            self._push(Place("forward", part))

    def enter_reference(self) -> None:
        """Another model than the one that is trained begins its forward pass."""
        self._push(Place("reference"))

    def leave_part(self) -> None:
        """It ends."""
        self._pop()

    def turn(self, place: Place) -> None:
        """The backward pass comes to another part; nothing happens anywhere else."""
        if self.place.phase == "backward" and self.place.part != RECOMPUTED:
            self._settle()
            self._stack[-1] = place

    def _push(self, place: Place) -> None:
        self._settle()
        self._stack.append(place)
        if self._tracing is not None:
            self._tracing.enter(" ".join(filter(None, place)))

    def _pop(self) -> None:
        if self._tracing is not None:
            self._tracing.leave()
        self._settle()
        self._stack.pop()

    def _settle(self) -> None:
        """What has passed belongs to the innermost place."""
        now = self._now()
        if self._stack:
            self.seconds[self.place] = self.seconds.get(self.place, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()
