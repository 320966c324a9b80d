"""A step -> its trace, in which the clock's places are marked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

MOST_PASSES = 2
"""Forward and backward passes of a step that are traced: one has some 90,000 events and 25 MB where
a model has 30 layers, and all are alike."""
_PASS, _END = "loss", "optimizer"
"""Places with which a pass begins, and what follows the last."""


class Tracing:
    """PyTorch's profiler at work."""

    def __init__(self, profiler: profile, activities: list[ProfilerActivity]) -> None:
        self._profiler, self._activities = profiler, activities
        self._marks: list[record_function] = []
        self._num_passes = 0

    def enter(self, name: str) -> None:
        """A place, within those that were entered and not left."""
        if name == _PASS:
            self._num_passes += 1
            if self._num_passes == MOST_PASSES + 1:
                self._profiler.toggle_collection_dynamic(False, self._activities)
        elif name == _END and self._num_passes > MOST_PASSES:
            self._profiler.toggle_collection_dynamic(True, self._activities)
            self._num_passes = 0
        mark = record_function(name)
        mark.__enter__()
        self._marks.append(mark)

    def leave(self) -> None:
        """The innermost one."""
        self._marks.pop().__exit__(None, None, None)


@contextmanager
def traced(path: Path, device: torch.device) -> Iterator[Tracing]:
    """Writes a Chrome trace of what happens within, memory included.

    Args:
        path: the file, which is replaced.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, profile_memory=True) as profiler:
        yield Tracing(profiler, activities)
    profiler.export_chrome_trace(str(path))
