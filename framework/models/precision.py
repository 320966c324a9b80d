"""Name of a dtype -> a context in which matrix products are computed in it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast(device: torch.device, dtype: str | None) -> AbstractContextManager[Any]:
    """Matrix products in `dtype` (`bfloat16`, `float16`); None: in the weights' own."""
    if dtype is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, dtype))
