"""Phases of a step -> the most memory that was taken in each."""

from __future__ import annotations

from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_FORGET_PEAK = "5"
"""What makes Linux forget the peak of a process (proc(5))."""


class PhasePeaks:
    """The peak of each phase: of a GPU's memory what tensors hold, of a CPU's what is resident.

    Empty where the system doesn't tell, as on any other than Linux.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._tells = self._cuda is not None or (device.type == "cpu" and _can_forget())
        self.bytes: dict[str, int] = {}
        """Phase -> its peak, over all steps."""

    def begin(self) -> None:
        """What was before doesn't count."""
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        elif self._tells:
            _CLEAR.write_text(_FORGET_PEAK, encoding="ascii")

    def end(self, phase: str) -> None:
        """The phase is over."""
        if self._tells:
            self.bytes[phase] = max(self._peak(), self.bytes.get(phase, 0))

    def _peak(self) -> int:
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda)
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _can_forget() -> bool:
    try:
        _CLEAR.write_text(_FORGET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True
