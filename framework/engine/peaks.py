"""The most memory that this process has taken."""

from __future__ import annotations

import resource
import sys

import torch


def peak_bytes(device: torch.device) -> dict[str, int]:
    """Of the machine's memory, and of a GPU's what tensors have held, by their names in metrics."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"peak_rss_bytes": peak if sys.platform == "darwin" else peak * 1024}
    if device.type == "cuda":
        found["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return found
